"""What a run costs on one to 1,024 processes: measured on two cores where that is possible, else counted.

    python benchmarks/scale.py           # twenty minutes on two shared cores
    python benchmarks/scale.py --docs    # only writes what follows from scale.json: .md, .png, docs/scale.md

* Noise: numbers of one of W processes for a batch of 16 images of 3x64x64, by `module_generator`, which
  computes its own only; by one `torch.Generator` that draws the batch of all processes, from which each
  takes its own; and by `torch.randn` for its own alone, whose values differ with W. CPU
  seconds, in turns, medians; peak memory in a process of its own.
* Steps: two processes over gloo take steps of `scorelight fit`. Collectives are those that PyTorch's profiler
  sees between the start of a batch and that of the next. Reads are numbers of tensors that the host asks for
  (`aten::_local_scalar_dense` and `Tensor.tolist`), with the function that asks; the table leaves out those
  of tensors that are on the host in a run on GPUs, too (ON_HOST).
* Loader: batches of one of W processes, CPU seconds by example; one pass.
* Checkpoints: tensors of some sizes, written (with its checksum, and synced) and read (verified) by
  `write_checkpoint` and `read_checkpoint`. Wall-clock seconds, since they wait for the disk.
* Model: `RunCost` of cifar10/ddpmpp_vp, and of DDPM++ for images of 256x256, on 1 to 1,024 processes. Times
  follow from the counts and the numbers under ASSUMED, which are round numbers for a GPU of a data centre at
  mixed precision, not measured; those of checkpoints and of the order of a pass from what is measured here.

Writes scale.json, .md and .png beside this file; with --only, parts of scale.json again, with their commit.
"""

import argparse
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import matplotlib
import torch
from common import HERE, RESULTS, commit

from scorelight import (
    VPSDE,
    Epsilon,
    EpsilonPrediction,
    EulerMaruyama,
    NCSNpp,
    ScoreModule,
)
from scorelight.cli import main
from scorelight.data.arrays import Arrays
from scorelight.data.loaders import TrainLoader
from scorelight.evaluation.run_cost import Drawing, Link, RunCost, RunPlan, evaluations_per_sample
from scorelight.rng import PhiloxGenerator, rand, randn_like
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.training.randomness import module_generator
from scorelight.training.step_cost import count_step

SEED = 0
PROCESSES = (1, 8, 64, 1024)
BATCH, SHAPE = 16, (3, 64, 64)
ASSUMED = {"FLOP/s": 5e13, "memory_bytes/s": 2e12, **Link()._asdict()}
DOCS = HERE.parent / "docs/scale.md"


def seconds_in_turns(jobs, rounds, clock=time.process_time):
    """{name: median seconds}; every round begins with another job."""
    times, names = {name: [] for name in jobs}, list(jobs)
    for job in jobs.values():
        job()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = clock()
            jobs[name]()
            times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


# Noise


def own_numbers(world, shape=SHAPE, batch=BATCH):
    """Times and noise of the last process, as a training step draws them."""
    module = SimpleNamespace(
        trainer=SimpleNamespace(world_size=world, accumulate_grad_batches=1),
        global_rank=world - 1,
        global_step=3,
    )
    generator = module_generator(module, SEED, 0, batch, torch.device("cpu"))
    return rand(batch, generator, torch.device("cpu")), randn_like(torch.empty(batch, *shape), generator)


def numbers_of_all(world):
    """The same of one generator for the batch of all processes."""
    generator = torch.Generator().manual_seed(SEED)
    t = torch.rand(world * BATCH, generator=generator, dtype=torch.float64)[world - 1 :: world]
    return t, torch.randn(world * BATCH, *SHAPE, generator=generator)[world - 1 :: world].clone()


def plain_numbers(world):
    return torch.rand(BATCH, dtype=torch.float64), torch.randn(BATCH, *SHAPE)


WAYS = {"own": own_numbers, "of all": numbers_of_all, "torch.randn": plain_numbers}


