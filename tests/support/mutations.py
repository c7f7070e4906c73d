"""A generator of mistakes: configurations, command lines and data files that are nearly right.

`mistakes(config)`, `wrong_commands(args)` and `wrong_data(folder)` are strategies of `Mistake`s. Some must be
refused, since nothing can be meant by them: a misspelt key or class, a file cut off. Others may be refused or
not (a value that is out of range here and not there, a key left out that has a default), but never with a
traceback. `complaint` says what is wrong with how a mistake was met.
"""

import copy
import io
import math
import zipfile
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

ELSEWHERE = (
    "torch.nn.Linear",
    "scorelight.Foo",
    "no.such.Module",
    "VPSDEE",
    "",
    "DDIM",
    "UNet",
    "VPSDE",
    "Adam",
)
NUMBERS = (-1, 0, -0.5, 1e30, -1e30, math.nan, math.inf, 2**70, 1e-30, 0.5, 3)
OTHER_TYPES = ("words", [], {}, [1, "x"], {"a": 1}, True, None, "1e", "-", 1.5)


@dataclass
class Mistake:
    """One thing wrong."""

    kind: str
    key: str
    given: str
    what: Any = field(repr=False)
    """The configuration, the arguments, or the path of the data."""
    certain: bool
    """Whether it must be refused."""


def complaint(mistake, code, stderr):
    """What a user would complain of: nothing if it was no mistake, or was met by one message that names it.

    Args:
        mistake: What was wrong.
        code: Exit code.
        stderr: What was printed to stderr.
    """
    if "Traceback" in stderr or code not in (0, 1, 2):
        return "a traceback"
    if mistake.certain and code != 2:
        return "accepted"
    if code and stderr.count("scorelight: error:") != 1:
        return "not one message"
    named = [part for part in (mistake.key.rpartition(".")[2], mistake.given) if part]
    return "not named" if code == 2 and named and not any(part in stderr for part in named) else ""


# Configurations


