"""The deterministic solvers of diffusers, k-diffusion and azula, each called as its library wants it.

A setting is set up for a number of evaluations, and then turns unit noise into samples with a network
ε̂(x, σ/α) at states x = α x0 + σ ε, α² + σ² = 1. All start with σ/α times the noise in x/α, σ/α being that of
the highest level, and all end with E[x0 | x] at the lowest level they use: one evaluation is spent there,
whatever the library itself would do (most do this; LMS would extrapolate to σ = 0, DEIS, SA-Solver and azula
would stop at the lowest level).

Levels go from 1000 to 1 of DDPM's table, on grids that the libraries have; only the schedules t and √t of
azula are written here. "trailing" grids end at a higher level, which few evaluations can afford better:
diffusers has them under that name; for k-diffusion the lowest of one level more is dropped, for azula the
last of one step more. diffusers' "leading" grids also start lower, with unit noise there. "full order" is
`lower_order_final=False`.

Of 1,162 combinations of solver, order, options and grid that were tried on a quarter of the samples, these
are the usual ones and all that were the best of their library anywhere: in 2-D or 16-D, in median or root
mean square, at any number of evaluations. Not among them: what is stochastic at any setting, and
`sample_dpm_adaptive`, which chooses its number of evaluations.
"""

import contextlib
import functools
import importlib.util
import math
import sys
import types
import warnings
from unittest import mock

import numpy
import torch

from scorelight import DDPMProcess

warnings.simplefilter("ignore")
import azula  # noqa: E402
import diffusers  # noqa: E402

# k_diffusion/__init__.py imports what training needs (CLIP, Inception, ...); its solvers need none of it.
_package = types.ModuleType("k_diffusion")
_package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
sys.modules["k_diffusion"] = _package
from k_diffusion import external, sampling  # noqa: E402

PROCESS = DDPMProcess()
TABLE = torch.expm1(-PROCESS.log_alpha_bar[1:]).sqrt()  # σ/α of levels 1 to 1000
LOWEST, HIGHEST = TABLE[0].item(), TABLE[-1].item()


