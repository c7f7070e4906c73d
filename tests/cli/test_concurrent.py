"""Two commands at once on one run, and samples that are not finite: the command line."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.commands import refusal

from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.lock import exclusive
from scorelight.storage.runs import find_checkpoint

pytestmark = pytest.mark.usefixtures("copied_run")
RUN = "runs/digits/vp_epsilon"


def poison():
    """Fill the averaged weights of the run with NaN, as a diverged training would."""
    path = find_checkpoint(RUN)
    checkpoint = read_checkpoint(path)
    for name, value in checkpoint["state_dict"].items():
        if name.startswith("ema.denoiser.network") and value.is_floating_point():
            value.fill_(math.nan)
    write_checkpoint(checkpoint, path)


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (["sample", RUN, "--num_samples", "3"], "samples"),
        (["sample", RUN, "--num_samples", "3", "--sampler", "RK45"], "samples"),
        (["evaluate", RUN, "--num_samples", "3", "--metrics", "FrechetDistance", "--out", "e"], "e"),
        (["interpolate", RUN, "--num_pairs", "1"], "interpolation.png"),
    ],
    ids=lambda value: " ".join(value[2:5:2]) if isinstance(value, list) else value,
)
def test_samples_of_a_network_of_nan_stop_the_command(command, written, capsys):
    poison()
    message = refusal(capsys, *command, code=1)
    assert "3 of 3" in message or "2 of 2" in message
    assert "step 1" in message and "weights of the network are not finite" in message
    assert not [*Path(written).rglob("*.png"), *Path(written).rglob("*.npz"), *Path(written).rglob("*.json")]
    assert not Path(written).is_file()


def test_a_process_with_too_much_noise_is_named(capsys):
    path = find_checkpoint(RUN)
    checkpoint = read_checkpoint(path)
    checkpoint["hyper_parameters"]["process"] = {
        "class_path": "scorelight.VPSDE",
        "init_args": {"beta_max": 1000.0},
    }
    write_checkpoint(checkpoint, path)
    message = refusal(capsys, "sample", RUN, "--num_samples", 3, "--sampler", "Euler", code=1)
    assert "Euler: 3 of 3 samples" in message and "smaller beta_max" in message


def test_a_folder_that_another_command_writes_to_is_refused(capsys):
    assert main(["sample", RUN, "--num_samples", "3"]) == 0
    before = Path("samples/samples.npz").read_bytes()
    with exclusive(Path("samples/parts")):
        message = refusal(capsys, "sample", RUN, "--num_samples", "5")
    assert "samples/parts: another process is writing there" in message
    assert Path("samples/samples.npz").read_bytes() == before
    assert main(["sample", RUN, "--num_samples", "5"]) == 0
    with np.load("samples/samples.npz") as found:
        assert found["images"].shape == (5, 8, 8, 1)


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-m", "scorelight", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def ended(process):
    output, _ = process.communicate(timeout=300)
    return process.returncode, output.decode()


@pytest.mark.slow
def test_two_evaluations_at_once_store_every_row_once():
    """With other batch sizes, the second one waits, and takes what the first has stored."""
    options = [
        "--metrics",
        "NegativeLogLikelihood",
        "FrechetDistance",
        "--num_samples",
        150,
        "--num_images",
        60,
    ]
    running = [start("evaluate", RUN, *options, "--batch_size", size) for size in (7, 11)]
    for code, output in map(ended, running):
        assert code == 0, output
    (result,) = Path(RUN).rglob("results-*.json")
    assert main(["evaluate", RUN, *map(str, options), "--out", "alone"]) == 0
    (alone,) = Path("alone").glob("results-*.json")
    both, one = (json.loads(path.read_text())["results"] for path in (result, alone))
    for name in ("bits_per_dim", "frechet_distance"):
        assert both[name]["value"] == pytest.approx(one[name]["value"], rel=1e-4)
    assert both["bits_per_dim"]["standard_error"] == pytest.approx(
        one["bits_per_dim"]["standard_error"], rel=1e-3
    )
    for kind, num in (("samples", 150), ("examples", 60)):
        (folder,) = (p for p in Path(RUN).rglob(f"{kind}-*") if p.is_dir())
        indices = np.concatenate([np.load(path)["index"] for path in folder.glob("*.npz")])
        assert sorted(indices) == list(range(num))


@pytest.mark.slow
def test_of_two_commands_that_draw_into_one_folder_one_is_refused_and_the_other_complete():
    many = [start("sample", RUN, "--num_samples", 400, "--seed", seed, "--batch_size", 4) for seed in (1, 2)]
    results = sorted(map(ended, many))
    (first, _), (second, message) = results  # of two that do not overlap, neither is refused
    assert first == 0 and (second == 0 or (second == 2 and "another process is writing there" in message))
    assert "Traceback" not in message
    with np.load("samples/samples.npz") as found:
        images, seed = found["images"], int(found["seed"])
    assert len(images) == 400
    assert main(["sample", RUN, "--num_samples", "400", "--seed", str(seed), "--out", "alone"]) == 0
    with np.load("alone/samples.npz") as alone:
        assert abs(alone["images"].astype(int) - images).max() <= 1  # rounding may fall either way


@pytest.mark.slow
def test_a_command_that_was_killed_leaves_its_folder_free():
    first = start("sample", RUN, "--num_samples", 100_000, "--batch_size", 4)
    while not list(Path("samples/parts").glob("*.npz")):
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    first.stdout.close()
    assert main(["sample", RUN, "--num_samples", "5"]) == 0
    with np.load("samples/samples.npz") as found:
        assert len(found["images"]) == 5
