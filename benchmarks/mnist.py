"""The MNIST models: how they were trained and how good they are.

    scorelight fit --config mnist/quick                  # ten minutes
    scorelight fit --config mnist/vp_edm                 # an hour or two
    scorelight fit --config mnist/vp_edm_conditional     # 51 minutes
    python benchmarks/mnist.py runs/mnist/quick/version_0 runs/mnist/vp_edm/version_0   # any of them

Evaluates each run with `scorelight evaluate` (which resumes if it was interrupted), reads its curves from the
TensorBoard files, and writes mnist.json and mnist.md, mnist.png with the curves, and the first 64 samples
of each as mnist_NAME.png beside this file. Samples are not selected: the first seed's, from the first on.
A model whose run is not given stays as it was. Options that are not listed in --help are passed to
`scorelight evaluate`: a sampler other than that of the run.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import yaml
from common import RESULTS, commit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

METRICS = ["FrechetDistance", "KernelDistance", "PrecisionRecall", "InceptionScore", "NegativeLogLikelihood"]
EVALUATION_FOLDER = "benchmark"  # in each run folder
PANELS = {
    "train/loss": "training loss (mean of 50 logged steps)",
    "val/loss": "validation loss",
    "val/frechet_distance": "Fréchet distance while training",
    "val/bits_per_dim": "bits/dim, 32 test images",
}


def curves(run):
    """Those of `PANELS`, as name -> [(step, value), ...], and the seconds from the first log to the last."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    last = max(p.wall_time for points in scalars.values() for p in points)
    seconds = last - events.FirstEventTimestamp()
    logged = {name: [(p.step, p.value) for p in scalars[name]] for name in PANELS if name in scalars}
    return logged | {"train/loss": smooth(logged["train/loss"])}, seconds


def evaluate_run(run, options):
    """The results of `scorelight evaluate`, and its picture of the first samples."""
    folder = run / EVALUATION_FOLDER
    command = ["evaluate", str(run), "--metrics", *METRICS, "--num_samples", str(options.num_samples)]
    command += ["--seeds", *map(str, options.seeds), "--num_images", str(options.num_images)]
    command += options.sampler
    for old in folder.glob("results-*"):
        old.unlink()
    subprocess.run(
        [sys.executable, "-m", "scorelight", *command, "--out", str(folder), "--devices", options.devices],
        check=True,
    )
    (file,) = folder.glob("results-*.json")
    picture = min(folder.glob("samples-*.png"), key=lambda path: path.stat().st_mtime)
    _, protocol = file.with_suffix(".md").read_text().split("\n\n", 1)
    more = {"command": f"scorelight {' '.join(command)}", "stated": protocol}
    return json.loads(file.read_text()) | more, picture


def table(runs):
    """Markdown: a column a run."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run["results"]))
    lines = [f"| | {' | '.join(f'`mnist/{name}`' for name in runs)} |", f"| --- |{' --- |' * len(runs)}"]
    for name in names:
        cells = [_cell(run["results"].get(name)) for run in runs.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    for what, of in {
        "validation loss at the end": lambda r: f"{r['curves']['val/loss'][-1][1]:.4f}",
        "steps": lambda r: str(max(points[-1][0] for points in r["curves"].values()) + 1),
        "minutes of training and validation": lambda r: f"{r['seconds'] / 60:.0f}",
    }.items():
        lines.append(f"| {what} | {' | '.join(of(run) for run in runs.values())} |")
    return "\n".join(lines)


def _cell(result):
    if result is None:
        return ""
    error = result["standard_error"]
    return f"{result['value']:.4g}" + (f" ± {error:.2g}" if error is not None else "")


def draw(runs, path):
    """Losses and metrics by step."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3), constrained_layout=True)
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        for number, (label, run) in enumerate(runs.items()):
            if name not in run["curves"]:
                continue  # a run without its callback
            steps, values = zip(*run["curves"][name], strict=True)
            mark = "o-" if len(steps) < 20 else "-"
            axis.plot(steps, values, mark, label=label, markersize=3, color=f"C{number}")
        axis.set(title=title, xlabel="step", yscale="log")
    axes[1].legend()
    figure.savefig(path, dpi=110)


def smooth(points, width=50):
    """Means of so many points, each at the step of the last."""
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--num_samples", type=int, default=2000)
    parser.add_argument("--num_images", type=int, default=300, help="test images for likelihoods")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3])
    parser.add_argument(
        "--devices", default="1", help="processes that evaluate; the results do not depend on it"
    )
    options, options.sampler = parser.parse_known_args()
    file = RESULTS / "mnist.json"
    runs = json.loads(file.read_text()) if file.exists() else {}
    for run in options.runs:
        config = yaml.safe_load((run / "config.yaml").read_text())
        name = Path(config["trainer"]["default_root_dir"]).name
        results, picture = evaluate_run(run, options)
        logged, seconds = curves(run)
        config["data"]["init_args"]["root"] = "data"  # where MNIST was stored does not matter
        runs[name] = results | {"config": config, "curves": logged, "seconds": seconds, "commit": commit()}
        (RESULTS / f"mnist_{name}.png").write_bytes(picture.read_bytes())
    runs = dict(sorted(runs.items()))
    draw(runs, RESULTS / "mnist.png")
    text = f"# The MNIST models\n\n{table(runs)}\n\nErrors are standard errors, over "
    text += "the seeds for samples and over the test images for likelihoods.\n"
    for name, run in runs.items():
        text += f"\n## {name}\n\n![samples](mnist_{name}.png)\n\n{run['stated']}"
        text += f"* commit: {run['commit']}\n* seed of the training: {run['config']['seed_everything']}\n"
    (RESULTS / "mnist.md").write_text(text)
    file.write_text(json.dumps(runs, indent=1) + "\n")
