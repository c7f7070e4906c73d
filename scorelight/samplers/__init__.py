"""Samplers: how noise turns into data."""

from scorelight.samplers.adaptive import RK45, decode, encode, slerp
from scorelight.samplers.ancestral import DDIM, AncestralSampler
from scorelight.samplers.base import Sampler
from scorelight.samplers.edm import EDMSampler
from scorelight.samplers.generate import generate
from scorelight.samplers.langevin import (
    AnnealedCorrector,
    AnnealedLangevin,
    Corrector,
    LangevinCorrector,
    LangevinDynamics,
    PredictorCorrector,
)
from scorelight.samplers.multistep import DPMSolverPP, ExponentialAdams, UniPC
from scorelight.samplers.ode import Euler, Heun
from scorelight.samplers.restart import Restart
from scorelight.samplers.sde import EulerMaruyama, ReverseDiffusion

__all__ = [
    "DDIM",
    "RK45",
    "AncestralSampler",
    "AnnealedCorrector",
    "AnnealedLangevin",
    "Corrector",
    "DPMSolverPP",
    "EDMSampler",
    "Euler",
    "EulerMaruyama",
    "ExponentialAdams",
    "Heun",
    "LangevinCorrector",
    "LangevinDynamics",
    "PredictorCorrector",
    "Restart",
    "ReverseDiffusion",
    "Sampler",
    "UniPC",
    "decode",
    "encode",
    "generate",
    "slerp",
]