def peak(way, world):
    """MB by which a process grows that draws its numbers once."""
    command = [sys.executable, __file__, "--peak", way, str(world)]
    return float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def own_peak(way, world):
    WAYS[way](1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    before = status("VmHWM")
    WAYS[way](world)
    return (status("VmHWM") - before) / 1e3


def status(name):
    """A number of this process, in kB."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def noise(rounds, processes):
    rows = []
    for world in processes:
        seconds = seconds_in_turns({way: partial(f, world) for way, f in WAYS.items()}, rounds)
        rows.append(
            {
                "processes": world,
                "ms": {way: 1e3 * value for way, value in seconds.items()},
                "MB": {way: peak(way, world) for way in WAYS},
            }
        )
    return rows


def repeated(times, job, *args):
    for _ in range(times):
        job(*args)


def by_shape(rounds):
    """Nanoseconds a number."""
    rows = []
    for batch, *shape in ((256, 2), (64, 1, 8, 8), (BATCH, *SHAPE), (4, 3, 256, 256)):
        x = torch.empty(batch, *shape)
        times = max(10**6 // x.numel(), 1)
        jobs = {
            "own": partial(repeated, times, own_numbers, 8, shape, batch),
            "torch.randn": partial(repeated, times, torch.randn, batch, *shape),
        }
        each = {k: 1e9 * v / times / x.numel() for k, v in seconds_in_turns(jobs, rounds).items()}
        rows.append({"shape": [batch, *shape], "ns": each})
    return rows


def points(rounds):
    """Noise of 4,096 samples of two numbers, in ms: ours, a generator of torch for each, and one for all."""
    x = torch.empty(4096, 2)

    def of_each():
        return torch.stack(
            [torch.randn(2, generator=torch.Generator().manual_seed(i)) for i in range(len(x))]
        )

    jobs = {
        "own": lambda: randn_like(x, PhiloxGenerator(SEED, range(len(x)))),
        "a generator each": of_each,
        "torch.randn": lambda: torch.randn(4096, 2),
    }
    return {name: 1e3 * value for name, value in seconds_in_turns(jobs, rounds).items()}


# Collectives and reads of a step

COUNT = '''
import json, os, sys, traceback
from collections import Counter
import torch
from lightning.pytorch import Callback
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode


def place():
    """The innermost function of scorelight or Lightning."""
    for frame in reversed(traceback.extract_stack()):
        for package in ("scorelight", "lightning"):
            folder = f"/{package}/"
            if folder in frame.filename and "/cli/" not in frame.filename:
                return f"{package}/{frame.filename.rpartition(folder)[2]}:{frame.name}"
    return "elsewhere"


class Reads(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.places = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten._local_scalar_dense:
            self.places[place()] += 1
        return func(*args, **(kwargs or {}))


class Count(Callback):
    """From the start of each batch to that of the next: steps 10 to 29, each by itself."""

    def __init__(self):
        self.steps, self.running = [], None
        self.tolist = torch.Tensor.tolist

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.stop(trainer)
        if 10 <= trainer.global_step < 30:
            self.running = profile(activities=[ProfilerActivity.CPU]), Reads()
            reads, tolist = self.running[1], self.tolist
            def counted(tensor):
                reads.places[place()] += 1
                return tolist(tensor)
            torch.Tensor.tolist = counted
            for part in self.running:
                part.__enter__()

    def stop(self, trainer):
        if self.running is None:
            return
        profiler, reads = self.running
        self.running, torch.Tensor.tolist = None, self.tolist
        reads.__exit__(None, None, None)
        profiler.__exit__(None, None, None)
        calls = [e for e in profiler.events() if e.name.startswith("c10d::")]
        # an operation that the mode `Reads` calls is seen again below it
        outer = [e for e in calls if e.cpu_parent is None or e.cpu_parent.name != "PythonDispatchMode"]
        names = Counter(e.name for e in outer)
        logged = trainer.global_step % trainer.log_every_n_steps == 0
        self.steps.append({"logged": logged, "collectives": names, "reads": reads.places})

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero:
            with open("counts.json", "w") as file:
                json.dump(self.steps, file)
'''

ON_HOST = {
    "lightning/fabric/utilities/apply_func.py:to_item",  # numbers that never were on a device
    "scorelight/training/agreement.py:finish",
    "scorelight/conditions.py:class_rows",  # on a GPU a label is checked by an assertion of the device
}
STEP_CONFIGS = ("toy/vp_epsilon", "digits/vp_epsilon_conditional", "digits/ddpm_hybrid", "toy/ddpm_bound")


def counted_steps(name):
    """Collectives and reads of the steps of a configuration on two processes."""
    flags = (
        "--trainer.devices 2 --trainer.accelerator cpu --trainer.strategy ddp --trainer.max_steps 32 "
        "--trainer.val_check_interval 1000 --trainer.limit_val_batches 0 --trainer.log_every_n_steps 5 "
        "--trainer.enable_progress_bar false --trainer.logger false --checkpoint.every_n_steps 1000 "
        "--samples.num_samples 1 --samples.every_n_steps 1000 --trainer.callbacks+ count_calls.Count"
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "count_calls.py").write_text(COUNT)
        command = [sys.executable, "-m", "scorelight", "fit", "--config", name, *flags.split()]
        paths = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        steps = json.loads((Path(folder) / "counts.json").read_text())
    return {"config": name, **{kind: mean_counts(steps, kind == "logged") for kind in ("ordinary", "logged")}}


def mean_counts(steps, logged):
    chosen = [step for step in steps if step["logged"] == logged]
    total = {kind: sum((Counter(s[kind]) for s in chosen), Counter()) for kind in ("collectives", "reads")}
    return {
        "steps": len(chosen),
        **{kind: {k: v / len(chosen) for k, v in sorted(c.items())} for kind, c in total.items()},
    }


# Loader


def one_pass(examples, batch, world):
    for _ in TrainLoader(examples, batch, SEED, world - 1, world, flip=True):
        pass


def loader(rounds, processes):
    """CPU microseconds for an example of one process, over a pass."""
    rows = []
    cases = [("50,000 of 3x32x32", 50_000, (3, 32, 32), processes)]
    cases += [("1,281,167 of 1 number", 1_281_167, (1, 1, 1), processes[-1:])]
    for label, number, shape, worlds in cases:
        examples, batch = Arrays(torch.zeros(number, *shape, dtype=torch.uint8), {}), BATCH
        for world in worlds:
            given = len(TrainLoader(examples, batch, SEED, world - 1, world, flip=True)) * batch

            read = partial(one_pass, examples, batch, world)
            seconds = seconds_in_turns({"pass": read}, rounds)["pass"]
            row = {"data": label, "examples": number, "processes": world, "of_this_process": given}
            rows.append(row | {"ms_per_pass": 1e3 * seconds, "us_per_example": 1e6 * seconds / given})
    return rows


# Checkpoints


def checkpoints(rounds, sizes):
    """Seconds to write and to read a checkpoint, by its MB."""
    rows = []
    for megabytes in sizes:
        number = 250_000 * megabytes // 100
        content = {"state_dict": {f"weight{i}": torch.randn(number) for i in range(100)}}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "last.ckpt"
            write = seconds_in_turns(
                {"write": lambda p=path, c=content: write_checkpoint(c, p)}, rounds, time.perf_counter
            )
            read = seconds_in_turns({"read": lambda p=path: read_checkpoint(p)}, rounds, time.perf_counter)
            rows.append({"MB": path.stat().st_size / 1e6, **write, **read})
    return rows


# Model


def cifar():
    """Counts of the shipped configuration, as `scorelight fit --dry_run` gets them."""
    found = []
    with mock.patch("scorelight.cli.fit.report", lambda cost, *_: found.append(cost) or ""):
        assert (
            main(["fit", "--config", "cifar10/ddpmpp_vp", "--trainer.accelerator", "cpu", "--dry_run"]) == 0
        )
    return found[0]


def large():
    """DDPM++ with the stages of Song et al.'s networks for 256x256, on as many images as ImageNet has."""
    network = NCSNpp(
        (3, 256, 256),
        multipliers=(1, 1, 2, 2, 2, 2, 2),
        num_blocks=2,
        attention_stages=(4,),
        dropout=0.0,
        fir=None,
        fourier_scale=None,
        progressive_input="none",
    )
    sampler = EulerMaruyama(num_steps=1000)
    module = ScoreModule(network, VPSDE(t_min=1e-5), Epsilon(), EpsilonPrediction(), sampler)
    drawing = Drawing("pictures", 64, sampler, 26, divided=False)
    plan = RunPlan(
        processes=1,
        batch_size=8,
        num_steps=1_300_000,
        num_validations=130,
        train_examples=1_281_167,
        val_examples=50_000,
        example_bytes=3 * 256**2,
        checkpoint_every=10_000,
        drawings=((drawing, evaluations_per_sample(module, sampler)),),
    )
    return RunCost(count_step(module), plan)


def scaled(cost, world, measured, batch_size=None):
    """A row of the model: counts and times of a step on so many processes."""
    plan = replace(cost.plan, processes=world, batch_size=batch_size or cost.plan.batch_size)
    cost = RunCost(cost.model, plan)
    link = Link(ASSUMED["bytes_per_second"], ASSUMED["latency"])
    compute = max(cost.step_flops / ASSUMED["FLOP/s"], cost.moved_bytes / ASSUMED["memory_bytes/s"])
    passes = cost.examples * world / plan.train_examples
    flops = cost.run_flops()
    seconds = {
        "compute": compute,
        "gradient": cost.reduction_seconds(link) if world > 1 else 0.0,
        "stop_flag": 2 * (world - 1) * ASSUMED["latency"],
        "order_of_a_pass": passes * plan.train_examples * measured["order_ns"] / 1e9,
        "checkpoint": cost.model.checkpoint_bytes
        / measured["checkpoint_bytes_per_second"]
        / plan.checkpoint_every,
        "pictures": flops["pictures"] / ASSUMED["FLOP/s"] / plan.num_steps,
        "validation": flops["validation"] / ASSUMED["FLOP/s"] / plan.num_steps,
    }
    return {
        "processes": world,
        "batch_size": plan.batch_size,
        "examples": cost.examples * world,
        "passes": passes,
        "FLOP": cost.step_flops,
        "moved_bytes": cost.moved_bytes,
        "memory_bytes": cost.memory_bytes,
        "sent_bytes": cost.sent_bytes,
        "gradient_collectives": cost.gradient_collectives,
        "other_collectives": cost.other_collectives,
        "random_numbers": cost.random_numbers,
        "read_bytes": cost.read_bytes,
        "seconds": seconds,
        "efficiency": efficiency(seconds),
    }


def efficiency(seconds):
    """Share of the computing of training in the time.

    The gradient is sent during the backward pass, two thirds of a step; the stop flag and the order of a pass
    take their time beside it. Checkpoints, pictures and validation come on top.
    """
    backward = max(2 / 3 * seconds["compute"], seconds["gradient"])
    step = max(seconds["compute"] / 3 + backward, seconds["stop_flag"], seconds["order_of_a_pass"])
    return seconds["compute"] / (step + sum(seconds[k] for k in ("checkpoint", "pictures", "validation")))


def modelled(name, cost, measured, processes):
    size = cost.plan.batch_size
    strong = [(world, size // world) for world in processes]
    return {
        "name": name,
        "model": cost.model._asdict(),
        "plan": {k: v for k, v in asdict(cost.plan).items() if k != "drawings"},
        "run_FLOP": cost.run_flops(),
        "checkpoints": cost.num_checkpoints,
        "weak": [scaled(cost, world, measured) for world in processes],
        "strong": [
            scaled(cost, world, measured, each) if each else {"processes": world} for world, each in strong
        ],
    }


# Report


def table(header, rows):
    return [f"| {' | '.join(header)} |", f"| {' | '.join(['---'] * len(header))} |"] + [
        f"| {' | '.join(map(str, row))} |" for row in rows
    ]


def digits(value, unit=""):
    """Three significant digits with a decimal prefix."""
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, "")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.3g} {prefix}{unit}".strip()
    return f"{value:.3g} {unit}".strip()


def ms(value):
    return f"{1e3 * value:,.0f}" if value >= 1e-2 else f"{1e3 * value:.2g}"


def noise_table(result):
    header = ["processes", "own numbers, ms", "those of all, ms", "torch.randn, ms"]
    rows = result["noise"]
    cells = [
        [f"{r['processes']:,}", *(f"{r['ms'][w]:,.1f}" for w in WAYS), *(f"{r['MB'][w]:,.0f}" for w in WAYS)]
        for r in rows
    ]
    return table([*header, "own, MB", "of all, MB", "torch.randn, MB"], cells)


def shape_table(result):
    rows = result["noise_by_shape"]
    cells = [["x".join(map(str, r["shape"])), *(f"{v:.1f}" for v in r["ns"].values())] for r in rows]
    return table(["shape of a batch", "own, ns a number", "torch.randn, ns"], cells)


def step_table(result):
    cells = []  # without the reads of what is on the host anyway
    for row in result["steps"]:
        for kind in ("ordinary", "logged"):
            r = row[kind]
            parts = ", ".join(f"{v:.3g} `{k.rpartition(':')[2]}`" for k, v in r["collectives"].items())
            asked = {k: v for k, v in r["reads"].items() if k not in ON_HOST}
            reads = ", ".join(f"{v:.3g} `{k.rpartition('/')[2]}`" for k, v in asked.items())
            cells.append([f"`{row['config']}`", kind, parts or "none", reads or "none"])
    return table(["configuration", "step", "collectives", "reads from the device"], cells)


def loader_table(result):
    cells = [
        [
            r["data"],
            f"{r['processes']:,}",
            f"{r['of_this_process']:,}",
            f"{r['ms_per_pass']:.1f}",
            f"{r['us_per_example']:.2f}",
        ]
        for r in result["loader"]
    ]
    return table(["data", "processes", "examples of one", "ms for a pass", "µs an example"], cells)


def checkpoint_table(result):
    cells = [
        [
            f"{r['MB']:,.0f}",
            *(f"{r[k]:.2f}" for k in ("write", "read")),
            *(f"{r['MB'] / r[k]:,.0f}" for k in ("write", "read")),
        ]
        for r in result["checkpoints"]
    ]
    return table(["MB", "write, s", "read, s", "write, MB/s", "read, MB/s"], cells)


def model_table(result, index):
    model, run = result["models"][index]["model"], result["models"][index]
    flops = run["run_FLOP"]
    cells = [
        ["parameters", f"{model['parameters']:,}"],
        ["network, one example", digits(model["network_flops"], "FLOP")],
        ["loss and gradient, one example", digits(model["step_flops"], "FLOP")],
        ["activations, one example", digits(model["activation_bytes"], "B")],
        ["parameters and gradient", digits(2 * model["parameter_bytes"], "B")],
        [
            "optimizer, average",
            f"{digits(model['optimizer_bytes'], 'B')}, {digits(model['averaged_bytes'], 'B')}",
        ],
        [
            "checkpoint",
            f"{digits(model['checkpoint_bytes'], 'B')} in {model['checkpoint_tensors']:,} tensors",
        ],
        ["data of one example", digits(run["plan"]["example_bytes"], "B")],
        *([f"run on one process: {what}", digits(value, "FLOP")] for what, value in flops.items()),
    ]
    return table([f"`{run['name']}`" if "/" in run["name"] else run["name"], ""], cells)


def count_table(result, index):
    cells = [
        [
            f"{r['processes']:,}",
            f"{r['examples']:,}",
            digits(r["FLOP"], "FLOP"),
            digits(r["moved_bytes"], "B"),
            digits(r["memory_bytes"], "B"),
            digits(r["sent_bytes"], "B"),
            f"{r['gradient_collectives']} + {r['other_collectives']}",
            f"{r['random_numbers']:,}",
            digits(r["read_bytes"], "B"),
        ]
        for r in result["models"][index]["weak"]
    ]
    header = ["processes", "examples of all", "computed", "moved", "memory", "gradient sent", "collectives"]
    return table([*header, "random numbers", "data read"], cells)


PARTS = ("compute", "gradient", "stop_flag", "order_of_a_pass", "checkpoint", "pictures", "validation")


def time_table(result, index, kind):
    cells = []
    for r in result["models"][index][kind]:
        if "seconds" not in r:
            cells.append([f"{r['processes']:,}", "fewer than one", *["" for _ in PARTS], "not possible"])
        else:
            times = [ms(r["seconds"][part]) for part in PARTS]
            cells.append([f"{r['processes']:,}", r["batch_size"], *times, f"{r['efficiency']:.0%}"])
    names = [part.replace("_", " ") for part in PARTS]
    return table(["processes", "examples of each", *names, "efficiency"], cells)


def tables(result):
    """{name: lines} of every table."""
    made = {
        "noise": noise_table(result),
        "noise by shape": shape_table(result),
        "steps": step_table(result),
        "loader": loader_table(result),
        "checkpoints": checkpoint_table(result),
    }
    for i, run in enumerate(result["models"]):
        made[f"model {run['name']}"] = model_table(result, i)
        made[f"counts {run['name']}"] = count_table(result, i)
        for kind in ("weak", "strong"):
            made[f"{kind} {run['name']}"] = time_table(result, i, kind)
    return made


def filled_in(text, result):
    """The text with each block between `<!-- table: NAME -->` and `<!-- end -->` replaced by its table."""
    for name, lines in tables(result).items():
        before, start, rest = text.partition(f"<!-- table: {name} -->\n")
        if start:
            text = before + start + "\n".join(lines) + "\n" + "".join(rest.partition("<!-- end -->")[1:])
    return text


def picture(result, path):
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 1 + len(result["models"]), figsize=(13, 4), layout="constrained")
    rows = result["noise"]
    for way in WAYS:
        axes[0].loglog([r["processes"] for r in rows], [r["ms"][way] for r in rows], "o-", label=way)
    axes[0].set(title="noise of one process, measured", xlabel="processes", ylabel="CPU ms a step")
    for axis, run in zip(axes[1:], result["models"], strict=True):
        for part in PARTS:
            values = [max(1e3 * r["seconds"][part], 1e-3) for r in run["weak"]]
            axis.loglog([r["processes"] for r in run["weak"]], values, "o-", label=part.replace("_", " "))
        axis.set(title=f"{run['name']}, modelled", xlabel="processes", ylabel="ms a step")
    for axis in axes:
        axis.legend(fontsize="x-small")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def parts(quick):
    """{name: function that measures it}."""
    rounds, processes = (1, (1, 1024)) if quick else (7, PROCESSES)
    configs = STEP_CONFIGS[:1] if quick else STEP_CONFIGS
    return {
        "noise": lambda: noise(rounds, processes),
        "noise_by_shape": lambda: by_shape(rounds),
        "noise_of_4096_points_ms": lambda: points(rounds),
        "steps": lambda: [counted_steps(name) for name in configs],
        "loader": lambda: loader(1 if quick else 3, processes),
        "checkpoints": lambda: checkpoints(1 if quick else 3, (1, 4) if quick else (4, 40, 400, 1000)),
    }


