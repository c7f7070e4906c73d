"""A model of scorelight trained for a number of CPU seconds: the recipe, the loop, and its Fréchet distance.

The clock is the CPU time of the training loop, in one thread; what is built before it and the samples that
are drawn after it do not count. Everything that a schedule needs is a function of the share of the time that
is used up, so that a run of five minutes is not the first half of one of ten.
"""

import dataclasses
import functools
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from quality_features import CIFAR10Features
from torch import nn

from scorelight import (
    DDIM,
    EDM,
    VPSDE,
    CIFAR10DataModule,
    DenoisingScoreMatching,
    DigitsDataModule,
    DigitsFeatures,
    EDMWeighting,
    FeatureSet,
    LearningRateSchedule,
    LogNormalTime,
    MNISTDataModule,
    MNISTFeatures,
    MuonWithAdam,
    NetworkDenoiser,
    QuadraticGrid,
    StratifiedTime,
    UNet,
)
from scorelight.data.access import examples_of
from scorelight.data.clusters import assign, balanced_clusters
from scorelight.images import to_uint8
from scorelight.metrics.frechet import frechet_distance
from scorelight.samplers import generate
from scorelight.samplers.base import final_state
from scorelight.training.ema import ExponentialMovingAverage

ROOT = os.environ.get("DATA", "data")
DATA = {
    "digits": DigitsDataModule,
    "mnist": functools.partial(MNISTDataModule, ROOT),
    "cifar10": functools.partial(CIFAR10DataModule, ROOT),
}
FEATURES = {"digits": DigitsFeatures, "mnist": MNISTFeatures, "cifar10": CIFAR10Features}
NUM_SAMPLES = 1000
SEARCH_SEED = 1234