def paths(value, path=()):
    """Every key path of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def at(config, path):
    for key in path:
        config = config[key]
    return config


def changed(config, path, value):
    """A copy with another value there."""
    config = copy.deepcopy(config)
    at(config, path[:-1])[path[-1]] = value
    return config


def siblings(config, numbers):
    """Pairs of paths of numbers in the same place that are not equal."""
    pairs = combinations(numbers, 2)
    return [(a, b) for a, b in pairs if a[:-1] == b[:-1] and at(config, a) != at(config, b)]


def dotted(path):
    return ".".join(str(key) for key in path if key != "init_args")


@st.composite
def misspelt(draw, word):
    """One letter left out, doubled or exchanged."""
    i = draw(st.integers(1, len(word) - 1))
    return draw(
        st.sampled_from(
            [word[:i] + word[i + 1 :], word[:i] + word[i - 1] + word[i:], word[:i] + "q" + word[i:]]
        )
    )


def named_keys(config):
    """Paths of the keys that a user writes."""
    return [p for p in paths(config) if isinstance(p[-1], str) and p[-1] not in ("class_path", "init_args")]


def class_paths(config):
    return [p for p in paths(config) if p[-1] == "class_path"]


def numbers_in(config):
    """Paths of the numbers but for the seed."""
    places = [*paths(config)]
    return [p for p in places if isinstance(at(config, p), int | float) and p[-1] != "seed_everything"]


def misspelt_key(draw, config):
    path = draw(st.sampled_from(named_keys(config)))
    wrong = draw(misspelt(path[-1]))
    mistaken = copy.deepcopy(config)
    parent = at(mistaken, path[:-1])
    others = set(parent)
    parent[wrong] = parent.pop(path[-1])
    return Mistake("key", dotted(path), wrong, mistaken, wrong not in others)


def misspelt_class(draw, config):
    if not (classes := class_paths(config)):
        return None
    path = draw(st.sampled_from(classes))
    wrong = draw(misspelt(at(config, path)))
    return Mistake("class", dotted(path[:-1]), wrong, changed(config, path, wrong), True)


def class_of_another_kind(draw, config):
    if not (classes := class_paths(config)):
        return None
    path = draw(st.sampled_from(classes))
    wrong = draw(st.sampled_from(ELSEWHERE))
    return Mistake("elsewhere", dotted(path[:-1]), wrong, changed(config, path, wrong), False)


def missing_key(draw, config):
    path = draw(st.sampled_from(named_keys(config)))
    mistaken = copy.deepcopy(config)
    del at(mistaken, path[:-1])[path[-1]]
    return Mistake("missing", dotted(path), "", mistaken, False)


def wrong_list(draw, config):
    if not (lists := [p for p in paths(config) if isinstance(at(config, p), list)]):
        return None
    path = draw(st.sampled_from(lists))
    wrong = draw(st.sampled_from([[], [0], [-1], [1] * 9, [1.5], ["a"], [[1]], [3, 5, 7]]))
    return Mistake("list", dotted(path), str(wrong), changed(config, path, wrong), False)


def other_data(draw, config):
    wrong = draw(st.sampled_from(("ToyDataModule", "DigitsDataModule")))
    network = at(config, ("model", "network", "class_path"))
    return Mistake("data", "model.network", network, changed(config, ("data",), {"class_path": wrong}), False)


def exchanged_numbers(draw, config):
    if not (pairs := siblings(config, numbers_in(config))):
        return None
    one, two = draw(st.sampled_from(pairs))
    mistaken = changed(changed(config, one, at(config, two)), two, at(config, one))
    return Mistake("exchanged", dotted(one), two[-1], mistaken, False)


def wrong_number(draw, config):
    if not (numbers := numbers_in(config)):
        return None
    path = draw(st.sampled_from(numbers))
    wrong = draw(st.sampled_from(NUMBERS))
    return Mistake("number", dotted(path), str(wrong), changed(config, path, wrong), False)


def multiplied_number(draw, config):
    if not (numbers := numbers_in(config)):
        return None
    path = draw(st.sampled_from(numbers))
    wrong = at(config, path) * draw(st.sampled_from([2, 7, 1000]))
    return Mistake("times", dotted(path), str(wrong), changed(config, path, wrong), False)


def value_of_another_type(draw, config):
    path = draw(st.sampled_from(named_keys(config)))
    wrong = draw(st.sampled_from(OTHER_TYPES))
    return Mistake("type", dotted(path), str(wrong), changed(config, path, wrong), False)


MUTATIONS = {
    "key": misspelt_key,
    "class": misspelt_class,
    "elsewhere": class_of_another_kind,
    "missing": missing_key,
    "type": value_of_another_type,
    "data": other_data,
    "exchanged": exchanged_numbers,
    "list": wrong_list,
    "number": wrong_number,
    "times": multiplied_number,
}
"""What is wrong: the last three may ask for more memory than there is."""
KINDS = tuple(MUTATIONS)


@st.composite
def mistakes(draw, config, kinds=KINDS):
    """One mistake in a configuration, of one of the kinds; of another type where a kind has no place."""
    kind = draw(st.sampled_from(kinds))
    return MUTATIONS[kind](draw, config) or value_of_another_type(draw, config)


# Command lines

WRONG_VALUES = ("", "-", "words", "-1", "0", "nan", "1e400", "{", "[1", "a.b.c", "null", "é")
EXTRA_ARGUMENTS = ("extra", "--", "-x", "--no-such-flag", "=", "--=3", "fit", "🙂")
LINE_KINDS = ("command", "flag", "value", "no value", "left out", "twice", "in between")


@st.composite
def wrong_commands(draw, args):
    """One mistake in the arguments of a command; those after its name are a position's or come in pairs."""
    args = list(args)
    flags = [i for i, arg in enumerate(args) if arg.startswith("--")]
    kind = draw(st.sampled_from(LINE_KINDS))
    if kind == "command":
        wrong = draw(misspelt(args[0]))
        return Mistake(kind, "", wrong, [wrong, *args[1:]], True)
    i = draw(st.sampled_from(flags))
    name = args[i].lstrip("-")
    if kind == "flag":
        wrong = "--" + draw(misspelt(name))
        return Mistake(kind, name, wrong, [*args[:i], wrong, *args[i + 1 :]], True)
    if kind == "value":
        wrong = draw(st.sampled_from(WRONG_VALUES))
        return Mistake(kind, name, wrong, [*args[: i + 1], wrong, *args[i + 2 :]], False)
    if kind == "in between":
        wrong = draw(st.sampled_from(EXTRA_ARGUMENTS))
        return Mistake(kind, "", "", [*args[:i], wrong, *args[i:]], False)
    wrong = {
        "no value": [*args[: i + 1], *args[i + 2 :]],
        "left out": [*args[:i], *args[i + 2 :]],
        "twice": [*args, *args[i : i + 2]],
    }
    return Mistake(kind, "", "", wrong[kind], False)


