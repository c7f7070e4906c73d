"""What a training step costs: our U-Net against others, against its own products alone, and under Lightning.

    python benchmarks/training.py   # about twenty minutes on one core; after `make bench-setup`

* Networks of one size: 32x32 images of one channel, 32, 64 and 64 channels, two blocks a level, attention at
  16x16 and in the middle, one head; float32, batch 32. azula's has no attention, so there is one of ours
  with none at 16x16, too. A step is the same for all: noise, mean squared error, backward, gradient clipping,
  fused Adam, EMA. Only the networks differ.
* The networks of configs/mnist, and those of the others with the same channels, blocks, attention and
  patches, on images of 28x28. That of quick.yaml sees patches of 2x2 pixels and starts with 24 channels, that
  of vp_edm.yaml with 16: smalldiffusion's, whose groups are 32, cannot have so few.
* Bounds: every convolution of our networks alone, forward and backward, with shape and order in memory
  of its real input; and the same with the attention's products.
* With AVX2 alone, which most processors of the last ten years have, and with all that the processor has.
  AVX-512 can double the speed of the convolutions, and leaves norms and activations, which wait for memory,
  as they are: their share grows.
* Floating point operations are counted by `torch.utils.flop_counter`, forward and backward.
* Lightning: steps of `ScoreModule` under `Trainer.fit` (TensorBoard, gradient clipping, data in memory), from
  the start of a batch to that of the next, against a plain loop around the same parts. It costs some
  milliseconds, whatever the network, as far as we know: the short steps of the MLP show them better.

Everything takes turns, in rounds, in one process with one thread, whose malloc keeps what is freed, as under
`scorelight fit`: the others profit from it, too. CPU time, since other programs on the machine do not count;
the median of the rounds, and the best. Ratios are the medians of the rounds' ratios, with their quartiles.

Writes training.json, .md and .png beside this file.
"""

import argparse
import functools
import importlib.metadata
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import matplotlib
import torch
import yaml
from common import RESULTS, commit
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode

from scorelight import DDIM, MLP, VPSDE, Epsilon, EpsilonPrediction, ScoreModule, ToyDataModule, UNet
from scorelight.cli.tuning import keep_freed_memory
from scorelight.data.arrays import Arrays
from scorelight.data.base import EightBitDataModule
from scorelight.data.torchvision import MNISTDataModule
from scorelight.networks.embeddings import LevelEmbedding
from scorelight.networks.layers import Attention

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent
SEED, BATCH = 0, 32
INSTRUCTIONS = {
    "AVX2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "all instructions": {},
}
STEPS = {"U-Net": 8, "MLP": 200}  # of Lightning and of the plain loop in each round


# Networks, each called as network(x, noise_label)


class Azula(nn.Module):
    """Its conditioning comes from outside: ours."""

    def __init__(self, channels=1, widths=(32, 64, 64), num_blocks=2):
        super().__init__()
        from azula.nn.unet import UNet as Net

        size, blocks = 4 * widths[0], [num_blocks] * len(widths)
        self.embed = LevelEmbedding(size)
        self.net = Net(
            channels, channels, hid_channels=widths, hid_blocks=blocks, mod_features=size, norm="group"
        )

    def forward(self, x, noise_label):
        return self.net(x, self.embed(noise_label))


class Diffusers(nn.Module):
    def __init__(self, channels=1, widths=(32, 64, 64), num_blocks=2, attention_level=1, groups=32):
        super().__init__()
        from diffusers import UNet2DModel

        attention = ["Attn" * (level == attention_level) for level in range(len(widths))]
        self.net = UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=widths,
            layers_per_block=num_blocks,
            down_block_types=[f"{kind}DownBlock2D" for kind in attention],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(attention)],
            attention_head_dim=None,
            norm_num_groups=groups,
        )

    def forward(self, x, noise_label):
        return self.net(x, noise_label).sample


