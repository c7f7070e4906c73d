"""``scorelight restore``: images from measurements of them, by a trained model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from scorelight.batch import Batch
from scorelight.cli.common import (
    check_positive,
    launch,
    load_source,
    run_on_checkpoint,
    stored_data,
    written,
)
from scorelight.data.access import examples_of
from scorelight.data.image_folder import ImageDataModule
from scorelight.denoisers.base import MakeWrapper
from scorelight.errors import ConfigurationError, Stopped
from scorelight.evaluation.reference import own_features
from scorelight.evaluation.report import markdown_table
from scorelight.evaluation.restoration import Restoration, observe, restore_images
from scorelight.evaluation.samples import SampleSource, cycle_labels
from scorelight.evaluation.stores import ResultStores
from scorelight.images import save
from scorelight.inverse import DPS, MMPS, LinearOperator, Measurement, Operator, PosteriorSampler
from scorelight.metrics import FeatureExtractor, MetricResult
from scorelight.storage.atomic import atomic_write
from scorelight.storage.component import spec
from scorelight.storage.npz import write_npz
from scorelight.storage.runs import find_checkpoint
from scorelight.training.module import Weights

__all__ = ["restore", "run_restore"]

MakeOperator = Callable[[Sequence[int]], Operator]
MakeMethod = Callable[[Measurement], PosteriorSampler]


def run_restore(args: list[str]) -> None:
    """Parse with the checkpoint's own data and guidance as the defaults."""
    run_on_checkpoint(restore, args, ["guidance", "data"])


def restore(
    checkpoint: str,
    operator: MakeOperator | None = None,
    method: MakeMethod | None = None,
    noise: float = 0.05,
    images: str = "val",
    measured: str | None = None,
    num_images: int = 8,
    num_samples: int = 4,
    seed: int = 0,
    out: str = "restored",
    data: LightningDataModule | None = None,
    guidance: MakeWrapper | None = None,
    labels: list[int | str] | None = None,
    features: FeatureExtractor | None = None,
    weights: Weights = "ema",
    batch_size: int = 64,
    accelerator: str = "auto",
) -> None:
    """Measure images, and draw what they may have been: samples of p(x0 | y).

    Inpainting is --operator Mask --operator.box 8 8 20 20, super-resolution --operator Downsample,
    deblurring --operator GaussianBlur, colourisation --operator Grayscale. Writes restored.png with truth,
    measurement, samples, their mean and standard deviation; results.json and .md; and restored.npz. Rerun the
    same command to resume.

    With --measured, images that have been damaged already are restored: no noise is added, and there is no
    truth to compare with.

    Args:
        checkpoint: Run folder, or a .ckpt file.
        operator: What is measured of an image: Mask, Downsample, GaussianBlur, MotionBlur, Grayscale, ...
        method: How to draw (default: MMPS for a linear operator, else DPS); ExactPosterior has the model's
            own posterior as its law, the others approximate it.
        noise: Standard deviation σ_y of the noise of the measurement, for images of [−1, 1].
        images: A folder, a zip or an .npz of images; or val, the validation images of the model's data.
        measured: A folder, a zip or an .npz of measurements, instead of --images: images of the size that the
            operator makes, or of the model's, of which only what the operator sees counts.
        num_images: Images, from the first on.
        num_samples: Samples of each.
        seed: Seed of noise and samples; image i depends on (seed, i) alone.
        out: Folder to write to.
        data: Data module whose validation images to take (default: as in the checkpoint).
        guidance: Wraps the denoiser (default: as in the checkpoint).
        labels: Classes of the images in turn, by numbers or names (default: with --images val those of the
            data, else none).
        features: Feature network of the feature distance (default: ours for digits and MNIST, else none).
        weights: Averaged or raw weights.
        batch_size: Samples drawn at once.
        accelerator: Lightning's accelerator: auto, cpu, gpu, ...
    """
    check_positive(num_images=num_images, num_samples=num_samples, batch_size=batch_size)
    if operator is None:
        raise ConfigurationError("what is measured? --operator Mask --operator.box 8 8 20 20, for example")
    path = find_checkpoint(checkpoint)
    source = load_source(path, weights, None, guidance, labels)
    measurement = Measurement(operator(source.shape), noise)
    chosen = _method(method, measurement)
    chosen.levels(source.denoiser.process)
    x0, y, known = _problem(measurement, images, measured, data, path, num_images, seed)
    cond = _conditions(source, labels, known, len(y))
    context = launch(accelerator, 1)
    denoiser = source.denoiser.to(context.device)
    stores = ResultStores(Path(out), denoiser, context)
    try:
        with written(Path(out)):
            samples = restore_images(denoiser, chosen, y, cond, num_samples, seed, stores, batch_size)
    except Stopped as stopped:
        stopped.add_note(f"Finished samples are stored in {out}; rerun the same command to resume")
        raise
    found = Restoration(y, samples, measurement, x0)
    numbers = found.numbers(features or own_features(source.shape))
    protocol = {
        "checkpoint": str(path),
        "weights": weights,
        "operator": spec(measurement.operator),
        "noise": noise,
        "method": _described(chosen),
        "images" if measured is None else "measured": f"{measured or images}, the first {len(y)}",
        "samples of each": num_samples,
        **({"labels": list(labels)} if labels else {}),
        "seed": seed,
    }
    table = markdown_table({k: MetricResult.over_examples(v[None]) for k, v in numbers.items()}, protocol)
    with written(Path(out)):
        names = _write(Path(out), found, numbers, protocol, table)
    print(f"\n{table}")
    for line in [*chosen.report(), *names]:
        print(f"  {line}")


