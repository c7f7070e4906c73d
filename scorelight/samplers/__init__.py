"""Samplers: how noise turns into data."""

from scorelight.samplers.adaptive import RK45
from scorelight.samplers.ancestral import DDIM, AncestralSampler
from scorelight.samplers.base import Sampler
from scorelight.samplers.ode import Euler, Heun
from scorelight.samplers.sde import EulerMaruyama

__all__ = ["DDIM", "RK45", "AncestralSampler", "Euler", "EulerMaruyama", "Heun", "Sampler"]
