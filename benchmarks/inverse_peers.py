"""The methods of azula and deepinv, called as their documentation has it, on a denoiser of ours.

Each is a function of (denoiser, measurement, y of shape (B, d_y), seed), as ours are in inverse.py, and has
the same process, VPSDE, and as many steps. What their defaults would spoil is set for them: the noise levels
of deepinv's DDRM are made for images of [0, 1] and are those of the process here, and deepinv's `DiffPIR`,
which is written for such images, gets the problem for (x + 1)/2. All measurements are given in one batch.
azula's DPS divides by the norm of the whole batch, so that it hardly guides there: on the Gaussian problem
its W₂ is 0.2 to 0.6 by the size of the batch, and 3.1 if each measurement is given by itself.
"""

import functools
import math
import warnings

import torch
from torch.nn.functional import pad

from scorelight import VPSDE
from scorelight.processes.base import NoiseLevel

warnings.simplefilter("ignore")
import azula.denoise  # noqa: E402
import azula.guidance  # noqa: E402
import azula.linalg.covariance  # noqa: E402
import azula.noise  # noqa: E402
import azula.sample  # noqa: E402
import deepinv  # noqa: E402
import deepinv.sampling  # noqa: E402

D = torch.float64
PROCESS = VPSDE()
STEPS = 200


