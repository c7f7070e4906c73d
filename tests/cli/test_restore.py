"""`scorelight restore`: images from measurements, resumable, each independent of the others."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scorelight import DigitsDataModule
from scorelight.cli import main
from scorelight.data.access import examples_of
from scorelight.denoisers.network import NetworkDenoiser

RUN = "runs/digits/quick/version_0"
BOX = ["--operator", "Mask", "--operator.box", "2", "2", "6", "6"]
FAST = ["--method", "DDRM", "--method.num_steps", "4", "--num_samples", "3"]


@pytest.fixture(scope="module")
def trained(train):
    short = "--trainer.max_steps 2 --trainer.max_time 00:00:01:00 --trainer.val_check_interval 2"
    small = f"{short} --model.network.base_channels 8 --model.sampler.num_steps 3 --samples.num_samples 4"
    return train("--config", "digits/quick", *small.split())


@pytest.fixture(autouse=True)
def _here(trained, monkeypatch):
    monkeypatch.chdir(trained)


def restored(out, *flags):
    assert main(["restore", RUN, *BOX, *FAST, "--out", out, *flags]) == 0
    with np.load(f"{out}/restored.npz") as file:
        return dict(file)


def test_it_writes_images_numbers_and_a_picture(capsys):
    arrays = restored("first", "--num_images", "5")
    assert arrays["truth"].shape == (5, 1, 8, 8) and arrays["samples"].shape == (5, 3, 1, 8, 8)
    assert arrays["measurement"].shape == (5, 1, 48)
    results = json.loads(Path("first/results.json").read_text())
    assert results["protocol"]["operator"]["init_args"]["box"] == [2, 2, 6, 6]
    assert results["protocol"]["method"]["class_path"] == "scorelight.DDRM"
    assert results["protocol"]["method"]["init_args"]["num_steps"] == 4
    numbers = results["images"]
    assert all(len(values) == 5 for values in numbers.values())
    assert {"psnr", "ssim", "feature distance", "residual", "coverage"} < numbers.keys()
    assert all(0 <= v <= 1 for v in numbers["coverage"])
    with Image.open("first/restored.png") as picture:
        assert picture.width > picture.height  # seven columns of five images
    printed = capsys.readouterr().out
    assert Path("first/results.md").read_text() in printed
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("| coverage ")]
    assert float(row[3]) == pytest.approx(np.mean(numbers["coverage"]), rel=1e-4)
    assert row[-2] == "examples"


def test_an_image_depends_on_its_number_alone():
    few = restored("few", "--num_images", "2", "--batch_size", "4")
    many = restored("many", "--num_images", "5", "--batch_size", "7")
    for name in ("truth", "measurement"):
        np.testing.assert_array_equal(few[name], many[name][:2])
    np.testing.assert_allclose(few["samples"], many["samples"][:2], rtol=0, atol=1e-5)


def test_what_is_done_is_not_done_again(monkeypatch):
    first = restored("again", "--num_images", "3")
    assert len(list(Path("again").glob("restored-*/*.npz"))) == 1

    def fail(self, *args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(NetworkDenoiser, "predict", fail)
    np.testing.assert_array_equal(restored("again", "--num_images", "3")["samples"], first["samples"])


def pictures(folder, size, num=2):
    values = np.random.default_rng(0).integers(0, 256, (num, size, size), dtype=np.uint8)
    folder.mkdir()
    for i, image in enumerate(values):
        Image.fromarray(image).save(folder / f"{i}.png")
    return values / 127.5 - 1


def test_images_of_ones_own_are_taken_from_a_folder(tmp_path):
    x0 = pictures(tmp_path / "x0", 8, 3)
    arrays = restored("own", "--images", str(tmp_path / "x0"))
    np.testing.assert_allclose(arrays["truth"][:, 0], x0, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "size"), [("Downsample", 4), ("GaussianBlur", 8)], ids=["smaller", "as large as the model's"]
)
def test_measurements_of_ones_own_are_restored_as_they_are(operator, size, tmp_path):
    y = pictures(tmp_path / "y", size)
    arrays = restored("measured", "--operator", operator, "--measured", str(tmp_path / "y"))
    np.testing.assert_allclose(arrays["measurement"][:, 0], y, atol=1e-6)
    assert "truth" not in arrays
    results = json.loads(Path("measured/results.json").read_text())
    assert results["images"].keys() == {"residual"} and len(results["images"]["residual"]) == 2


def test_of_damaged_images_only_what_is_measured_counts(tmp_path):
    y = pictures(tmp_path / "y", 8)
    arrays = restored("damaged", "--measured", str(tmp_path / "y"))
    known = np.ones((8, 8), bool)
    known[2:6, 2:6] = False
    np.testing.assert_allclose(arrays["measurement"][:, 0], y[:, known], atol=1e-6)


def test_classes_are_those_of_the_data_or_of_the_flag_in_turn():
    data = DigitsDataModule()
    data.setup("fit")
    labels = [str(label) for label in examples_of(data, "val").first(3).cond["label"].tolist()]
    of_data = restored("of_data", "--num_images", "3")["samples"]
    same = restored("same", "--num_images", "3", "--labels", *labels)["samples"]
    np.testing.assert_array_equal(of_data, same)
    others = restored("others", "--num_images", "3", "--labels", labels[0], str((int(labels[1]) + 1) % 10))
    np.testing.assert_array_equal(of_data[0], others["samples"][0])
    assert not np.array_equal(of_data[1], others["samples"][1])
    protocol = json.loads(Path("others/results.json").read_text())["protocol"]
    assert protocol["labels"][0] == int(labels[0])


def test_a_model_that_needs_classes_is_not_asked_without(tmp_path, monkeypatch, capsys):
    restore = importlib.import_module("scorelight.cli.restore")
    load = restore.load_source
    monkeypatch.setattr(
        restore, "load_source", lambda *arguments: load(*arguments)._replace(needs_labels=True)
    )
    pictures(tmp_path / "y", 8)
    flags = ["restore", RUN, *BOX, *FAST, "--images", str(tmp_path / "y")]
    assert main(flags) == 2
    assert "give --labels, or train with --model.condition_dropout 0.1" in capsys.readouterr().err
    assert main([*flags, "--labels", "3"]) == 0


def test_measurements_of_another_size_are_refused(tmp_path, capsys):
    pictures(tmp_path / "y", 5)
    flags = ["--operator", "Downsample", "--measured", str(tmp_path / "y")]
    assert main(["restore", RUN, *flags]) == 2
    message = "have shape (1, 5, 5), what Downsample makes (1, 4, 4), and the model's images (1, 8, 8)"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("operator", ["Downsample", "GaussianBlur", "MotionBlur --operator.length 3"])
def test_other_measurements_and_the_default_method(operator):
    flags = ["--operator", *operator.split(), "--num_images", "2", "--num_samples", "1", "--out", "other"]
    assert main(["restore", RUN, *flags]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "what is measured? --operator Mask"),
        (["--operator", "Mask"], "Mask: 0 of box, random, half and file are given"),
        (["--operator", "Mask", "--operator.box", "0", "0", "8", "8"], "no pixel is known"),
        (["--operator", "Grayscale"], "Grayscale: colour images are needed"),
        (["--operator", "Mask", "--operator.box", "0", "0", "9", "9"], "inside 8 by 8 pixels"),
        (["--operator", "Downsample", "--operator.factor", "3"], "factor=3: a divisor of 8 and 8"),
        ([*BOX, "--noise", "-1"], "noise=-1.0: from 0 on"),
        ([*BOX, "--noise", "0", "--method", "TDS"], "TDS needs noise of the measurement"),
        ([*BOX, "--method", "DDIM"], "DDIM"),
        ([*BOX, "--method", "ThroughSampler"], "ThroughSampler"),
        ([*BOX, "--labels", "10"], "--labels 10: classes are 0 to 9"),
        ([*BOX, "--num_images", "0"], "--num_images 0: must be at least 1"),
        ([*BOX, "--images", "nowhere"], "--images nowhere: "),
        ([*BOX, "--measured", "nowhere"], "--measured nowhere: "),
        ([*BOX, "--images", "a", "--measured", "b"], "--images a and --measured b: give the images, or"),
    ],
)
def test_mistakes_get_one_message(flags, message, capsys):
    assert main(["restore", RUN, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_images_of_another_size_are_refused(tmp_path, capsys):
    Image.new("L", (9, 8)).save(tmp_path / "a.png")
    assert main(["restore", RUN, *BOX, "--images", str(tmp_path)]) == 2
    assert "have shape (1, 8, 9), the model's (1, 8, 8)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("in_a_folder_with_data")
def test_colours_are_restored_without_a_network_of_features():
    small = "--model.network.base_channels 8 --trainer.max_steps 1 --trainer.val_check_interval 1"
    flags = f"{small} --model.sampler.num_steps 2 --samples.num_samples 2 --data.batch_size 4"
    assert main(["fit", "--config", "cifar10/quick", *flags.split()]) == 0
    run = "runs/cifar10/quick/version_0"
    options = "--operator Grayscale --method DDRM --method.num_steps 3 --num_images 2"
    assert main(["restore", run, *options.split()]) == 0
    with np.load("restored/restored.npz") as file:
        assert file["measurement"].shape == (2, 1, 32, 32)
