"""Labels of image files: enclosing folders, ``dataset.json`` wherever it is, and what is wrong with one."""

import json
import shutil
import zipfile

import pytest
from support.images import content, expected, loaded, picture, png_bytes

from scorelight import ConfigurationError

NAMES = [f"{('cat', 'dog', 'eel')[i % 3]}/{i}.png" for i in range(9)]
BY_FOLDER, LISTED = [0, 1, 2] * 3, [4, 3, 2, 1, 0, 4, 3, 2, 1]


def dataset(names=NAMES, labels=LISTED):
    return json.dumps({"labels": [list(pair) for pair in zip(names, labels, strict=True)]})


def write(tmp_path, form, files):
    """A folder or a zip of these files, {name: content}."""
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return tmp_path / "set.zip"
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    for name, data in files.items():
        (file := tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
    return tmp_path / "set"


def images(prefix=""):
    return {prefix + name: png_bytes(i) for i, name in enumerate(NAMES)}


def labelled(labels):
    return expected([picture(i) for i in range(9)], labels)


forms = pytest.mark.parametrize("form", ["folder", "zip"])


@forms
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("prefix", ["", "photos/", "my/photos/"])
def test_folders_around_all_images_are_passed_over(form, in_memory, prefix, tmp_path):
    data = loaded(write(tmp_path, form, images(prefix)), in_memory=in_memory, val_fraction=0.5)
    assert content(data) == labelled(BY_FOLDER) and data.num_classes == 3
    assert data.class_names == sorted({name.split("/")[0] for name in NAMES})


@forms
@pytest.mark.parametrize("prefix", ["", "photos/", "my/photos/"])
@pytest.mark.parametrize("place", ["", "photos/", "my/", "my/photos/"])
def test_dataset_json_is_found_in_every_folder_around_the_images(form, prefix, place, tmp_path):
    if not prefix.startswith(place):
        return
    names = [f"{prefix}{name}".removeprefix(place) for name in NAMES]
    data = loaded(write(tmp_path, form, images(prefix) | {f"{place}dataset.json": dataset(names)}))
    assert content(data) == labelled(LISTED) and data.num_classes == 5
    assert data.class_names is None


@forms
@pytest.mark.parametrize(
    "spell", [lambda n: n.replace("/", "\\"), lambda n: f"./{n}", lambda n: f"/{n}", lambda n: f"eel/../{n}"]
)
def test_however_dataset_json_spells_names_they_are_those_of_the_images(form, spell, tmp_path):
    files = images() | {"dataset.json": dataset([spell(name) for name in NAMES])}
    assert content(loaded(write(tmp_path, form, files))) == labelled(LISTED)


def test_names_in_a_list_one_folder_down_may_be_those_from_the_top(tmp_path):
    names = [f"photos/{name}" for name in NAMES]
    path = write(tmp_path, "zip", images("photos/") | {"photos/dataset.json": dataset(names)})
    assert content(loaded(path)) == labelled(LISTED)


def test_a_byte_order_mark_and_capitals_in_its_name_hide_no_labels(tmp_path):
    files = images() | {"Dataset.JSON": b"\xef\xbb\xbf" + dataset().encode()}
    assert content(loaded(write(tmp_path, "folder", files))) == labelled(LISTED)


@forms
def test_images_of_one_folder_have_no_labels(form, tmp_path):
    files = {f"photos/{i}.png": png_bytes(i) for i in range(9)}
    data = loaded(write(tmp_path, form, files))
    assert content(data) == labelled(None) and data.num_classes is None


LISTS = {
    "a name twice": (dataset([*NAMES, NAMES[0]], [*LISTED, 0]), "lists cat/0.png twice"),
    "a name twice in two spellings": (
        dataset([*NAMES, f"./{NAMES[0]}"], [*LISTED, 4]),
        "lists cat/0.png twice",
    ),
    "an image that is not there": (
        dataset([*NAMES, "no.png"], [*LISTED, 0]),
        "lists no.png, which is not there",
    ),
    "an image without a label": (dataset(NAMES[1:], LISTED[1:]), "has no label for cat/0.png"),
    "another key": (json.dumps({"label": [[name, 0] for name in NAMES]}), "has no labels; it should be"),
    "nothing": ("{}", "has no labels; it should be"),
    "a list": ("[]", "has no labels; it should be"),
    "a key twice": ('{"labels": [], "labels": null}', "a key is there twice"),
    "a huge label": (
        dataset(labels=[*LISTED[:-1], 10**9]),
        "a label is 1000000000; number the classes from 0",
    ),
    "a huger label": (dataset(labels=[*LISTED[:-1], 10**30]), "type object; 9 whole numbers"),
    "a negative label": (dataset(labels=[*LISTED[:-1], -1]), "a label is -1; labels start from 0"),
    "a fraction": (dataset(labels=[*LISTED[:-1], 1.5]), "type float64; 9 whole numbers"),
    "no number": (dataset(labels=[*LISTED[:-1], float("nan")]), "type float64; 9 whole numbers"),
    "a boolean": (dataset(labels=[*LISTED[:-1], True]), "type bool; 9 whole numbers"),
    "a word": (dataset(labels=[*LISTED[:-1], "cat"]), "9 whole numbers"),
    "null": (dataset(labels=[*LISTED[:-1], None]), "type object; 9 whole numbers"),
    "vectors": (dataset(labels=[[0, 1]] * 9), r"shape \(9, 2\)"),
    "vectors of one": (dataset(labels=[[0]] * 9), r"shape \(9, 1\)"),
    "a dictionary": (json.dumps({"labels": dict(zip(NAMES, LISTED, strict=True))}), "cannot be read"),
}


@pytest.mark.parametrize("which", LISTS)
def test_a_list_with_something_wrong_is_one_message(which, tmp_path):
    text, message = LISTS[which]
    with pytest.raises(ConfigurationError, match=rf"dataset\.json: .*{message}"):
        loaded(write(tmp_path, "zip", images() | {"dataset.json": text}))


@forms
def test_a_list_beside_only_some_of_the_images_is_refused(form, tmp_path):
    path = write(
        tmp_path, form, images() | {"cat/dataset.json": dataset(["0.png", "3.png", "6.png"], [0, 1, 2])}
    )
    with pytest.raises(
        ConfigurationError, match=r"cat/dataset\.json: not all images are below its folder; move"
    ):
        loaded(path)


@forms
def test_two_lists_are_refused(form, tmp_path):
    files = {"dataset.json": dataset(), "photos/dataset.json": dataset()}
    with pytest.raises(ConfigurationError, match=r"a second one beside dataset\.json"):
        loaded(write(tmp_path, form, images("photos/") | files))


@pytest.mark.parametrize("labels", [[1, 2, 3] * 3, [0, 2, 4] * 3])
def test_classes_without_an_image_are_refused_where_classes_are_counted(labels, tmp_path):
    data = loaded(write(tmp_path, "zip", images() | {"dataset.json": dataset(labels=labels)}))
    assert content(data) == labelled(labels)
    with pytest.raises(
        ConfigurationError, match=r"set\.zip: labels are from . to ., and no image has label [01]"
    ):
        _ = data.num_classes