class SmallDiffusion(nn.Module):
    def __init__(self, channels=1, size=32, multipliers=(1, 2, 2), attention_size=16, **options):
        super().__init__()
        from smalldiffusion import Unet

        self.net = Unet(
            size,
            channels,
            channels,
            ch_mult=multipliers,
            attn_resolutions=(attention_size,),
            dropout=0.0,
            **options,
        )

    def forward(self, x, noise_label):
        return self.net(x, noise_label.exp())


class InPatches(nn.Module):
    """A network that sees patches of 2x2 pixels, as ours with patch_size=2."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, noise_label):
        return pixel_shuffle(self.network(pixel_unshuffle(x, 2), noise_label), 2)


def our_network(attention_stages=(1,)):
    return UNet((1, 32, 32), base_channels=32, multipliers=(1, 2, 2), attention_stages=attention_stages)


def mnist_unet(name):
    """That of a configuration."""
    config = yaml.safe_load((HERE.parent / f"configs/mnist/{name}.yaml").read_text())
    options = config["model"]["network"]["init_args"]
    if options.get("num_classes") == "data":
        options["num_classes"] = MNISTDataModule.num_classes
    return UNet((1, 28, 28), **options)


@dataclass
class Size:
    """Networks that are alike, of images of one size, the first of them ours."""

    shape: tuple[int, int, int]
    networks: dict[str, Callable[[], nn.Module]]
    repeats: int = 1  # rounds for each that is asked for: the small ones are cheap


SIZES = {
    "32 to 64 channels, 32x32": Size(
        (1, 32, 32),
        {
            "scorelight": our_network,
            "diffusers": Diffusers,
            "smalldiffusion": lambda: SmallDiffusion(ch=32),
            "scorelight, no attention at 16x16": lambda: our_network(()),
            "azula": Azula,
        },
    ),
    "mnist/quick": Size(
        (1, 28, 28),
        {
            "scorelight": lambda: mnist_unet("quick"),
            "diffusers": lambda: InPatches(Diffusers(4, (24, 48), 1, 1, groups=8)),
            "azula": lambda: InPatches(Azula(4, (24, 48), 1)),
        },
        repeats=3,
    ),
    "mnist/vp_edm": Size(
        (1, 28, 28),
        {
            "scorelight": lambda: mnist_unet("vp_edm"),
            "diffusers": lambda: Diffusers(1, (16, 32, 96), 1, 2, groups=4),
            "azula": lambda: Azula(1, (16, 32, 96), 1),
        },
        repeats=3,
    ),
}


# A step


class Step:
    """The same step for any network."""

    def __init__(self, network, shape):
        self.network = network
        self.weights = list(network.parameters())
        self.averaged = [w.detach().clone() for w in self.weights]
        self.optimizer = torch.optim.Adam(self.weights, lr=1e-4, fused=True)
        self.x0, self.noise_label = torch.randn(BATCH, *shape), torch.linspace(-4, 4, BATCH)
        self.alpha = torch.sigmoid(-2 * self.noise_label).sqrt()[:, None, None, None]

    def __call__(self):
        epsilon = torch.randn_like(self.x0)
        x = self.alpha * self.x0 + (1 - self.alpha**2).sqrt() * epsilon
        loss = (self.network(x, self.noise_label) - epsilon).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        torch._foreach_lerp_(self.averaged, [w.detach() for w in self.weights], 1e-3)


class Products:
    """Convolutions, and attention if wanted, forward and backward, with inputs like those that they get."""

    def __init__(self, network, shape, attention=False):
        self.jobs = []
        kinds = {nn.Conv2d: self._convolution} | ({Attention: self._attention} if attention else {})
        hooks = [m.register_forward_hook(kinds[type(m)]) for m in network.modules() if type(m) in kinds]
        with torch.no_grad():
            network(torch.randn(BATCH, *shape), torch.zeros(BATCH))
        for hook in hooks:
            hook.remove()

    def _convolution(self, layer, inputs, output):
        x = torch.randn_like(inputs[0]).requires_grad_(bool(self.jobs))  # not the image's
        self.jobs.append((layer, [x, *layer.parameters()], 1, torch.randn_like(output)))

    def _attention(self, layer, inputs, output):
        x = torch.randn(3, BATCH, layer.num_heads, output[0, 0].numel(), output.shape[1] // layer.num_heads)
        inputs = [v.requires_grad_() for v in x]
        self.jobs.append((nn.functional.scaled_dot_product_attention, inputs, 3, torch.randn_like(x[0])))

    def __call__(self):
        for function, tensors, num_arguments, gradient in self.jobs:
            function(*tensors[:num_arguments]).backward(gradient)
            for tensor in tensors:
                tensor.grad = None


def operations(job):
    """Counted in the plain form of attention: of the others the counter knows nothing on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        job()
    return counter.get_total_flops()


