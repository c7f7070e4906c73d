"""Denoisers: from a noisy example and its noise level to a prediction."""

from scorelight.denoisers.analytic import AnalyticDenoiser, EmpiricalDenoiser, GaussianMixture
from scorelight.denoisers.base import Denoiser, DenoiserWrapper, Prediction
from scorelight.denoisers.clipping import ClippedDenoiser
from scorelight.denoisers.counting import CountingDenoiser
from scorelight.denoisers.network import NetworkDenoiser

__all__ = [
    "AnalyticDenoiser",
    "ClippedDenoiser",
    "CountingDenoiser",
    "Denoiser",
    "DenoiserWrapper",
    "EmpiricalDenoiser",
    "GaussianMixture",
    "NetworkDenoiser",
    "Prediction",
]
