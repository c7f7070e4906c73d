"""Images as examples: orientation, depth, formats."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.images import array, content, loaded, picture

from scorelight import ConfigurationError

ORIENTATION = 0x0112


def save(image, path, orientation=None, **options):
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    image.save(path, exif=exif, **options)


def turned(orientation, size=(8, 6)):
    """A picture that EXIF's orientation makes 8×6, and what it is then, by Pillow itself."""
    size = size[::-1] if orientation >= 5 else size
    image = picture(orientation, size)
    buffer = io.BytesIO()
    save(image, buffer, orientation, format="PNG")
    return image, ImageOps.exif_transpose(Image.open(buffer))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("form", ["png", "tif", "webp"])
def test_the_orientation_in_exif_is_applied(form, in_memory, tmp_path):
    """All eight of them in a set whose images have one size only after it."""
    expected = []
    for orientation in range(1, 9):
        image, upright = turned(orientation)
        lossless = {"lossless": True, "exact": True} if form == "webp" else {}
        save(image, tmp_path / f"{orientation}.{form}", orientation, **lossless)
        assert upright.size == (8, 6)
        expected.append(array(upright).contiguous().numpy().tobytes())
    data = loaded(tmp_path, in_memory=in_memory, val_fraction=0.5)
    assert data.shape == (3, 6, 8) and content(data).keys() == set(expected)


def test_the_first_image_may_be_a_turned_one_and_size_is_that_after_it(tmp_path):
    for i in range(4):
        save(picture(i, (6, 8)), tmp_path / f"{i}.jpg", 6)
    assert loaded(tmp_path).shape == (3, 6, 8)
    picture(4, (6, 8)).save(tmp_path / "4.jpg")
    for in_memory in (True, False):
        with pytest.raises(ConfigurationError, match=r"4\.jpg: 6x8 pixels, and the first image has 8x6"):
            loaded(tmp_path, in_memory=in_memory)


def test_orientation_comes_before_the_crop(tmp_path):
    """An image of two halves, one below the other, stored turned: its centre has both."""
    pixels = np.zeros((8, 32), np.uint8)
    pixels[:, 16:] = 255
    for i in range(2):
        save(Image.fromarray(pixels), tmp_path / f"{i}.png", 6)
    data = loaded(tmp_path, image_size=8)
    x = torch.cat([data.train.x, data.val.x])
    assert (x[:, 0, :3] == 0).all() and (x[:, 0, -3:] == 255).all()


def sixteen_bits(form):
    """An image file of 16 bits a channel, in colour unless the name says grey."""
    if form.startswith("ppm"):
        maximum = {"ppm": 65535, "ppm of 10 bits": 1023}[form]
        return b"P6 8 6 %d\n" % maximum + bytes(8 * 6 * 6)
    if form.startswith("png"):
        return png(8, 6, {"png": 2, "png with alpha": 6, "png grey with alpha": 4}[form])
    if form == "tiff":
        return tiff(8, 6)
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(
        buffer := io.BytesIO(), "TIFF" if "tif" in form else "PNG"
    )
    return buffer.getvalue()


def png(width, height, colour):
    """A PNG of zeros with 16 bits a channel; colour type 2 has three channels, 4 two and 6 four."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + b"\xff" * (width * 2 * {2: 3, 4: 2, 6: 4}[colour])
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * height)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(width, height):
    """An uncompressed TIFF of zeros with three channels of 16 bits."""
    import struct

    body = bytes(width * height * 6)
    bits = struct.pack("<3H", 16, 16, 16)
    start = 8 + len(body)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(body))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", start + 6) + body + bits + directory


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "form",
    ["png", "png with alpha", "png grey with alpha", "ppm", "ppm of 10 bits", "tiff", "grey png", "grey tif"],
)
def test_sixteen_bits_are_refused_in_colour_as_in_grey(form, in_memory, tmp_path):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(sixteen_bits(form))
    with pytest.raises(ConfigurationError, match=r"3\.png: more than 8 bits a channel"):
        loaded(tmp_path, in_memory=in_memory)


@pytest.mark.parametrize("form", ["bmp", "ppm", "tif", "gif", "webp", "jpg", "png"])
def test_eight_bits_are_not_taken_for_more(form, tmp_path):
    for i in range(3):
        picture(i).convert("P" if form == "gif" else "RGB").save(
            tmp_path / f"{i}.png", "TIFF" if form == "tif" else {"jpg": "JPEG"}.get(form, form.upper())
        )
    assert loaded(tmp_path).shape == (3, 6, 8)


def test_formats_for_which_pillow_starts_programs_are_not_opened(tmp_path, monkeypatch):
    picture(0).save(tmp_path / "0.png")
    picture(1).save(tmp_path / "1.png", "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", None)
    with pytest.raises(ConfigurationError, match=r"1\.png: cannot be read: it is no image of a format"):
        loaded(tmp_path)
