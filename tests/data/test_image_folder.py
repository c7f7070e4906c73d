"""Images of people's own: folders, zips and .npz, whole, odd and broken."""

import os
import random
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from support.images import array, content, expected, loaded, picture, zipped
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import center_crop, resize

from scorelight import ConfigurationError, ImageDataModule
from scorelight.cli import main
from scorelight.data.access import examples_of
from scorelight.data.image_files import _AHEAD, ImageFiles


@pytest.fixture
def flat(tmp_path):
    """20 images in one folder, with files that are none."""
    folder = tmp_path / "flat"
    folder.mkdir()
    for i in range(20):
        picture(i).save(folder / f"{i:02d}.png")
    for name in ("README.txt", ".hidden.png", "._07.png"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.fixture
def classes(tmp_path):
    """7 images in each of 3 folders, one of them deeper."""
    folder = tmp_path / "classes"
    for i in range(21):
        place = folder / ("cat", "ant", "bee/deeper")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        picture(i).save(place / f"{i}.png")
    return folder


@pytest.mark.parametrize("in_memory", [None, False])
@pytest.mark.parametrize("form", ["folder", "zip", "compressed zip"])
def test_a_flat_set_is_read_pixel_by_pixel(flat, tmp_path, form, in_memory):
    methods = {"zip": zipfile.ZIP_STORED, "compressed zip": zipfile.ZIP_DEFLATED}
    path = flat if form == "folder" else zipped(flat, tmp_path / "flat.zip", None, methods[form])
    data = loaded(path, in_memory=in_memory, val_fraction=0.25)
    assert data.shape == (3, 6, 8) and len(data.train) == 15 and len(data.val) == 5
    assert content(data) == expected([picture(i) for i in range(20)])
    assert isinstance(data.train, ImageFiles) == (in_memory is False)


@pytest.mark.parametrize("in_memory", [None, False])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_labels_are_the_folders_as_torchvision_counts_them(classes, tmp_path, form, in_memory):
    path = classes if form == "folder" else zipped(classes, tmp_path / "classes.zip")
    oracle = expected(*zip(*ImageFolder(str(classes)), strict=True))
    assert content(loaded(path, in_memory=in_memory)) == oracle and set(oracle.values()) == {0, 1, 2}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_labels_of_edm_are_found_in_dataset_json(classes, tmp_path, form):
    names = [file.relative_to(classes).as_posix() for file in classes.rglob("*.png")]
    labels = [[name, int(name.rpartition("/")[2][:-4]) * 10] for name in reversed(names)]
    path = zipped(classes, tmp_path / "classes.zip", labels)
    if form == "folder":
        path = tmp_path / "unpacked"
        zipfile.ZipFile(tmp_path / "classes.zip").extractall(path)
    assert content(loaded(path)) == expected([picture(i) for i in range(21)], [10 * i for i in range(21)])


def test_dataset_json_may_say_that_there_are_no_labels(classes, tmp_path):
    (classes / "dataset.json").write_text('{"labels": null}')
    assert set(content(loaded(classes)).values()) == {None}


@pytest.mark.parametrize("names", [("images", "labels"), ("arr_0", "arr_1")])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read(tmp_path, names, save):
    images = [picture(i) for i in range(10)]
    save(tmp_path / "a.npz", **dict(zip(names, (np.stack(images), np.arange(10)), strict=True)))
    data = loaded(tmp_path / "a.npz")
    assert data.shape == (3, 6, 8) and content(data) == expected(images, list(range(10)))


def test_an_npz_may_be_grey_and_without_labels(tmp_path):
    images = [picture(i, mode="L") for i in range(10)]
    for name, stack in (("flat", np.stack(images)), ("channel", np.stack(images)[..., None])):
        np.savez(tmp_path / f"{name}.npz", images=stack)
        data = loaded(tmp_path / f"{name}.npz")
        assert data.shape == (1, 6, 8) and content(data) == expected(images)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_images_are_brought_to_one_size_by_their_short_side(tmp_path, form):
    """Against torchvision's resize, then centre crop: but for the outermost pixels to one grey level.

    A picture's edge is in the window of the filter for those: two ways of cropping differ in them.
    """
    size, images = 16, []
    for i, shape in enumerate(
        [(64, 32), (64, 32), (32, 64), (32, 32), (16, 16)][: 2 if form == "npz" else 5]
    ):
        images.append(picture(i, (shape[0] // 4, shape[1] // 4)).resize(shape, Image.Resampling.BICUBIC))
        images[-1].save(tmp_path / f"{i}.png")
    path = tmp_path
    if form == "npz":
        path = tmp_path / "a.npz"
        np.savez(path, images=np.stack(images))
    data = loaded(path, image_size=size)
    assert data.shape == (3, size, size)
    found = torch.stack([torch.frombuffer(bytearray(x), dtype=torch.uint8) for x in content(data)])
    for image in images:
        short = array(center_crop(resize(image, size, Image.Resampling.LANCZOS), size)).int()
        errors = (found.reshape(-1, 3, size, size).int() - short)[:, :, 2:-2, 2:-2].abs().amax((1, 2, 3))
        assert errors.min() <= 1


def test_grey_levels_are_pillows(flat):
    data = loaded(flat, grayscale=True)
    assert data.shape == (1, 6, 8)
    assert content(data) == expected([picture(i).convert("L") for i in range(20)])


def test_grey_images_among_coloured_ones_become_coloured(flat):
    picture(7, mode="L").save(flat / "07.png")
    images = [picture(i) if i != 7 else picture(7, mode="L").convert("RGB") for i in range(20)]
    assert content(loaded(flat)) == expected(images)


def test_opaque_alpha_is_dropped(flat):
    image = picture(7)
    image.putalpha(255)
    image.save(flat / "07.png")
    for in_memory in (True, False):
        assert content(loaded(flat, in_memory=in_memory)) == expected([picture(i) for i in range(20)])


def stream(loader, batches):
    def endless():
        while True:
            yield from loader

    return [(b.x0, b.indices) for b in islice(endless(), batches)]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_decoding_as_needed_gives_the_same_batches_as_memory(classes, tmp_path, form):
    path = classes if form == "folder" else zipped(classes, tmp_path / "a.zip")
    parts = dict(batch_size=4, flip=True)
    whole = loaded(path, in_memory=True, **parts).train_dataloader()
    needed = loaded(path, in_memory=False, num_workers=3, **parts).train_dataloader()
    assert same(stream(whole, 12), stream(needed, 12))


@pytest.mark.parametrize("stop", [1, 3, 5, 8])
def test_what_is_read_ahead_does_not_count_as_given(flat, stop):
    def fresh():
        return loaded(flat, in_memory=False, batch_size=4, flip=True).train_dataloader()

    first = fresh()
    begun = stream(first, stop)
    assert first.state_dict() == {"examples": 4 * stop}
    second = fresh()
    second.load_state_dict(first.state_dict())
    assert same(begun + stream(second, 10 - stop), stream(fresh(), 10))


def test_a_few_batches_are_read_ahead_and_no_more(flat):
    data = loaded(flat, in_memory=False)
    asked = []
    indices = (asked.append(i) or torch.tensor([i]) for i in range(15))
    batches = data.train.batches(indices)
    for given in range(5):
        next(batches)
        assert asked == list(range(given + 1 + _AHEAD))
    batches.close()


def test_every_rank_reads_its_share_of_a_split(flat):
    data = loaded(flat, in_memory=False)
    train = data.train

    class Ranks:
        global_rank, world_size = 0, 3

    shares = []
    for rank in range(3):
        data.trainer = Ranks()
        data.trainer.global_rank = rank
        shares += [i for b in data.eval_loader("train", 2) for i in b.indices.tolist()]
    assert sorted(shares) == list(range(len(train)))


def test_fingerprints_are_of_content_or_of_files_and_the_recipe(flat, tmp_path):
    def prints(path=flat, **kwargs):
        return loaded(path, **kwargs).fingerprint()

    archive = zipped(flat, tmp_path / "flat.zip")
    needed = {"in_memory": False}
    assert prints() == prints(batch_size=7, flip=True) == prints(archive)
    assert prints(**needed) == prints(archive, **needed)
    assert prints().startswith("flat-train-")
    found = [
        prints(),
        prints(seed=1),
        prints(grayscale=True),
        prints(**needed),
        prints(**needed, grayscale=True),
        prints(**needed, image_size=4),
        loaded(flat, **needed).fingerprint("val"),
    ]
    picture(99).save(flat / "07.png")
    found += [prints(), prints(**needed)]
    assert prints(**needed) == prints(zipped(flat, archive), **needed)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_images_that_are_exchanged_for_others_of_the_same_size_and_time_have_another_fingerprint(
    tmp_path, form
):
    def print_of(shift):
        (folder := tmp_path / "set").mkdir(exist_ok=True)
        for i in range(4):
            Image.fromarray(np.full((6, 8), i + shift, np.uint8)).save(folder / f"{i}.bmp")
            os.utime(folder / f"{i}.bmp", (2**30, 2**30))
        sizes = {file.stat().st_size for file in folder.iterdir()}
        os.utime(path := folder if form == "folder" else zipped(folder, tmp_path / "set.zip"), (2**30, 2**30))
        return loaded(path, in_memory=False).fingerprint(), sizes, path.stat().st_size

    (first, *same), (second, *also) = print_of(10), print_of(20)
    assert same == also and first != second


def test_large_sets_are_not_loaded_unasked(flat, monkeypatch):
    monkeypatch.setattr("scorelight.data.image_folder._IN_MEMORY", 20 * 144 - 1)
    data = loaded(flat)
    assert isinstance(data.train, ImageFiles)
    with pytest.raises(ConfigurationError, match=r"18 images.*data.in_memory to true"):
        examples_of(data, "train").augmented()
    assert len(examples_of(loaded(flat, in_memory=True), "train").augmented().x0) == 18
    monkeypatch.setattr("scorelight.data.image_folder._IN_MEMORY", 20 * 144)
    assert not isinstance(loaded(flat).train, ImageFiles)


def bad(change):
    """A name for a change of the folder `flat`."""
    return pytest.param(change, id=change.__name__)


def cut_off(flat):
    whole = (flat / "07.png").read_bytes()
    (flat / "07.png").write_bytes(whole[: len(whole) // 2])


def cut_off_jpeg(flat):
    picture(7, (64, 64)).resize((8, 6)).save(flat / "07.jpg")
    whole = (flat / "07.jpg").read_bytes()
    (flat / "07.jpg").write_bytes(whole[:-40])


def not_an_image(flat):
    (flat / "07.png").write_text("hello")


def empty_file(flat):
    (flat / "07.png").write_bytes(b"")


def another_size(flat):
    picture(7, (8, 7)).save(flat / "07.png")


def transparent(flat):
    picture(7, mode="RGBA").save(flat / "07.png")


def sixteen_bits(flat):
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(flat / "07.png")


@pytest.mark.one_in(4)
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(
    "change",
    [*map(bad, (cut_off, cut_off_jpeg, not_an_image, empty_file, another_size, transparent, sixteen_bits))],
)
def test_a_bad_image_is_named_before_training(flat, tmp_path, change, form, in_memory):
    change(flat)
    if form == "zip" and not in_memory and "cut" in change.__name__:
        pytest.skip("an image that was cut off before it was packed is found when it is decoded")
    path = flat if form == "folder" else zipped(flat, tmp_path / "flat.zip")
    with pytest.raises(ConfigurationError, match=rf"{path}/07\.(png|jpg): .*; "):
        loaded(path, in_memory=in_memory)


def test_an_image_that_was_cut_off_before_it_was_packed_is_named_when_it_is_decoded(flat, tmp_path):
    cut_off(flat)
    data = loaded(zipped(flat, tmp_path / "flat.zip"), in_memory=False)
    with pytest.raises(ConfigurationError, match=r"flat.zip/07.png: cannot be read"):
        content(data)


def test_colour_in_a_grey_set_is_refused_unless_all_is_made_grey(flat):
    picture(0, mode="L").save(flat / "00.png")
    with pytest.raises(ConfigurationError, match=r"png: has colour .*data.grayscale to true"):
        loaded(flat)
    assert loaded(flat, grayscale=True).shape == (1, 6, 8)


def npz(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


IMAGES = np.zeros((4, 6, 8, 3), np.uint8)
ARCHIVES = {
    "floats": (dict(images=IMAGES / 255), "float64; uint8"),
    "not a number": (dict(images=np.full((4, 6, 8, 3), np.nan)), "float64; uint8.*NaN"),
    "objects": (dict(images=np.array([None, {}])), "object; uint8"),
    "channels first": (dict(images=IMAGES.transpose(0, 3, 1, 2)), r"shape \(4, 3, 6, 8\); \(N, H, W, 3\)"),
    "two channels": (dict(images=IMAGES[..., :2]), r"shape \(4, 6, 8, 2\)"),
    "one image": (dict(images=IMAGES[0, :, :, 0]), r"shape \(6, 8\)"),
    "no image": (dict(images=IMAGES[:0]), "holds no image"),
    "other names": (dict(x=IMAGES), r"holds x; images \(or arr_0\)"),
    "too few labels": (
        dict(images=IMAGES, labels=np.arange(3)),
        r"labels have shape \(3,\).*4 whole numbers",
    ),
    "one-hot labels": (dict(images=IMAGES, labels=np.eye(4, dtype=int)), r"labels have shape \(4, 4\)"),
    "labels with a point": (dict(images=IMAGES, labels=np.ones(4)), "float64; 4 whole numbers"),
    "negative labels": (dict(images=IMAGES, labels=np.arange(4) - 1), "a label is -1"),
}


@pytest.mark.parametrize("which", ARCHIVES)
def test_a_bad_npz_is_refused(tmp_path, which):
    arrays, message = ARCHIVES[which]
    with pytest.raises(ConfigurationError, match=message):
        loaded(npz(tmp_path, **arrays))


def test_what_memory_cannot_hold_is_a_message(flat, tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"flat: cannot be loaded: .*memory.*data.in_memory to false"
    ):
        loaded(flat, image_size=1_000_000, in_memory=True)
    path = npz(tmp_path, images=IMAGES)
    path.write_bytes(path.read_bytes().replace(b"(4, 6, 8, 3)", b"(99999999,3)"))
    with pytest.raises(ConfigurationError, match=r"a\.npz: "):
        loaded(path)


LISTS = {
    "a missing label": ([["00.png", 1]], "dataset.json: has no label for 01.png"),
    "a name too many": (
        [[f"{i:02d}.png", 1] for i in range(21)],
        "dataset.json: lists 20.png, which is not there",
    ),
    "no numbers": (
        [[f"{i:02d}.png", "a"] for i in range(20)],
        "dataset.json: labels have .*20 whole numbers",
    ),
    "vectors": ([[f"{i:02d}.png", [0, 1]] for i in range(20)], r"dataset.json: labels have shape \(20, 2\)"),
    "vectors of some": ([[f"{i:02d}.png", [0] * (i % 2)] for i in range(20)], "dataset.json: cannot be read"),
    "no pairs": ([1, 2], "dataset.json: cannot be read"),
}


@pytest.mark.parametrize("which", LISTS)
def test_a_bad_list_of_labels_is_refused(flat, tmp_path, which):
    labels, message = LISTS[which]
    with pytest.raises(ConfigurationError, match=message):
        loaded(zipped(flat, tmp_path / "a.zip", labels))


def test_a_bad_layout_is_refused(classes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar").write_bytes(b"")
    for name in ("empty.zip", "broken.zip", "broken.npz"):
        (tmp_path / name).write_bytes(b"PK\x05\x06" + bytes(18) if name == "empty.zip" else b"PK")
    cases = {
        "nowhere": "data.path=.*nowhere: no such file or folder",
        "empty": "empty: no image in there; names of images end in .jpg",
        "empty.zip": "empty.zip: no image in there",
        "broken.zip": "broken.zip: cannot be read",
        "broken.npz": "broken.npz: cannot be read",
        "a.tar": "a.tar: a folder, a .zip or an .npz is needed",
    }
    for name, message in cases.items():
        with pytest.raises(ConfigurationError, match=message):
            ImageDataModule(tmp_path / name)
    (classes / "dog").mkdir()
    with pytest.raises(ConfigurationError, match="dog: a class without images"):
        loaded(classes)
    picture(0).save(classes / "0.png")
    with pytest.raises(ConfigurationError, match=r"0\.png: images beside the folders of classes"):
        loaded(classes)


@pytest.mark.parametrize("wrong", [{"image_size": 0}, {"num_workers": 0}, {"batch_size": 0}])
def test_wrong_numbers_are_refused(flat, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        ImageDataModule(flat, **wrong)


def damaged(whole, rng):
    """Cut off somewhere, or with a few bytes changed."""
    if rng.random() < 0.5:
        return whole[: rng.randrange(len(whole))]
    found = bytearray(whole)
    for _ in range(rng.randint(1, 8)):
        found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("form", ["png", "jpg", "bmp", "webp", "tif", "ppm", "zip", "compressed zip", "npz"])
@pytest.mark.one_in(9)
def test_damage_is_a_message_or_goes_unseen(tmp_path, form, in_memory):
    """60 random damages each; what cannot be seen (the colour of a pixel) may be read."""
    rng, folder = random.Random(f"{form} {in_memory}"), tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        picture(i).save(
            folder / f"{i}.{form if len(form) in (3, 4) and form not in ('zip', 'npz') else 'png'}"
        )
    target = path = folder
    if form == "npz":
        target = path = tmp_path / "a.npz"
        np.savez_compressed(path, images=np.stack([picture(i) for i in range(4)]), labels=np.arange(4))
    elif "zip" in form:
        method = zipfile.ZIP_STORED if form == "zip" else zipfile.ZIP_DEFLATED
        target = path = zipped(folder, tmp_path / "a.zip", [[f"{i}.png", i] for i in range(4)], method)
    else:
        target = next(folder.iterdir())
    whole, refused = target.read_bytes(), 0
    for _ in range(60):
        target.write_bytes(damaged(whole, rng))
        try:
            content(loaded(path, in_memory=in_memory))
        except ConfigurationError as error:
            refused += 1
            assert str(target.parent) in str(error) and "object at 0x" not in str(error)
    assert refused > 10


def test_a_folder_of_forty_small_images_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(40):
        picture(i, (8, 8)).save(tmp_path / "images" / f"{i}.png")
    network = [
        "UNet",
        "--model.network.base_channels",
        "8",
        "--model.network.multipliers",
        "[1]",
        "--model.network.attention_stages",
        "[]",
    ]
    model = ["--config", "digits/vp_epsilon", "--model.network", *network]
    data = ["--data", "ImageDataModule", "--data.path", "images", "--data.flip", "true"]
    for in_memory in ("true", "false"):
        assert (
            main(["fit", *model, *data, "--data.in_memory", in_memory, "--trainer.fast_dev_run", "true"]) == 0
        )
    assert main(["fit", *model, "--data", "ImageDataModule", "--data.path", "nowhere"]) == 2
    assert "data.path=nowhere: no such file or folder" in capsys.readouterr().err
    assert main(["advise", *data, "--data.in_memory", "true"]) == 0
    assert main(["advise", *data, "--data.in_memory", "false", "--max_examples", "10"]) == 0
    capsys.readouterr()
    assert main(["advise", *data, "--data.in_memory", "false"]) == 2
    assert "--max_examples" in capsys.readouterr().err
