"""Sets of images: how names are spelt, where labels are, what lies beside images, and what is too large."""

import json
import os
import shutil
import struct
import zipfile
import zlib

import numpy as np
from support.images import content, expected, loaded, picture, png_bytes

from attacks.processes import log_of, log_problem, row, run

NAMES = [f"{('ant', 'bee', 'cat')[i % 3]}/{i}.png" for i in range(12)]
LISTED = [(7 * i) % 5 for i in range(12)]
SPELLINGS = [lambda n: n, lambda n: n.replace("/", "\\"), lambda n: f"./{n}", lambda n: f"/{n}"]
SPELLINGS += [lambda n: n.replace("/", "//"), lambda n: f"ant/../{n}"]
JUNK = {
    "Thumbs.db": b"x",
    ".DS_Store": b"x",
    "__MACOSX/ant/._0.png": b"x",
    ".git/1.png": b"x",
    "readme.txt": b"x",
}
FIT = ["fit", "--config=digits/vp_epsilon", "--trainer.fast_dev_run=true", "--trainer.accelerator=cpu"]
FIT += ["--trainer.enable_progress_bar=false", "--model.network.base_channels=8", "--data=ImageDataModule"]


def images(quick, folder, rng):
    """Data sets that are laid out in every odd way are read rightly, or refused in one message."""
    yield layouts(folder / "layouts", 30 if quick else 400, rng)
    yield strange_entries(folder / "entries", 1 if quick else 8, rng)
    yield bombs(folder / "bombs", 1 if quick else 10, rng)


def layouts(folder, number, rng):
    """Right sets: every spelling of names, folders around them, places of the list and other files."""
    wrong = []
    for turn in range(number):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        form, prefix = rng.choice(["zip", "folder"]), rng.choice(["", "photos/", "my/photos/"])
        spell = rng.choice(SPELLINGS if form == "zip" else SPELLINGS[:1])
        files = {prefix + spell(name): png_bytes(i) for i, name in enumerate(NAMES)}
        files |= {prefix + name: data for name, data in JUNK.items() if rng.random() < 0.3}
        labels = [i % 3 for i in range(12)]
        if rng.random() < 0.6:
            place = rng.choice([p for p in ("", "photos/", "my/", "my/photos/") if prefix.startswith(p)])
            listing, labels = rng.choice(SPELLINGS), LISTED
            pairs = [
                [listing(f"{prefix}{n}".removeprefix(place)), y] for n, y in zip(NAMES, LISTED, strict=True)
            ]
            rng.shuffle(pairs)
            files[f"{place}dataset.json"] = json.dumps({"labels": pairs}).encode()
        path = write(folder, form, files)
        if form == "folder" and rng.random() < 0.5:
            (path / prefix / "ant" / "link").symlink_to(rng.choice(["..", ".", "../..", "../bee"]))
        try:
            found = content(loaded(path, in_memory=rng.choice([True, False]), val_fraction=0.3))
            if found != expected([picture(i) for i in range(12)], labels):
                wrong.append(f"{turn}: {sorted(files)}: other images or labels")
        except Exception as error:
            wrong.append(f"{turn}: {sorted(files)}: {type(error).__name__}: {error}")
    return row("folders and zips laid out differently", number, wrong, "images and labels compared")