@contextlib.contextmanager
def double_precision():
    """float64 by default, and also where a library asks for float32 by name."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with (
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(numpy, "float32", numpy.float64),
    ):
        yield
    torch.set_default_dtype(before)


class Diffusers:
    """A scheduler; the network is evaluated at σ/α as the scheduler has it, not at the nearest level."""

    def __init__(self, kind, **config):
        config = dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02) | config
        with double_precision():
            self.scheduler = getattr(diffusers, f"{kind}Scheduler")(**config)

    def set_up(self, nfe):
        """σ/α of every evaluation, for as many steps as they allow."""
        steps = -(-nfe // self.scheduler.order)
        while len(sigmas := self._sigmas(steps)) > nfe:
            steps -= 1
        return sigmas

    def _sigmas(self, steps):
        made = self.scheduler
        made.set_timesteps(steps)
        num = len(made.timesteps)
        if not hasattr(made, "sigmas"):
            return TABLE[made.timesteps].tolist()
        *sigmas, last = made.sigmas[:num].tolist() + made.sigmas[-1:].tolist()
        if hasattr(made, "sigmas_interpol"):  # every other evaluation of KDPM2
            sigmas[1::2] = made.sigmas_interpol[1:num:2].tolist()
        return sigmas if last == 0 or math.isclose(last, sigmas[-1]) else [*sigmas, last]

    def sample(self, sigmas, epsilon, noise):
        made = self.scheduler
        if hasattr(made, "set_begin_index"):
            made.set_begin_index(0)
        preserving = made.init_noise_sigma == 1  # of the variance: x and not x/α
        x = noise * sigmas[0] / (math.hypot(1, sigmas[0]) if preserving else 1)
        for sigma, t in zip(sigmas[:-1], made.timesteps, strict=False):
            x = made.step(epsilon(made.scale_model_input(x, t), sigma), t, x).prev_sample
        x = x * math.hypot(1, sigmas[-1]) if preserving else x
        return x - sigmas[-1] * epsilon(x / math.hypot(1, sigmas[-1]), sigmas[-1])


class KDiffusion:
    """A function of `k_diffusion.sampling` on σ of another; its denoiser is x̂0(x0 + σ ε, σ)."""

    def __init__(self, solver, grid, trailing=False, per_step=1, **options):
        self.solver, self.grid, self.trailing, self.per_step = solver, grid, trailing, per_step
        self.options = options

    def set_up(self, nfe):
        num = 1 + (nfe - 1) // self.per_step
        return self.grid(num + self.trailing)[:num]

    def sample(self, sigmas, epsilon, noise):
        def denoiser(x, sigma):
            sigma = sigma[0].item()
            return x - sigma * epsilon(x / math.hypot(1, sigma), sigma)

        x = self.solver(denoiser, sigmas[0] * noise, sigmas, disable=True, **self.options)
        return denoiser(x, sigmas[-1:])


class AzulaDenoiser(azula.denoise.Denoiser):
    def __init__(self, epsilon, schedule):
        super().__init__()
        self.epsilon, self.schedule = epsilon, schedule

    def forward(self, x_t, t):
        alpha, sigma = (v.item() for v in self.schedule(t))
        epsilon = self.epsilon(x_t / math.hypot(alpha, sigma), sigma / alpha)
        return azula.denoise.DiracPosterior((x_t - sigma * epsilon) / alpha)


class Azula:
    """A sampler of azula: equal steps in the time of a schedule, so another schedule is another grid."""

    def __init__(self, kind, schedule, trailing=False, per_step=1, **options):
        self.kind, self.schedule, self.trailing, self.per_step = kind, schedule, trailing, per_step
        self.options = options

    def set_up(self, nfe):
        steps = (nfe - 1) // self.per_step
        return dict(steps=steps, stop=1 / (steps + 1) if self.trailing else 0.0)

    def sample(self, steps, epsilon, noise):
        denoiser = AzulaDenoiser(epsilon, self.schedule)
        made = self.kind(denoiser, dtype=torch.get_default_dtype(), silent=True, **steps, **self.options)
        first, *_, last = made.timesteps
        return denoiser(made(self.schedule(first)[1] * noise), last).mean


class Table(azula.noise.Schedule):
    """DDPM's table, in equal steps of t^(1/power)."""

    def __init__(self, power):
        self.power = power

    def __call__(self, t):
        t = (
            torch.lerp(torch.full_like(t, PROCESS.t_min ** (1 / self.power)), torch.ones_like(t), t)
            ** self.power
        )
        return PROCESS.alpha(t), PROCESS.sigma(t)


KARRAS, EXPONENTIAL = dict(use_karras_sigmas=True), dict(use_exponential_sigmas=True)
BETA, LU, FULL = dict(use_beta_sigmas=True), dict(use_lu_lambdas=True), dict(lower_order_final=False)
LEADING, TRAILING = dict(timestep_spacing="leading"), dict(timestep_spacing="trailing")
HEUN, KDPM2, LMS = "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete"
DPM, UNIPC, DEIS = "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"
NOISE = dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min")
BH1_NOISE = dict(solver_type="bh1", predict_x0=False)


def sa_solver(order, prediction, **config):
    orders = dict(predictor_order=order, corrector_order=order, algorithm_type=f"{prediction}_prediction")
    return Diffusers("SASolver", tau_func=lambda t: 0, **orders, **config)


