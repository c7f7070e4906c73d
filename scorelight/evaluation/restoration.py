"""Images restored from measurements: drawn, kept, compared with the truth, and shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.evaluation.samples import counted, samples_bar
from scorelight.evaluation.stores import ResultStores
from scorelight.images import grid, titled, to_uint8
from scorelight.inverse import Measurement, PosteriorSampler
from scorelight.metrics import FeatureExtractor
from scorelight.rng import PhiloxGenerator, Stream, randn_like
from scorelight.samplers.base import final_state
from scorelight.samplers.generate import device_of

__all__ = ["Restoration", "observe", "restore_images"]


_MOST_IMAGES, _MOST_SAMPLES = 2**20, 2**12
"""Draw j of image i is example i + 2²⁰ j of the seed."""


class Restoration(NamedTuple):
    """N measurements of images, S draws of each, and the images if they are known; images of [−1, 1]."""

    y: Tensor
    """Shape (N, *measured)."""
    samples: Tensor
    """Shape (N, S, *shape)."""
    measurement: Measurement
    x0: Tensor | None = None
    """The truth, shape (N, *shape)."""

    def numbers(self, features: FeatureExtractor | None = None) -> dict[str, Tensor]:
        """What is measured of each image, by name, each of shape (N,); without a truth, ``residual`` alone.

        * ``psnr of the mean``, ``psnr``: 10 log₁₀(4/mean squared error) in dB, of the mean of the samples,
          and of the samples, on average; ``ssim``: structural similarity, likewise (Wang et al., 2004).
        * ``feature distance``: ‖φ(x) − φ(x̂)‖/(‖φ(x)‖ + ‖φ(x̂)‖) in the space of a network, from 0 to 1.
        * ``residual``: root mean square of (y − A(x̂))/σ_y; of y − A(x̂) without noise. Draws of the exact
          posterior have about 1.
        * ``coverage``: share of the values of the truth that are not outside of all samples. For the exact
          posterior it is (S − 1)/(S + 1) on average, and more where the samples are equal.
        """
        n, s = self.samples.shape[:2]
        flat = self.samples.flatten(0, 1)
        sigma = self.measurement.noise.to(flat)
        error = self.y.repeat_interleave(s, 0) - self.measurement.operator(flat)
        residual = error / (sigma if sigma.all() else 1.0)
        found = {} if self.x0 is None else self._compared(self.x0, features)
        return found | {"residual": residual.flatten(1).square().mean(1).sqrt().view(n, s).mean(1)}

    def _compared(self, x0: Tensor, features: FeatureExtractor | None) -> dict[str, Tensor]:
        """The numbers that need the truth."""
        n, s = self.samples.shape[:2]
        flat, truth = self.samples.flatten(0, 1), x0.repeat_interleave(s, 0)
        mean = self.samples.mean(1)
        found = {
            "psnr of the mean": _psnr(x0, mean),
            "psnr": _psnr(truth, flat).view(n, s).mean(1),
            "ssim of the mean": _ssim(x0, mean),
            "ssim": _ssim(truth, flat).view(n, s).mean(1),
        }
        if features is not None:
            a, b = (_features(features, x) for x in (truth, flat))
            distance = (a - b).norm(dim=1) / (a.norm(dim=1) + b.norm(dim=1)).clamp(min=1e-12)
            found["feature distance"] = distance.view(n, s).mean(1)
        if s > 1:
            inside = (x0 >= self.samples.amin(1)) & (x0 <= self.samples.amax(1))
            found["coverage"] = inside.flatten(1).double().mean(1)
        return found

    def picture(self, num: int = 16) -> Tensor:
        """Rows of truth, measurement, some samples, their mean and their standard deviation, as uint8."""
        shown = min(num, len(self.y))
        samples = self.samples[:shown, :4]
        measured = self.measurement.operator.picture(self.y[:shown])
        columns = {} if self.x0 is None else {"truth": self.x0[:shown]}
        columns["measured"] = _fitted(measured, samples[:, 0])
        columns |= {f"sample {j + 1}": samples[:, j] for j in range(samples.shape[1])}
        if self.samples.shape[1] > 1:
            columns["mean"] = self.samples[:shown].mean(1)
            spread = self.samples[:shown].std(1, correction=0)
            columns["deviation"] = 2 * spread - 1  # black is none, white is 1
        images = torch.stack(list(columns.values()), 1).flatten(0, 1)
        return titled(grid(images, len(columns)), list(columns))


def observe(measurement: Measurement, x0: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
    """The measurements of images with these indices: image i has noise of its own, of (seed, i)."""
    return measurement.observe(x0, PhiloxGenerator(seed, indices, Stream.VALIDATION))


def restore_images(
    denoiser: Denoiser,
    method: PosteriorSampler,
    y: Tensor,
    cond: dict[str, Tensor],
    num_samples: int,
    seed: int,
    stores: ResultStores,
    batch_size: int,
) -> Tensor:
    """Draw samples of p(x0 | y) for each measurement, those that the store has not.

    Draw j of measurement i is a function of (seed, i, j), whatever else is drawn.

    Args:
        denoiser: The model, with its guidance if it has one.
        method: How to draw; it knows the measurement.
        y: Measurements, shape (N, *measured).
        cond: Conditions of the images for the network.
        num_samples: Draws of each image, S.
        seed: Seed of the draws.
        stores: Where draws are kept.
        batch_size: Draws at once.

    Returns:
        Shape (N, S, *shape).
    """
    if len(y) > _MOST_IMAGES or num_samples > _MOST_SAMPLES:
        raise ConfigurationError(
            f"{len(y)} images, {num_samples} samples of each: at most {_MOST_IMAGES:,} and {_MOST_SAMPLES:,}"
        )
    shape = method.measurement.operator.shape
    total, device = len(y) * num_samples, device_of(denoiser)
    store = stores.store("restored", method, y, cond, seed, num_samples)
    bar = samples_bar("restoring", total, hidden=False)
    method.measurement.to(device)
    with stores.missing(store, total) as (missing, _), torch.no_grad(), bar:
        bar.update(total - len(missing))
        for index in torch.split(missing, batch_size) if len(missing) else ():
            image, draw = index // num_samples, index % num_samples
            generator = PhiloxGenerator(seed, (image + _MOST_IMAGES * draw).tolist())
            rows: dict[str, Any] = {
                name: value[image].to(device) for name, value in (cond | {"measurement": y}).items()
            }
            noise = randn_like(torch.empty(len(index), *shape, device=device), generator)
            states = method.sample_path(denoiser, noise, generator=generator, **rows)
            store.write(index, x=final_state(counted(states, bar, len(index) / method.num_steps)).float())
    method.measurement.cpu()
    return store.merged(total, ["x"])["x"].reshape(len(y), num_samples, *shape)


def _psnr(x: Tensor, y: Tensor) -> Tensor:
    error = (x - y.clamp(-1, 1)).flatten(1).double().square().mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    value = structural_similarity_index_measure(
        y.clamp(-1, 1).float(), x.float(), data_range=2.0, reduction="none", kernel_size=_window(x)
    )
    assert isinstance(value, Tensor)
    return value.double()


def _window(x: Tensor) -> int:
    """The window of SSIM, 11 pixels, or what fits into a small image."""
    side = min(x.shape[-2:])
    return min(11, side - 1 + side % 2)


def _features(extract: FeatureExtractor, x: Tensor) -> Tensor:
    return torch.cat([extract(part).values for part in torch.split(to_uint8(x), 256)]).double()


def _fitted(picture: Tensor, like: Tensor) -> Tensor:
    """The picture of a measurement in the size and with the channels of the images."""
    size = like.shape[-2:]
    if picture.shape[-2:] != size:
        scale = [math.ceil(a / b) for a, b in zip(size, picture.shape[-2:], strict=True)]
        picture = picture.repeat_interleave(scale[0], -2).repeat_interleave(scale[1], -1)
        picture = picture[..., : size[0], : size[1]]
    return picture.expand(-1, like.shape[1], -1, -1).to(like)