def quartiles(values):
    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def seconds(job):
    start = time.process_time()
    job()
    return time.process_time() - start


def seconds_in_turns(jobs, rounds):
    """{name: [seconds in each round]}; every round begins with another job."""
    for job in jobs.values():
        job()
    times, names = {name: [] for name in jobs}, list(jobs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(seconds(jobs[name]))
    return times


def compare_networks(size, rounds):
    """The rows of the networks of a size, with the instructions that the environment allows."""
    torch.manual_seed(SEED)
    networks = {name: make() for name, make in size.networks.items()}
    ours = [name for name in networks if name.startswith("scorelight")]
    bounds = {f"convolutions{more} of {name}": name for name in ours for more in ("", " and attention")}
    jobs = {name: Step(network, size.shape) for name, network in networks.items()}
    jobs |= {
        bound: Products(size.networks[name](), size.shape, attention="attention of" in bound)
        for bound, name in bounds.items()
    }
    flops = {name: operations(job) for name, job in jobs.items()}
    times = seconds_in_turns(jobs, rounds * size.repeats)

    def compared(name, other, weight=1.0):
        """Quartiles, over the rounds, of the other's time by that of the first."""
        return quartiles([weight * b / a for a, b in zip(times[name], times[other], strict=True)])

    def ratios(name):
        """Quartiles of operations per second by those of others, and the share of a network's step."""
        own = f"convolutions of {name}" if name in ours else None
        return {
            "speed_by_that_of_ours": compared(name, ours[0], flops[name] / flops[ours[0]]),
            "share_of_the_step": compared(bounds[name], name) if name in bounds else None,
            "speed_by_that_of_its_convolutions": own and compared(name, own, flops[name] / flops[own]),
        }

    return [speed_row(name, networks.get(name), flops[name], times[name]) | ratios(name) for name in jobs]


def speed_row(name, network, flops, times):
    """Size and speed of a job; a bound has no network of its own."""
    middle, best = statistics.median(times), min(times)
    return {
        "network": name,
        "parameters": sum(p.numel() for p in network.parameters()) if network else None,
        "MFLOP_per_image": flops / BATCH / 1e6,
        "ms": 1e3 * middle,
        "ms_best": 1e3 * best,
        "images_per_second": BATCH / middle,
        "GFLOP_per_second": flops / middle / 1e9,
        "GFLOP_per_second_best": flops / best / 1e9,
    }


# Lightning


class Noise(EightBitDataModule):
    """As many images as MNIST has, of noise: how long a step takes does not depend on it."""

    shape = (1, 28, 28)

    def arrays(self):
        generator = torch.Generator().manual_seed(SEED)
        return tuple(
            Arrays(torch.randint(0, 256, (n, 1, 28, 28), dtype=torch.uint8, generator=generator), {})
            for n in (60_000, 256)
        )


class Stopwatch(Callback):
    """CPU time from the start of each batch to that of the next."""

    def __init__(self):
        self.starts = []

    def on_train_batch_start(self, *_):
        self.starts.append(time.process_time())


def module_of(network):
    return ScoreModule(
        network,
        VPSDE(),
        Epsilon(),
        EpsilonPrediction(),
        DDIM(),
        optimizer=functools.partial(torch.optim.Adam, lr=1e-4, fused=True),
    )


def differences(starts):
    """Seconds of each step but the first, which warms up."""
    return [b - a for a, b in itertools.pairwise(starts[1:])]


def under_lightning(module, data, steps, folder):
    watch = Stopwatch()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps + 2,
        max_epochs=-1,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        logger=TensorBoardLogger(folder),
        callbacks=[watch],
    )
    trainer.fit(module, data)
    return differences(watch.starts)