@dataclass(frozen=True)
class Recipe:
    """All that a training depends on, but for its seconds and its seed."""

    data: str = "mnist"
    conditional: bool = False
    clusters: int = 0  # of the images or, with classes, of those of each class
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    num_blocks: int = 1
    attention: tuple[int, ...] = (1,)
    patch: int = 2
    group: int = 16
    sigma_data: float = 0.6
    time_mean: float = 0.4
    time_std: float = 1.5
    dequantize: bool = True
    batch: int = 32
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.0  # these three: of `LearningRateSchedule`
    decay: str = "cosine"
    decay_from: float = 0.0
    clip: float = 1.0
    ema: float = 0.995
    optimizer: str = "adam"  # or muon, `MuonWithAdam`
    momentum: float = 0.95

    def changed(self):
        """What differs from the defaults, for the journal."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        }


@functools.cache
def examples(data, split):
    """Images as they are stored, 0 to 255, and labels."""
    made = DATA[data]()
    made.prepare_data()
    made.setup("fit")
    x0, cond, _ = examples_of(made, split).all()
    return to_uint8(x0), cond["label"]


def build(recipe):
    """The denoiser and its objective."""
    shape = tuple(examples(recipe.data, "val")[0].shape[1:])
    options = dict(num_classes=num_labels(recipe))
    network = UNet(
        shape,
        recipe.channels,
        recipe.multipliers,
        recipe.num_blocks,
        recipe.attention,
        patch_size=recipe.patch,
        group_size=recipe.group,
        **options,
    )
    times = StratifiedTime(LogNormalTime(recipe.time_mean, recipe.time_std))
    objective = DenoisingScoreMatching(weighting=EDMWeighting(recipe.sigma_data), time_sampler=times)
    return NetworkDenoiser(network, VPSDE(), EDM(recipe.sigma_data)), objective


def train(recipe, seconds, seed):
    """Train; the averaged denoiser, and what to note about the run."""
    torch.manual_seed(seed)
    examples(recipe.data, "train")
    begin, wall = time.process_time(), time.perf_counter()
    denoiser, objective = build(recipe)
    ema = ExponentialMovingAverage(denoiser.train(), recipe.ema)
    weights = list(denoiser.parameters())
    optimizer = make_optimizer(recipe, weights)
    schedule = LearningRateSchedule(recipe.warmup, recipe.decay, recipe.decay_from)
    (images, _), labels = examples(recipe.data, "train"), labels_of(recipe)
    order, seen, steps, recent = torch.empty(0, dtype=torch.long), 0, 0, []
    while (used := (time.process_time() - begin) / seconds) < 1:
        if len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(images))])
        index, order = order[: recipe.batch], order[recipe.batch :]
        x0 = images[index].float()
        x0 = (x0 + torch.rand_like(x0)) / 128 - 1 if recipe.dequantize else x0 / 127.5 - 1
        optimizer.param_groups[0]["lr"] = recipe.lr * schedule.factor(used)
        optimizer.zero_grad()
        cond = {"label": labels[index]} if denoiser.network.num_classes else {}
        loss = objective(denoiser, x0, **cond).value.mean()
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(weights, recipe.clip)
        optimizer.step()
        ema.update(denoiser)
        seen, steps = seen + len(index), steps + 1
        recent = [*recent[-199:], loss.detach()]
    cpu = time.process_time() - begin
    notes = dict(
        cpu_s=round(cpu, 1),
        wall_s=round(time.perf_counter() - wall, 1),
        images=seen,
        steps=steps,
        images_per_s=round(seen / cpu, 1),
        loss=round(torch.stack(recent).mean().item(), 5),
        parameters=sum(w.numel() for w in weights),
    )
    return ema.denoiser, notes


def make_optimizer(recipe, weights):
    """`MuonWithAdam`, or Adam alone."""
    if recipe.optimizer == "adam":
        return torch.optim.Adam(weights, lr=recipe.lr, betas=recipe.betas, fused=True)
    return MuonWithAdam(weights, lr=recipe.lr, momentum=recipe.momentum, betas=recipe.betas)


@functools.cache
def labels_of(recipe):
    """Of the training images: their classes, their clusters, or class + 10 · cluster inside the class."""
    images, classes = examples(recipe.data, "train")
    if not recipe.clusters:
        return classes
    if not recipe.conditional:
        return clusters(images, recipe.clusters)
    labels = classes.clone()
    for c in range(10):
        labels[classes == c] += 10 * clusters(images[classes == c], recipe.clusters)
    return labels


def clusters(images, num):
    """Those of `ClusteredDataModule`."""
    points = torch.nn.functional.avg_pool2d(images.float() / 255, 2).flatten(1)
    found = balanced_clusters(points, num, torch.Generator().manual_seed(0))
    return assign(points, *found, math.ceil(len(points) / num))


def num_labels(recipe):
    """How many labels there are; None without."""
    num = (recipe.clusters or 1) * (10 if recipe.conditional else 1)
    return num if num > 1 else None


def labels_of_samples(recipe, num):
    """All labels in turn: classes are equally likely, and so are clusters."""
    labels = num_labels(recipe)
    return labels and torch.arange(num) % labels


@functools.cache
def features_of(data):
    return FEATURES[data]()


@functools.cache
def reference(data, split):
    """Statistics of the features of real images."""
    extract, (images, _) = features_of(data), examples(data, split)
    return FeatureSet.of(torch.cat([extract(x).values for x in images.split(500)]))


def draw(denoiser, sampler, shape, seed, labels=None, num=NUM_SAMPLES, batch=100):
    """Samples, 0 to 255, with the labels."""
    parts = []
    for index in torch.arange(num).split(batch):
        cond = {} if labels is None else {"label": labels[index]}
        parts.append(final_state(generate(denoiser, sampler, shape, seed, index.tolist(), cond)))
    return to_uint8(torch.cat(parts))


def distance(data, samples, split):
    """Fréchet distance of samples and a split: `val` in the search, `train` in the report."""
    extract, real = features_of(data), reference(data, split)
    fake = FeatureSet.of(torch.cat([extract(x).values for x in samples.split(500)]))
    return frechet_distance(real.mean, real.cov, fake.mean, fake.cov)


@torch.no_grad()
def validation_loss(denoiser, recipe, num=2000):
    """The denoising loss on test images, at the same times and noise for all recipes of one kind of data."""
    generator = torch.Generator().manual_seed(SEARCH_SEED)
    objective = DenoisingScoreMatching(
        weighting=EDMWeighting(0.6), time_sampler=StratifiedTime(LogNormalTime(0.0, 1.5))
    ).eval()
    images, labels = (x[:num] for x in examples(recipe.data, "val"))
    losses = []
    for x, label in zip(images.split(200), labels.split(200), strict=True):
        cond = {"label": label} if recipe.conditional and not recipe.clusters else {}
        losses.append(objective(denoiser, x / 127.5 - 1, generator=generator, **cond).value)
    return torch.cat(losses).mean().item()


def save_weights(denoiser, recipe, path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"recipe": dataclasses.asdict(recipe), "state": denoiser.state_dict()}, path)


SAMPLER = DDIM(25, QuadraticGrid(), eta=1.0)  # of the search; rows without "sampler": DDIM(20, eta=1.0)