def seeded(draw):
    """The same with both libraries' source of random numbers, torch's own, set to the seed."""

    @functools.wraps(draw)
    def with_seed(denoiser, measurement, y, seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return draw(denoiser, measurement, y)

    return with_seed


# azula


def own_time(t):
    """azula's time from 0 to 1 as the process has it."""
    return PROCESS.t_min + (PROCESS.t_max - PROCESS.t_min) * t.double()


class Schedule(azula.noise.Schedule):
    def forward(self, t):
        return PROCESS.alpha(own_time(t)), PROCESS.sigma(own_time(t))

    __call__ = forward


class AzulaDenoiser(azula.denoise.Denoiser):
    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, Schedule()

    def forward(self, x_t, t):
        (level,) = PROCESS.grid_levels(own_time(t).reshape(1))
        mean = self.denoiser.predict(x_t, level).x0
        return azula.denoise.GaussianPosterior(mean, torch.as_tensor((level.sigma / level.alpha) ** 2))


OPTIONS = dict(steps=STEPS, silent=True, dtype=D)


def from_prior(sampler, y, measurement):
    noise = torch.randn(len(y), *measurement.operator.shape, dtype=D)
    return sampler(PROCESS.end_levels()[1].sigma * noise)


def azula_sampler(make):
    """A sampler that is guided: make(denoiser, y, A, measurement)."""

    @seeded
    def draw(denoiser, measurement, y):
        sampler = make(AzulaDenoiser(denoiser), y, measurement.operator, measurement)
        return from_prior(sampler, y, measurement)

    return draw


def azula_denoiser(make):
    """A denoiser of the posterior, sampled by DDPM's steps."""
    return azula_sampler(lambda *args: azula.sample.DDPMSampler(make(*args), **OPTIONS))


def variance(m):
    return m.noise.item() ** 2


def covariance(m):
    return azula.linalg.covariance.IsotropicCovariance(torch.tensor(variance(m), dtype=D))


@seeded
def azula_tds(denoiser, measurement, y):
    """One run for each measurement; its particles are the samples."""
    found = torch.empty(len(y), *measurement.operator.shape, dtype=D)
    different, index = y.unique(dim=0, return_inverse=True)
    for i, each in enumerate(different):

        def twist(x0, t, each=each):
            alpha, sigma = Schedule()(t)
            total = variance(measurement) + sigma**2 / (sigma**2 + alpha**2)
            return (
                -((each - measurement.operator(x0)) ** 2).sum(-1) / (2 * total) - y.shape[1] * total.log() / 2
            )

        rows = (index == i).nonzero()[:, 0]
        sampler = azula.guidance.TDSSampler(AzulaDenoiser(denoiser), twist, **OPTIONS)
        found[rows] = from_prior(sampler, y[rows], measurement)
    return found


AZULA = {
    "DPS": azula_sampler(lambda d, y, a, m: azula.guidance.DPSSampler(d, y, a, **OPTIONS)),
    "PiGDM": azula_sampler(
        lambda d, y, a, m: azula.guidance.PGDMSampler(d, y, a, m.operator.pseudo_inverse, eta=1.0, **OPTIONS)
    ),
    "TMPD": azula_denoiser(lambda d, y, a, m: azula.guidance.TMPDenoiser(d, y, a, variance(m))),
    "MMPS, 1 iteration": azula_denoiser(
        lambda d, y, a, m: azula.guidance.MMPSDenoiser(d, y, a, covariance(m))
    ),
    "MMPS, 5 iterations": azula_denoiser(
        lambda d, y, a, m: azula.guidance.MMPSDenoiser(d, y, a, covariance(m), iterations=5)
    ),
    "DiffPIR": azula_denoiser(lambda d, y, a, m: azula.guidance.DiffPIRDenoiser(d, y, a, variance(m))),
    "TDS, one run": azula_tds,
}


# deepinv


@functools.lru_cache(10_000)
def level_of(sigma):
    """The level of the process with this σ/α, without the derivatives, which no prediction needs."""
    time = PROCESS.time_of_log_snr(-2 * torch.tensor(sigma, dtype=D).log()).item()
    alpha = 1 / math.hypot(1, sigma)
    return NoiseLevel(time, alpha, sigma * alpha, math.nan, math.nan)


class DeepinvDenoiser(torch.nn.Module):
    """E[x0 | x0 + σ n] of images (B, 1, 1, d); with `unit`, of images that are (x + 1)/2."""

    def __init__(self, denoiser, shape, unit=False):
        super().__init__()
        self.denoiser, self.shape, self.unit = denoiser, shape, unit

    def forward(self, x, sigma, *args, **kwargs):
        sigma = torch.as_tensor(sigma).flatten()[0].item()
        x, dtype = x.double(), x.dtype
        if self.unit:
            x, sigma = 2 * x - 1, 2 * sigma
        level = level_of(sigma)
        flat = level.alpha * x.reshape(-1, *self.shape)
        x0 = self.denoiser.predict(flat, level).x0.reshape(x.shape)
        return ((x0 + 1) / 2 if self.unit else x0).to(dtype)


def physics_of(measurement, unit=False):
    """A = U diag(s) Vᵀ, with a square V, and the noise."""
    u, s, v = torch.linalg.svd(measurement.operator.matrix(), full_matrices=True)
    values = torch.zeros(len(v), dtype=D)
    values[: len(s)] = s
    sigma = measurement.noise.item() / (2 if unit else 1)
    return deepinv.physics.DecomposablePhysics(
        U=lambda c: c.flatten(1)[:, : len(u)] @ u.mT.to(c),
        U_adjoint=lambda y: pad(y @ u.to(y), (0, len(v) - len(u)))[:, None, None],
        V=lambda c: c @ v.to(c),
        V_adjoint=lambda x: x @ v.mT.to(x),
        mask=values[None, None, None],
        img_size=(1, 1, len(v)),
        noise_model=deepinv.physics.GaussianNoise(sigma),
    )


def deepinv_method(make, unit=False):
    """Make(denoiser, measurement) is called with (y, physics)."""

    @seeded
    def draw(denoiser, measurement, y):
        shape = measurement.operator.shape
        if unit:
            y = (y + measurement.operator(torch.ones(1, *shape, dtype=D))) / 2
        made = make(DeepinvDenoiser(denoiser, shape, unit), measurement)
        with torch.no_grad():
            x = made(y, physics_of(measurement, unit)).reshape(len(y), *shape)
        return 2 * x - 1 if unit else x

    return draw


def diffusion(data_fidelity):
    """deepinv's posterior diffusion: DDPM's steps of its VP process, in float64."""

    def make(denoiser, measurement):
        sde = deepinv.sampling.VariancePreservingDiffusion(alpha=1.0, dtype=D)
        solver = deepinv.sampling.AncestralSolver(t_start=PROCESS.t_max, t_end=PROCESS.t_min, num_steps=STEPS)
        made = deepinv.sampling.PosteriorDiffusion(
            data_fidelity(), denoiser, sde, solver, dtype=D, minus_one_one=False
        )
        size = (1, 1, math.prod(measurement.operator.shape))
        return lambda y, physics: made(y, physics, x_init=(len(y), *size))

    return make


def ddrm(denoiser, measurement):
    last, first = (level.log_snr for level in PROCESS.end_levels())
    sigmas = torch.linspace(-first / 2, -last / 2, STEPS).exp()
    return deepinv.sampling.DDRM(denoiser, sigmas=sigmas.tolist())


def diffpir(denoiser, measurement):
    return deepinv.sampling.DiffPIR(
        denoiser, deepinv.optim.L2(), sigma=measurement.noise.item() / 2, max_iter=STEPS
    )


DEEPINV = {
    "DPS": deepinv_method(diffusion(deepinv.sampling.DPSDataFidelity)),
    "PiGDM": deepinv_method(diffusion(deepinv.sampling.PiGDMDataFidelity)),
    "MMPS": deepinv_method(diffusion(deepinv.sampling.MomentMatchingDataFidelity)),
    "DiffPIR": deepinv_method(diffpir, unit=True),
    "DDRM": deepinv_method(ddrm),
}
