"""Folders and zips: names, links, what is no file, and sizes."""

import os
import socket
import unicodedata
import zipfile

import pytest
from support.images import content, expected, loaded, picture, png_bytes

from scorelight import ConfigurationError, ImageDataModule
from scorelight.data import image_sources
from scorelight.data.image_sources import Folder, Zip, clean_name
from scorelight.storage import memory


@pytest.mark.parametrize(
    ("given", "clean"),
    [
        ("a/b.png", "a/b.png"),
        ("./a/b.png", "a/b.png"),
        ("a//./b.png", "a/b.png"),
        ("/a/b.png", "a/b.png"),
        ("a\\b.png", "a/b.png"),
        (".\\a\\b.png", "a/b.png"),
        ("a/c/../b.png", "a/b.png"),
        (unicodedata.normalize("NFD", "é/ü.png"), unicodedata.normalize("NFC", "é/ü.png")),
        ("A/b.PNG", "A/b.PNG"),
    ],
)
def test_a_name_has_one_spelling(given, clean):
    assert clean_name(given) == clean


@pytest.fixture
def tree(tmp_path):
    """Two classes of three images each in a folder."""
    for i in range(6):
        (place := tmp_path / "set" / ("cat", "dog")[i % 2]).mkdir(parents=True, exist_ok=True)
        picture(i).save(place / f"{i}.png")
    return tmp_path / "set"


def whole():
    """What `tree` holds."""
    return expected([picture(i) for i in range(6)], [0, 1] * 3)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("link", "target"),
    [("cat/up", ".."), ("cat/self", "."), ("dog/top", "../.."), ("cat/other", "../dog"), ("cat/root", "/")],
)
def test_a_link_back_into_the_data_or_around_them_multiplies_nothing(link, target, in_memory, tree):
    (tree / link).symlink_to(target, target_is_directory=True)
    assert content(loaded(tree, in_memory=in_memory, val_fraction=0.5)) == whole()


def test_links_to_folders_elsewhere_are_followed_once_each(tree, tmp_path):
    outside = tmp_path / "elsewhere"
    (tree / "dog").rename(outside)
    (tree / "dog").symlink_to(outside)
    (outside / "back").symlink_to(tree)
    (tree / "cat/again").symlink_to(outside / "back")
    (outside / "loop").symlink_to(outside)
    assert content(loaded(tree, val_fraction=0.5)) == whole()


def test_two_links_to_one_folder_are_one_class_and_one_without_images(tree, tmp_path):
    (tree / "dog").rename(tmp_path / "elsewhere")
    for name in ("dog", "hound"):
        (tree / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="hound: a class without images"):
        loaded(tree)


def fifo(path):
    os.mkfifo(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the path of a socket is short
        server.bind(path.name)


def broken_link(path):
    path.symlink_to("nowhere.png")


def link_to_itself(path):
    path.symlink_to(path.name)


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["x.png", "dataset.json"])
@pytest.mark.parametrize("make", [fifo, listening, broken_link, link_to_itself, link_to_a_device])
def test_what_is_no_file_is_refused_and_not_waited_for(make, name, tree, monkeypatch):
    monkeypatch.chdir(tree)
    make(tree / "cat" / name)
    with pytest.raises(ConfigurationError, match=rf"cat/{name}: is no file"):
        loaded(tree)


@pytest.mark.parametrize("name", ["a.zip", "a.npz", "folder"])
def test_a_pipe_is_no_data_set(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigurationError, match=rf"data\.path=.*{name}: neither a file nor a folder"):
        ImageDataModule(tmp_path / name)


