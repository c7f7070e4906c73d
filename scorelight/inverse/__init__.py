"""Inverse problems: x0 from a measurement of it."""

from scorelight.inverse.base import PosteriorSampler, PosteriorScore
from scorelight.inverse.convolution import Convolution, GaussianBlur, MotionBlur
from scorelight.inverse.dps import DPS
from scorelight.inverse.exact import ExactPosterior
from scorelight.inverse.mask import Mask
from scorelight.inverse.measurement import Measurement, mixture_posterior
from scorelight.inverse.nonlinear import JPEG, FourierMagnitude
from scorelight.inverse.operators import LinearOperator, MatrixOperator, Operator
from scorelight.inverse.proximal import DDRM, DiffPIR
from scorelight.inverse.replacement import RePaint, Replacement
from scorelight.inverse.scores import MMPS, TMPD, PiGDM
from scorelight.inverse.sdedit import SDEdit
from scorelight.inverse.separable import Downsample, Grayscale, Identity, SeparableOperator
from scorelight.inverse.twisted import TDS

__all__ = [
    "DDRM",
    "DPS",
    "JPEG",
    "MMPS",
    "TDS",
    "TMPD",
    "Convolution",
    "DiffPIR",
    "Downsample",
    "ExactPosterior",
    "FourierMagnitude",
    "GaussianBlur",
    "Grayscale",
    "Identity",
    "LinearOperator",
    "Mask",
    "MatrixOperator",
    "Measurement",
    "MotionBlur",
    "Operator",
    "PiGDM",
    "PosteriorSampler",
    "PosteriorScore",
    "RePaint",
    "Replacement",
    "SDEdit",
    "SeparableOperator",
    "mixture_posterior",
]