# Data

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
ARRAYS = {
    "float images": IMAGES / 255,
    "images with NaN": np.where(IMAGES > 250, np.nan, IMAGES.astype(np.float32)),
    "16-bit images": IMAGES.astype(np.uint16),
    "no images": IMAGES[:0],
    "two channels": IMAGES.repeat(2, -1),
    "a single image": IMAGES[0, :, :, 0],
    "objects": np.array([None] * 3),
    "words": np.array(["a", "b"]),
    "a number": np.array(3),
}
LABELS = {
    "too few labels": np.arange(5),
    "labels below zero": np.arange(12) - 3,
    "fractional labels": np.arange(12) / 2,
    "a label as a word": np.array(["one"] * 12),
}
PICTURES = {
    "another size": lambda: Image.new("L", (9, 8)),
    "16 bits": lambda: Image.new("I;16", (8, 8)),
    "colour": lambda: Image.new("RGB", (8, 8), (200, 0, 0)),
    "transparent": lambda: Image.new("LA", (8, 8), (9, 100)),
}


def png(image):
    image.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@st.composite
def wrong_data(draw, folder):
    """An .npz, a folder or a zip of twelve 8×8 images with one thing wrong, written to the folder.

    A flipped bit of a zip or an .npz may not matter; what is truncated does.
    """
    form = draw(st.sampled_from(("npz", "folder", "zip")))
    place, rng = Path(folder) / f"data.{form}", draw(st.randoms(use_true_random=False))
    if form == "npz":
        kind = draw(st.sampled_from((*ARRAYS, *LABELS, "another name", "cut off", "flipped", "empty")))
        write_npz(place, kind)
    else:
        kind = draw(st.sampled_from((*PICTURES, "cut off", "flipped", "empty", "nothing", "text")))
        files = image_files(kind)
        write_zip(place, files) if form == "zip" else write_folder(place, files)
    if kind in ("cut off", "flipped", "empty"):
        corrupt(place / "05.png" if form == "folder" else place, kind, rng)
    return Mistake(f"{form}: {kind}", "data", place.name, place, kind != "flipped")


def corrupt(path, kind, rng):
    """Truncate a file, flip one of its bits, or empty it."""
    content = bytearray(path.read_bytes())
    size = len(content) - 20  # without what ends a PNG but holds no pixel
    if kind == "flipped":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        del content[rng.randrange(1, size) if kind == "cut off" else 0 :]
    path.write_bytes(content)


def image_files(kind):
    """Name and content of the image files, the sixth of them of that kind."""
    files = {f"{i:02d}.png": png(Image.fromarray(x[:, :, 0])) for i, x in enumerate(IMAGES)}
    if kind in PICTURES:
        files["05.png"] = png(PICTURES[kind]())
    if kind == "text":
        files["05.png"] = b"no image\n" * 20
    return {"README.txt": b"no images here"} if kind == "nothing" else files


def write_npz(place, kind):
    arrays = {"images": ARRAYS.get(kind, IMAGES), "labels": LABELS.get(kind, np.arange(12))}
    np.savez(place, **({"pictures": IMAGES} if kind == "another name" else arrays))


def write_folder(place, files):
    place.mkdir(exist_ok=True)
    for old in place.iterdir():
        old.unlink()
    for name, content in files.items():
        (place / name).write_bytes(content)


def write_zip(place, files):
    with zipfile.ZipFile(place, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