def test_a_folder_with_the_name_of_an_image_is_a_folder(tree):
    (tree / "cat").rename(tree / "cat.png")
    assert content(loaded(tree, val_fraction=0.5)) == whole()


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._1.png", "desktop.ini", "notes.txt"])
@pytest.mark.parametrize("place", ["", "cat/", ".git/", "__MACOSX/cat/"])
def test_files_of_other_programs_are_no_images(name, place, tree):
    (tree / place).mkdir(parents=True, exist_ok=True)
    (tree / place / name).write_bytes(b"no image")
    assert content(loaded(tree, val_fraction=0.5)) == whole()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tree):
    (tree / "dog").chmod(0)
    with pytest.raises(ConfigurationError, match="dog: cannot be read: Permission denied"):
        loaded(tree)


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "second", ["cat/0.png", "./cat/0.png", "cat\\0.png", "/cat/0.png", "cat//0.png", "dog/../cat/0.png"]
)
def test_a_name_twice_in_a_zip_is_refused(second, tmp_path):
    members = [(f"{kind}/{i}.png", png_bytes(i)) for i, kind in enumerate(("cat", "dog"))]
    path = archive(tmp_path / "a.zip", [*members, (second, png_bytes(7))])
    with pytest.raises(ConfigurationError, match=r"cat/0\.png: is there twice"):
        loaded(path)


@pytest.mark.parametrize("spell", [lambda n: n.replace("/", "\\"), lambda n: f"./{n}", lambda n: f"/{n}"])
def test_however_a_zip_spells_names_its_folders_are_classes(spell, tmp_path):
    members = [(spell(f"{('cat', 'dog')[i % 2]}/{i}.png"), png_bytes(i)) for i in range(6)]
    for in_memory in (True, False):
        data = loaded(archive(tmp_path / "a.zip", members), in_memory=in_memory, val_fraction=0.5)
        assert content(data) == whole()


def test_accents_composed_and_not_are_one_name(tmp_path):
    (tmp_path / "set").mkdir()
    for i, form in enumerate(("NFC", "NFD")):
        picture(i).save(tmp_path / "set" / f"{unicodedata.normalize(form, 'é')}.png")
    with pytest.raises(ConfigurationError, match="is there twice"):
        loaded(tmp_path / "set")


def test_a_name_that_is_no_text_is_read_and_fingerprinted(tmp_path):
    folder = os.fsencode(tmp_path / "set")
    os.mkdir(folder)
    for i in range(4):
        with open(folder + b"/\xff%d.png" % i, "wb") as file:
            file.write(png_bytes(i))
    data = loaded(tmp_path / "set", in_memory=False)
    assert content(data) == expected([picture(i) for i in range(4)]) and data.fingerprint()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("name", ["cat/x.png", "dataset.json"])
def test_a_file_that_is_too_large_is_not_read(name, form, in_memory, tree, tmp_path, monkeypatch):
    """Of zeros, which a zip compresses a thousandfold."""
    limit = 100_000
    for module in (memory, image_sources):
        monkeypatch.setattr(module, "LARGEST_FILE", limit)
    members = [(f"{('cat', 'dog')[i % 2]}/{i}.png", png_bytes(i)) for i in range(6)]
    if form == "zip":
        path = archive(tmp_path / "a.zip", [*members, (name, bytes(limit + 1))], zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < limit
    else:
        path = tree
        (tree / name).write_bytes(bytes(limit + 1))
    if name == "cat/x.png" and form == "folder" and not in_memory:
        message = "it is no image"  # its header alone is read
    else:
        message = rf"{name}: has 100,001 bytes, and a file of a data set may have 100,000"
    with pytest.raises(ConfigurationError, match=message):
        data = loaded(path, in_memory=in_memory)
        content(data)


def test_a_zip_that_states_a_smaller_size_is_read_no_further(tmp_path):
    path = archive(
        tmp_path / "a.zip", [("a.png", png_bytes(0)), ("b.png", bytes(10**6))], zipfile.ZIP_DEFLATED
    )
    source = Zip(path)
    names = list(source.files())
    source._infos["b.png"].file_size = 1000  # as if the archive said so
    with pytest.raises((zipfile.BadZipFile, ConfigurationError)):
        source.read("b.png")
    assert names == ["a.png", "b.png"]


def test_files_are_listed_in_one_order_and_as_needed(tree, monkeypatch):
    names = [f"{kind}/{i}.png" for kind, numbers in (("cat", "024"), ("dog", "135")) for i in numbers]
    assert list(Folder(tree).files()) == names
    read = []
    entries = image_sources._entries
    monkeypatch.setattr(image_sources, "_entries", lambda folder: read.append(folder) or entries(folder))
    assert next(Folder(tree).files()) == "cat/0.png" and len(read) == 2