def _method(method: MakeMethod | None, measurement: Measurement) -> PosteriorSampler:
    if method is not None:
        return method(measurement)
    return MMPS(measurement) if isinstance(measurement.operator, LinearOperator) else DPS(measurement)


def _described(method: PosteriorSampler) -> dict[str, Any]:
    """The class of the method and its options but for the measurement."""
    found: dict[str, Any] = spec(method)
    options = {name: value for name, value in found.get("init_args", {}).items() if name != "measurement"}
    return found | {"init_args": options}


def _problem(
    measurement: Measurement,
    images: str,
    measured: str | None,
    data: LightningDataModule | None,
    path: Path,
    num: int,
    seed: int,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """The truth if it is known, measurements, and the classes of the images if they are the model's own data.

    Raises:
        ConfigurationError: If images have a shape that neither the model nor the operator has.
    """
    operator = measurement.operator
    shape = operator.shape
    if measured is None:
        batch = _images("--images", images, data, path, shape, num)
    elif images == "val":
        batch = _images("--measured", measured, data, path, shape, num)
    else:
        raise ConfigurationError(
            f"--images {images} and --measured {measured}: give the images, or what was measured of them"
        )
    found, label = tuple(batch.x0.shape[1:]), batch.cond.get("label")
    if measured is None:
        if found != shape:
            raise ConfigurationError(f"--images {images}: have shape {found}, the model's {shape}")
        return batch.x0, observe(measurement, batch.x0, seed, range(len(batch.x0))), label
    made = tuple(operator(torch.zeros(1, *shape)).shape[1:])
    if found not in (made, shape):
        raise ConfigurationError(
            f"--measured {measured}: have shape {found}, what {type(operator).__name__} makes {made}, and "
            f"the model's images {shape}"
        )
    return None, batch.x0 if found == made else operator(batch.x0), label


def _conditions(
    source: SampleSource, labels: Sequence[int | str] | None, known: Tensor | None, num: int
) -> dict[str, Tensor]:
    """The classes for the network: those of --labels in turn, else the known ones.

    Raises:
        ConfigurationError: If there are none, and the network was never trained without.
    """
    number = source.denoiser.num_classes
    if labels:
        return cycle_labels(torch.arange(num), source.labels)
    if number and known is not None:
        if known.max() >= number:
            raise ConfigurationError(f"the data has a class {known.max()}, the model has 0 to {number - 1}")
        return {"label": known}
    if source.needs_labels:
        raise ConfigurationError(
            "the model is conditioned on classes, and those of the images are not known: give --labels, or "
            "train with --model.condition_dropout 0.1 to do without"
        )
    return {}


def _images(
    flag: str, images: str, data: LightningDataModule | None, path: Path, shape: Sequence[int], num: int
) -> Batch:
    """The first images of a folder, a zip or an .npz, or of the model's validation images.

    Raises:
        ConfigurationError: If there are none; the message names the flag.
    """
    if images == "val":
        data = stored_data(data, path)
        data.prepare_data()
        return examples_of(data, "val").first(num)
    try:
        own = ImageDataModule(images, grayscale=shape[0] == 1)
        stored = own.all_images()
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("data.path=", f"{flag} ")) from error
    x, _, _ = stored.batch(torch.arange(min(num, len(stored))))
    return Batch(own.scale(x), {})  # classes of a folder are not those of the model


def _write(
    folder: Path, found: Restoration, numbers: dict[str, Tensor], protocol: dict[str, Any], table: str
) -> list[Path]:
    """The files, the numbers of each image among them."""
    save(found.picture(), folder / "restored.png")
    arrays = {"measurement": found.y, "samples": found.samples}
    if found.x0 is not None:
        arrays["truth"] = found.x0
    write_npz(folder / "restored.npz", {name: value.numpy() for name, value in arrays.items()})
    results = {"protocol": protocol, "images": {name: value.tolist() for name, value in numbers.items()}}
    for name, text in (("results.json", json.dumps(results, indent=1) + "\n"), ("results.md", table)):
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in ("restored.png", "restored.npz", "results.json", "results.md")]