def plain(module, data, steps):
    """The same parts in a loop."""
    denoiser, objective, ema = module.denoiser.train(), module.objective, module.ema
    weights = list(denoiser.parameters())
    optimizer = torch.optim.Adam(weights, lr=1e-4, fused=True)
    passes = itertools.repeat(data.train_dataloader())
    starts, batches = [], itertools.chain.from_iterable(passes)
    for _ in range(steps + 2):
        x0 = data.scale(next(batches).x0)
        starts.append(time.process_time())
        optimizer.zero_grad()
        objective(denoiser, x0).value.mean().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        ema.update(denoiser)
    return differences(starts)


def in_smalldiffusion(module, data, steps):
    """Its loop around the same network and data; it neither clips gradients nor averages weights."""
    from accelerate import Accelerator
    from smalldiffusion import ScheduleLogLinear, model, training_loop

    class Network(nn.Module, model.ModelMixin):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, sigma, cond=None):
            return self.network(x, sigma.flatten())

    batches = [data.scale(batch.x0) for batch in data.train_dataloader()]
    schedule, starts = ScheduleLogLinear(N=200, sigma_min=0.005, sigma_max=10), []
    options = dict(accelerator=Accelerator(cpu=True), epochs=steps)
    with mock.patch("smalldiffusion.diffusion.tqdm", lambda x: x):
        network = Network(module.denoiser.network)
        for _ in itertools.islice(training_loop(batches, network, schedule, **options), steps + 2):
            starts.append(time.process_time())
    return differences(starts)


def lightning_cost(name, rounds):
    """Mean of a round's steps: what some of them do, such as logging, is a cost as well."""
    torch.manual_seed(SEED)
    network, data = CASES[name]
    module, data, steps = module_of(network()), data(), STEPS[name]
    data.setup("fit")
    times = {"Lightning": [], "plain loop": []} | ({"smalldiffusion": []} if name == "MLP" else {})
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "Lightning": lambda: under_lightning(module, data, steps, folder),
            "plain loop": lambda: plain(module, data, steps),
            "smalldiffusion": lambda: in_smalldiffusion(module, data, steps),
        }
        for turn in range(rounds + 1):
            for way in sorted(times, reverse=bool(turn % 2)):
                measured = statistics.mean(ways[way]())
                if turn:  # the first round warms up
                    times[way].append(measured)
    ratios = [a / b - 1 for a, b in zip(times["Lightning"], times["plain loop"], strict=True)]
    low, middle, high = quartiles(ratios)
    row = {"model": name, "parameters": sum(p.numel() for p in module.denoiser.parameters())}
    row |= {f"{way}, ms": 1e3 * statistics.median(values) for way, values in times.items()}
    return row | {"overhead": middle, "overhead_quartiles": [low, high]}


CASES = {
    "U-Net": (functools.partial(mnist_unet, "vp_edm"), functools.partial(Noise, 64)),
    "MLP": (functools.partial(MLP, (2,)), functools.partial(ToyDataModule, batch_size=512)),
}


# Instruction sets


def with_instructions(environment, rounds):
    """Rows of each size from a process of its own: libraries look at the environment only once."""
    command = [sys.executable, __file__, "--networks", "--rounds", str(rounds)]
    done = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


# Report