def write(folder, form, files):
    if form == "zip":
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return folder / "set.zip"
    for name, data in files.items():
        (file := folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder / "set"


def deep_png():
    """A PNG with three channels of 16 bits."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)
    body = zlib.compress((b"\0" + bytes(48)) * 6)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def listing(path, labels):
    path.write_text(json.dumps({"labels": labels}))


PAIRS = [list(pair) for pair in zip(NAMES, LISTED, strict=True)]
STRANGE = {
    "a pipe": lambda p: os.mkfifo(p / "ant/x.png"),
    "a pipe for labels": lambda p: os.mkfifo(p / "dataset.json"),
    "a broken link": lambda p: (p / "ant/x.png").symlink_to("nowhere"),
    "an endless device": lambda p: (p / "ant/x.png").symlink_to("/dev/zero"),
    "colour of 16 bits": lambda p: (p / "ant/x.png").write_bytes(deep_png()),
    "a colour map of 16 bits": lambda p: (p / "ant/x.ppm").write_bytes(b"P6 8 6 65535\n" + bytes(288)),
    "PostScript": lambda p: (p / "ant/x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n"
    ),
    "a class without images": lambda p: (p / "dog").mkdir(),
    "an image beside the classes": lambda p: (p / "x.png").write_bytes(png_bytes(20)),
    "an image listed twice": lambda p: listing(p / "dataset.json", [*PAIRS, [f"./{NAMES[0]}", 3]]),
    "an image that is not listed": lambda p: listing(p / "dataset.json", PAIRS[1:]),
    "a label of a billion": lambda p: listing(p / "dataset.json", [*PAIRS[1:], [NAMES[0], 10**9]]),
    "a label of 10^30": lambda p: listing(p / "dataset.json", [*PAIRS[1:], [NAMES[0], 10**30]]),
    "a label below zero": lambda p: listing(p / "dataset.json", [*PAIRS[1:], [NAMES[0], -1]]),
    "a boolean label": lambda p: listing(p / "dataset.json", [*PAIRS[1:], [NAMES[0], True]]),
    "a fractional label": lambda p: listing(p / "dataset.json", [*PAIRS[1:], [NAMES[0], 0.5]]),
    "one-hot labels": lambda p: listing(p / "dataset.json", [[name, [0, 1]] for name in NAMES]),
    "labels under another key": lambda p: (p / "dataset.json").write_text('{"label": []}'),
    "a list of some labels": lambda p: listing(p / "ant/dataset.json", [["0.png", 1]]),
}


def strange_entries(folder, number, rng):
    """One thing wrong in a folder of images that is given to the command line."""
    wrong, cases = [], 0
    for what, change in STRANGE.items():
        for _ in range(number):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            change(write(folder, "folder", {name: png_bytes(i) for i, name in enumerate(NAMES)}))
            flags = [f"--data.in_memory={rng.choice(['true', 'false'])}", "--data.image_size=8"]
            code = run(folder, [*FIT, "--data.path=set", *flags], seconds=60)
            cases, log = cases + 1, log_of(folder)
            if code != 2 or log_problem(log):
                wrong.append(f"{what}: {code}: {log[-300:]}")
    return row("folders of images with something strange in them", cases, wrong, "one message, none waits")


def bombs(folder, number, rng):
    """Archives that would take gigabytes, given to a process with one gigabyte more than it has."""
    wrong, cases = [], 0
    folder.mkdir(parents=True)
    for turn in range(number):
        size = rng.randint(300, 1500) << 20
        for what in ("a PNG of zeros", "a list of spaces", "an array", "a header", "labels"):
            path = bomb(folder, what, size)
            (folder / "log.txt").unlink(missing_ok=True)
            code = run(folder, [*FIT, f"--data.path={path.name}"], memory=1 << 30, seconds=60)
            cases, log = cases + 1, log_of(folder)
            path.unlink()
            if code != 2 or log_problem(log):
                wrong.append(f"{turn}: {what} of {size >> 20} MiB: {code}: {log[-300:]}")
    return row("archives that are small and would become large", cases, wrong, "refused by their sizes")


def bomb(folder, what, size):
    """A small archive of that kind."""
    pixels = np.zeros((12, 8, 6), np.uint8)
    if what in ("a PNG of zeros", "a list of spaces"):
        name, byte = ("x.png", b"\0") if "PNG" in what else ("dataset.json", b" ")
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for i in range(12):
                archive.writestr(f"{i}.png", png_bytes(i))
            with archive.open(name, "w", force_zip64=True) as file:
                for _ in range(size >> 20):
                    file.write(byte * (1 << 20))
        return folder / "a.zip"
    shape = {"an array": (2**40 // 48, 8, 6), "a header": (10**12, 8, 6), "labels": (12, 8, 6)}[what]
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            head(file, shape, "|u1")
            file.write(pixels.tobytes() if what != "an array" else b"")
            for _ in range(size >> 20 if what == "an array" else 0):
                file.write(bytes(1 << 20))
        if what == "labels":
            with archive.open("labels.npy", "w", force_zip64=True) as file:
                head(file, (size // 8,), "<i8")
                for _ in range(size >> 20):
                    file.write(bytes(1 << 20))
    return folder / "a.npz"


def head(file, shape, kind):
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