DIFFUSERS = {
    "DDIM": Diffusers("DDIM", clip_sample=False),
    "DDIM trailing": Diffusers("DDIM", clip_sample=False, **TRAILING),
    "PNDM": Diffusers("PNDM", skip_prk_steps=True),
    "Euler karras": Diffusers("EulerDiscrete", **KARRAS),
    "Heun karras": Diffusers(HEUN, **KARRAS),
    "Heun exponential": Diffusers(HEUN, **EXPONENTIAL),
    "KDPM2 exponential": Diffusers(KDPM2, **EXPONENTIAL),
    "LMS": Diffusers(LMS),
    "LMS karras": Diffusers(LMS, **KARRAS),
    "DPM-Solver++ 2M": Diffusers(DPM),
    "DPM-Solver++ 2M trailing": Diffusers(DPM, **TRAILING),
    "DPM-Solver++ 2M karras": Diffusers(DPM, **KARRAS),
    "DPM-Solver++ 2M beta": Diffusers(DPM, **BETA),
    "DPM-Solver++ 2M lu": Diffusers(DPM, **LU),
    "DPM-Solver++ 3M lu": Diffusers(DPM, solver_order=3, **LU),
    "DPM-Solver++ 3S exponential": Diffusers(
        "DPMSolverSinglestep", solver_order=3, lower_order_final=True, **EXPONENTIAL
    ),
    "DPM-Solver 3M lu": Diffusers(DPM, solver_order=3, **NOISE, **LU),
    "DPM-Solver 3M karras": Diffusers(DPM, solver_order=3, **NOISE, **KARRAS),
    "UniPC 2": Diffusers(UNIPC),
    "UniPC 3": Diffusers(UNIPC, solver_order=3),
    "UniPC 3 bh1 leading": Diffusers(UNIPC, solver_order=3, solver_type="bh1", **LEADING),
    "UniPC 2 exponential": Diffusers(UNIPC, **EXPONENTIAL),
    "UniPC 3 exponential": Diffusers(UNIPC, solver_order=3, **EXPONENTIAL),
    "UniPC 2 bh1 ε exponential": Diffusers(UNIPC, **BH1_NOISE, **EXPONENTIAL),
    "UniPC 3 bh1 ε exponential": Diffusers(UNIPC, solver_order=3, **BH1_NOISE, **EXPONENTIAL),
    "UniPC 3 bh1 ε exponential, full order": Diffusers(
        UNIPC, solver_order=3, **BH1_NOISE, **EXPONENTIAL, **FULL
    ),
    "DEIS 2 exponential": Diffusers(DEIS, **EXPONENTIAL),
    "DEIS 3 trailing": Diffusers(DEIS, solver_order=3, **TRAILING),
    "DEIS 3 exponential": Diffusers(DEIS, solver_order=3, **EXPONENTIAL),
    "DEIS 3 exponential, full order": Diffusers(DEIS, solver_order=3, **EXPONENTIAL, **FULL),
    "SA-Solver 2 ε leading, full order": sa_solver(2, "noise", **LEADING, **FULL),
    "SA-Solver 4 ε exponential": sa_solver(4, "noise", **EXPONENTIAL),
    "SA-Solver 4 ε exponential, full order": sa_solver(4, "noise", **EXPONENTIAL, **FULL),
    "SA-Solver 4 x0 karras, full order": sa_solver(4, "data", **KARRAS, **FULL),
}


def dpm_fast(denoiser, x, sigmas, disable):
    ends = sigmas[-1].item(), sigmas[0].item()
    return sampling.sample_dpm_fast(denoiser, x, *ends, len(sigmas) - 1, disable=disable)


def polyexponential(rho):
    return functools.partial(
        sampling.get_sigmas_polyexponential, sigma_min=LOWEST, sigma_max=HIGHEST, rho=rho
    )


table = external.DiscreteSchedule(TABLE, quantize=False).get_sigmas
karras = functools.partial(sampling.get_sigmas_karras, sigma_min=LOWEST, sigma_max=HIGHEST)
exponential = functools.partial(sampling.get_sigmas_exponential, sigma_min=LOWEST, sigma_max=HIGHEST)
multistep_3 = functools.partial(sampling.sample_dpmpp_3m_sde, eta=0.0, noise_sampler=lambda *_: 0.0)
multistep_2_heun = functools.partial(
    sampling.sample_dpmpp_2m_sde, eta=0.0, noise_sampler=lambda *_: 0.0, solver_type="heun"
)