def table(size, instructions, rows):
    lines = [
        f"Training step, {size}, batch {BATCH}, one thread, {instructions}:",
        "",
        "| network | parameters | MFLOP per image | ms (best) | images/s | GFLOP/s (best) "
        "| by ours (quartiles) | by its convolutions | of the step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        count = f"{r['parameters']:,}" if r["parameters"] else ""
        other, share, bound = (
            f"{r[name][1]:.2f} ({r[name][0]:.2f} to {r[name][2]:.2f})" if r[name] else ""
            for name in ("speed_by_that_of_ours", "share_of_the_step", "speed_by_that_of_its_convolutions")
        )
        speed = f"{r['GFLOP_per_second']:.0f} ({r['GFLOP_per_second_best']:.0f})"
        lines.append(
            f"| {r['network']} | {count} | {r['MFLOP_per_image']:.0f} | {r['ms']:.0f} ({r['ms_best']:.0f}) "
            f"| {r['images_per_second']:.1f} | {speed} "
            f"| {other} | {bound} | {share} |"
        )
    return [*lines, ""]


def report(tables, costs):
    lines = [
        line
        for size in SIZES
        for instructions, sizes in tables.items()
        for line in table(size, instructions, sizes[size])
    ]
    lines += [
        "A step under Lightning against a plain loop around the same parts:",
        "",
        "| model | parameters | plain loop, ms | Lightning, ms | overhead (quartiles) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for c in costs:
        low, high = c["overhead_quartiles"]
        lines.append(
            f"| {c['model']} | {c['parameters']:,} | {c['plain loop, ms']:.2f} | {c['Lightning, ms']:.2f} "
            f"| {c['overhead']:+.1%} ({low:+.1%} to {high:+.1%}) |"
        )
    long, short = costs
    cost = short["Lightning, ms"] - short["plain loop, ms"]
    lines += [
        "",
        f"By the steps of the MLP, Lightning costs {cost:.1f} ms a step, "
        f"{cost / long['plain loop, ms']:.1%} of one of the U-Net. The MLP makes "
        f"{1000 / short['plain loop, ms']:.0f} steps a CPU second in the plain loop, "
        f"{1000 / short['Lightning, ms']:.0f} under Lightning and "
        f"{1000 / short['smalldiffusion, ms']:.0f} in smalldiffusion's loop, "
        "which neither clips gradients nor averages weights.",
    ]
    return "\n".join([*lines, ""])


def picture(tables, path):
    matplotlib.use("agg")
    from matplotlib import pyplot

    heights = [len(rows) for rows in next(iter(tables.values())).values()]
    figure, axes = pyplot.subplots(
        len(SIZES),
        len(tables),
        figsize=(11, 6.5),
        layout="constrained",
        sharex="col",
        sharey="row",
        height_ratios=heights,
    )
    for column, (instructions, sizes) in zip(axes.T, tables.items(), strict=True):
        for axis, (size, rows) in zip(column, sizes.items(), strict=True):
            axis.barh([r["network"] for r in reversed(rows)], [r["GFLOP_per_second"] for r in reversed(rows)])
            axis.set_title(f"{size}, {instructions}", loc="left", fontsize="medium")
        axis.set(xlabel="GFLOP/s of a training step, one thread")
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15, help="of every comparison (default: 15)")
    parser.add_argument("--networks", action="store_true", help="only those, as JSON")
    parser.add_argument("--loops", action="store_true", help="measure only the loops again, keep the rest")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.networks:
        print(json.dumps({name: compare_networks(size, arguments.rounds) for name, size in SIZES.items()}))
        sys.exit()
    begin = time.perf_counter()
    measured = commit()
    if arguments.loops:
        tables = json.loads((RESULTS / "training.json").read_text())["networks"]
    else:
        tables = {name: with_instructions(env, arguments.rounds) for name, env in INSTRUCTIONS.items()}
    costs = [lightning_cost(name, arguments.rounds) for name in CASES]
    packages = ("torch", "lightning", "diffusers", "smalldiffusion", "azula")
    result = {
        "commit": measured,
        "python": sys.version.split()[0],
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "seed": SEED,
        "rounds": arguments.rounds,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "seconds": round(time.perf_counter() - begin),
        "networks": tables,
        "lightning": costs,
    }
    (RESULTS / "training.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report(tables, costs)
    (RESULTS / "training.md").write_text(text)
    picture(tables, RESULTS / "training.png")
    print(text)
