"""``scorelight evaluate`` and ``scorelight statistics``."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.runs import find_checkpoint


@pytest.fixture
def run(copied_run):
    """The run folder of the copy."""
    return copied_run / "runs/digits/vp_epsilon/version_0"


def evaluate(arguments):
    return main(["evaluate", "runs/digits/vp_epsilon", *arguments.split()])


def refused(arguments, message, run, capsys):
    """The command says what is wrong and does nothing."""
    assert evaluate(arguments) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in message), error
    assert not (run / "evaluation").exists()


def results(folder):
    (path,) = folder.glob("results-*.json")
    return json.loads(path.read_text())


def test_table_json_and_picture_are_in_the_run_folder_and_say_how(run, capsys):
    assert (
        evaluate("--num_samples 20 --seeds 0 1 --metrics FrechetDistance PrecisionRecall InceptionScore") == 0
    )
    found = results(run / "evaluation")
    assert {"frechet_distance", "precision", "recall", "inception_score"} < set(found["results"])
    assert found["results"]["precision"]["over"] == "seeds"
    assert len(found["results"]["precision"]["each"]) == 2
    protocol = found["protocol"]
    assert protocol["samples"] == "20, for each of the seeds 0, 1" and protocol["evaluations per sample"] == 3
    assert protocol["features"].startswith("scorelight.DigitsFeatures-")
    assert protocol["real examples"].endswith("all 1438")
    printed = capsys.readouterr().out
    assert "| frechet_distance" in printed and "DDIM(num_steps=3" in printed
    assert len(list((run / "evaluation").glob("samples-*.png"))) == 1
    assert printed.count("results-") == 2 and next((run / "evaluation").glob("*.md")).read_text() in printed


def test_likelihoods_of_validation_images(run):
    assert evaluate("--metrics=NegativeLogLikelihood,VariationalBoundMetric --num_images 5") == 0
    found = results(run / "evaluation")
    assert found["results"]["bits_per_dim"]["over"] == "examples"
    assert found["results"]["bits_per_dim"]["value"] < found["results"]["variational_bound"]["value"] + 1
    assert found["protocol"]["grey levels"] == 17 and found["protocol"]["dequantization"] == "uniform"
    assert "5 of 359" in found["protocol"]["validation examples"] and "samples" not in found["protocol"]


def test_the_defaults_do_with_few_samples(run):
    assert evaluate("--num_samples 15 --weights raw --sampler Euler --sampler.num_steps 2") == 0
    found = results(run / "evaluation")
    assert set(found["results"]) == {
        "frechet_distance",
        "kernel_distance",
        "kernel_distance_std",
        "precision",
        "recall",
    }
    assert found["protocol"]["weights"] == "raw"
    assert found["protocol"]["sampler"]["class_path"] == "scorelight.Euler"


def test_the_model_is_evaluated_on_other_data(run):
    np.savez("mine.npz", images=np.random.RandomState(0).randint(0, 256, (40, 8, 8), dtype=np.uint8))
    assert (
        evaluate("--num_samples 9 --metrics FrechetDistance --data ImageDataModule --data.path mine.npz") == 0
    )
    assert "mine-train" in results(run / "evaluation")["protocol"]["real examples"]


def test_an_interruption_is_reported_in_a_sentence_and_loses_nothing(run, capsys, monkeypatch):
    from scorelight.evaluation.evaluator import Evaluator

    def interrupted(self, *_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Evaluator, "_evaluate_samples", interrupted)
    assert evaluate("--num_samples 9") == 143
    error = capsys.readouterr().err
    assert "stopped by SIGTERM. Finished work is stored in" in error and "rerun the same command" in error


def test_statistics_are_exported_and_compared_with(run, capsys):
    assert main(["statistics", "--data", "DigitsDataModule", "--out", "statistics"]) == 0
    with np.load("statistics.npz") as file:
        assert file["mu"].shape == (64,) and file["sigma"].shape == (64, 64) and file["n"] == 1438
        assert "features" not in file
    assert evaluate("--num_samples 9 --metrics FrechetDistance --reference statistics.npz") == 0
    assert evaluate("--num_samples 9 --metrics FrechetDistance --out again") == 0
    ours, theirs = (results(folder)["results"] for folder in (run / "evaluation", run.parents[3] / "again"))
    assert ours["frechet_distance"]["value"] == pytest.approx(theirs["frechet_distance"]["value"], rel=1e-6)
    assert evaluate("--num_samples 9 --metrics PrecisionRecall --reference statistics.npz") == 2
    assert "--keep_features true" in capsys.readouterr().err
    assert (
        main(["statistics", "--data", "DigitsDataModule", "--out", "more.npz", "--keep_features", "true"])
        == 0
    )
    assert evaluate("--num_samples 9 --metrics PrecisionRecall --reference more.npz --out third") == 0


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--metrics FrechetDistanc", ["FrechetDistanc", "did you mean 'FrechetDistance'"]),
        ("--metrics KernelDistance --num_samples 9", ["KernelDistance", "num_samples=9", "1000"]),
        (
            "--metrics InceptionScore --features PixelFeatures --num_samples 20",
            ["InceptionScore", "classify"],
        ),
        ("--features MNISTFeatures --num_samples 9", ["28x28", "8x8"]),
        ("--features InceptionFeatures --features.weights no.pth --num_samples 9", ["no.pth"]),
        ("--num_samples 0", ["--num_samples 0"]),
        ("--num_samples 9 --reference nothing.npz", ["nothing.npz"]),
        ("--metrics NegativeLogLikelihood --dequantizer nothing.ckpt", ["nothing.ckpt"]),
        ("--num_samples 9 --metrics NegativeLogLikelihood --num_images 0", ["num_images"]),
        ("--num_sample 9", ["num_sample", "num_samples"]),
    ],
)
def test_mistakes(run, capsys, arguments, message):
    refused(arguments, message, run, capsys)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{class_path: NegativeLogLikelihood, init_args: {repeats: 0}}", ["repeats=0", "at least 1"]),
        ("{class_path: NegativeLogLikelihood, init_args: {num_steps: 0}}", ["num_steps=0", "at least 1"]),
        ("{class_path: KernelDistance, init_args: {num_subsets: 0}}", ["num_subsets=0"]),
        ("{class_path: KernelDistance, init_args: {subset_sizes: 9}}", ["subset_size"]),
        ("{class_path: KernelDistanc}", ["did you mean 'KernelDistance'"]),
        ("Metric", ["which Metric?", "FrechetDistance", "NegativeLogLikelihood"]),
        ("VPSDE", ["VPSDE", "Metric"]),
    ],
)
def test_mistakes_in_a_file_of_metrics(run, capsys, entry, message):
    (run / "metrics.yaml").write_text(f"metrics: [{entry}]\n")
    refused(f"--config {run}/metrics.yaml --num_samples 9", message, run, capsys)


def train_further():
    """Give the last layer, which starts at 0, weights as if it were trained."""
    path = find_checkpoint("runs/digits/vp_epsilon")
    checkpoint = read_checkpoint(path)
    weight = checkpoint["state_dict"]["ema.denoiser.network.last.weight"]
    torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    write_checkpoint(checkpoint, path)


def test_the_change_that_bf16_makes_is_reported_and_its_samples_are_kept_apart(run):
    train_further()
    options = "--num_samples 20 --seeds 0 1 --metrics FrechetDistance"
    assert evaluate(options) == 0
    exact = results(run / "evaluation")["results"]["frechet_distance"]
    assert evaluate(f"{options} --out both --precision bf16-mixed --compare_float32 true") == 0
    report = results(run.parents[3] / "both")
    found, protocol = report["results"], report["protocol"]
    assert protocol["precision"] == "bf16-mixed"
    assert found["frechet_distance_float32"] == exact != found["frechet_distance"]
    pairs = zip(found["frechet_distance"]["each"], exact["each"], strict=True)
    assert found["frechet_distance_change"]["each"] == [a - b for a, b in pairs]
    assert 0 < abs(found["frechet_distance_change"]["value"]) < 0.1 * exact["value"]
    assert len([p for p in (run.parents[3] / "both").glob("samples-*") if p.is_dir()]) == 4


def test_likelihoods_are_computed_in_float32_whatever_the_precision_of_samples(run):
    options = "--metrics NegativeLogLikelihood FrechetDistance --num_images 3 --num_samples 9"
    assert evaluate(options) == 0
    assert evaluate(f"{options} --precision bf16-mixed --compare_float32 true --batch_size auto") == 0
    one, two = (json.loads(path.read_text()) for path in (run / "evaluation").glob("results-*.json"))
    assert one["results"]["bits_per_dim"] == two["results"]["bits_per_dim"]
    assert len([p for p in (run / "evaluation").glob("examples-*") if p.is_dir()]) == 1
    assert not any("bits_per_dim_change" in report["results"] for report in (one, two))


def test_the_size_of_batches_is_stated_and_is_no_part_of_the_report(run, capsys):
    assert evaluate("--num_samples 40 --metrics FrechetDistance") == 0
    one = results(run / "evaluation")
    assert evaluate("--num_samples 40 --metrics FrechetDistance --batch_size auto --out auto") == 0
    assert "batch size: up to 16 on the first device" in capsys.readouterr().out
    two = results(run.parents[3] / "auto")
    assert two["protocol"] == one["protocol"]
    assert two["results"]["frechet_distance"]["value"] == pytest.approx(
        one["results"]["frechet_distance"]["value"], rel=1e-4
    )