def measure(quick, only, before):
    """The results, with only some parts measured again if so wanted."""
    begin, measured_commit = time.perf_counter(), commit()
    result = before | {
        "commit": before.get("commit", measured_commit),
        "commits_of_parts": before.get("commits_of_parts", {}),
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "lightning")},
        "seed": SEED,
        "assumed": ASSUMED,
    }
    for name, part in parts(quick).items():
        if not only or name in only:
            result[name] = part()
            if only:
                result["commits_of_parts"] |= {name: measured_commit}
    order, largest = result["loader"][-1], result["checkpoints"][-1]
    speeds = {
        "order_ns": 1e6 * order["ms_per_pass"] / order["examples"],
        "checkpoint_bytes_per_second": 1e6 * largest["MB"] / largest["write"],
    }
    models = {"cifar10/ddpmpp_vp": cifar} | ({} if quick else {"DDPM++ 256x256": large})
    result["measured_speeds"] = speeds
    if not only or "models" in only:
        result["models"] = [modelled(name, make(), speeds, PROCESSES) for name, make in models.items()]
    return {"seconds": round(time.perf_counter() - begin)} | result


def write(result):
    (RESULTS / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
    text = "\n".join(f"{name}:\n\n" + "\n".join(lines) + "\n" for name, lines in tables(result).items())
    (RESULTS / "scale.md").write_text(text)
    picture(result, RESULTS / "scale.png")
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a little of everything, for the test")
    parser.add_argument("--docs", action="store_true", help="only write what follows from scale.json")
    parser.add_argument("--check", action="store_true", help="only compare the tables of docs/scale.md")
    parser.add_argument("--only", nargs="+", help="measure these parts of scale.json again")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(own_peak(arguments.peak[0], int(arguments.peak[1])))
    elif arguments.docs or arguments.check:
        text, result = DOCS.read_text(), json.loads((HERE / "scale.json").read_text())
        if arguments.check:
            sys.exit(text != filled_in(text, result))
        write(result)
        DOCS.write_text(filled_in(text, result))
    else:
        before = json.loads((RESULTS / "scale.json").read_text()) if arguments.only else {}
        print(write(measure(arguments.quick, arguments.only, before)))