K_DIFFUSION = {
    "euler exponential": KDiffusion(sampling.sample_euler, exponential),
    "heun karras": KDiffusion(sampling.sample_heun, karras, per_step=2),
    "heun exponential": KDiffusion(sampling.sample_heun, exponential, per_step=2),
    "dpm_2 exponential": KDiffusion(sampling.sample_dpm_2, exponential, per_step=2),
    "dpm_fast": KDiffusion(dpm_fast, exponential),
    "lms karras": KDiffusion(sampling.sample_lms, karras),
    "lms exponential": KDiffusion(sampling.sample_lms, exponential),
    "lms table": KDiffusion(sampling.sample_lms, table),
    "dpmpp_2s exponential": KDiffusion(sampling.sample_dpmpp_2s_ancestral, exponential, per_step=2, eta=0.0),
    "dpmpp_2m karras": KDiffusion(sampling.sample_dpmpp_2m, karras),
    "dpmpp_2m exponential": KDiffusion(sampling.sample_dpmpp_2m, exponential),
    "dpmpp_2m table": KDiffusion(sampling.sample_dpmpp_2m, table),
    "dpmpp_2m polyexponential 1.5, trailing": KDiffusion(
        sampling.sample_dpmpp_2m, polyexponential(1.5), True
    ),
    "dpmpp_2m polyexponential 2, trailing": KDiffusion(sampling.sample_dpmpp_2m, polyexponential(2), True),
    "dpmpp_2m heun polyexponential 0.85, trailing": KDiffusion(multistep_2_heun, polyexponential(0.85), True),
    "dpmpp_3m exponential": KDiffusion(multistep_3, exponential),
    "dpmpp_3m exponential, trailing": KDiffusion(multistep_3, exponential, True),
    "dpmpp_3m table, trailing": KDiffusion(multistep_3, table, True),
    "dpmpp_3m polyexponential 0.85, trailing": KDiffusion(multistep_3, polyexponential(0.85), True),
    "dpmpp_3m polyexponential 1.2, trailing": KDiffusion(multistep_3, polyexponential(1.2), True),
    "dpmpp_3m polyexponential 1.5, trailing": KDiffusion(multistep_3, polyexponential(1.5), True),
}

VE = azula.noise.VESchedule(LOWEST, HIGHEST)
RECTIFIED = azula.noise.RectifiedSchedule(1 / HIGHEST, LOWEST)
DECAY = azula.noise.DecaySchedule(1 / HIGHEST, LOWEST)
TIME, ROOT = Table(1), Table(2)
ZAB, VAB = azula.sample.zABSampler, azula.sample.vABSampler
ZEAB, XEAB = azula.sample.zEABSampler, azula.sample.xEABSampler

AZULA = {
    "DDIM t": Azula(azula.sample.DDIMSampler, TIME),
    "DDIM VE": Azula(azula.sample.DDIMSampler, VE),
    "Heun VE": Azula(azula.sample.HeunSampler, VE, per_step=2),
    "zAB 2 t": Azula(ZAB, TIME),
    "zAB 4 √t": Azula(ZAB, ROOT, order=4),
    "vAB 2 rectified": Azula(VAB, RECTIFIED),
    "vAB 4 rectified": Azula(VAB, RECTIFIED, order=4),
    "vAB 4 decay": Azula(VAB, DECAY, order=4),
    "vAB 3 decay, trailing": Azula(VAB, DECAY, True, order=3),
    "vAB 3 √t": Azula(VAB, ROOT, order=3),
    "vAB 3 √t, trailing": Azula(VAB, ROOT, True, order=3),
    "vAB 4 √t": Azula(VAB, ROOT, order=4),
    "zEAB 2 t": Azula(ZEAB, TIME),
    "zEAB 2 √t": Azula(ZEAB, ROOT),
    "zEAB 4 √t": Azula(ZEAB, ROOT, order=4),
    "zEAB 3 VE": Azula(ZEAB, VE, order=3),
    "zEAB 3 VE, trailing": Azula(ZEAB, VE, True, order=3),
    "zEAB 4 VE": Azula(ZEAB, VE, order=4),
    "xEAB 2 t": Azula(XEAB, TIME),
    "xEAB 3 VE": Azula(XEAB, VE, order=3),
    "xEAB 2 √t, trailing": Azula(XEAB, ROOT, True),
    "xEAB 4 √t": Azula(XEAB, ROOT, order=4),
    "REAB 3 √t": Azula(azula.sample.REABSampler, ROOT, order=3),
}

PEERS = {"diffusers": DIFFUSERS, "k-diffusion": K_DIFFUSION, "azula": AZULA}
