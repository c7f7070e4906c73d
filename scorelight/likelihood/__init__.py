"""Likelihoods of data under a model: densities, bits per dimension and bounds."""

from scorelight.likelihood.bits_per_dim import BitsPerDim, LikelihoodProtocol, bits_per_dim
from scorelight.likelihood.bounds import VariationalTerms, variational_bound
from scorelight.likelihood.dequantization import Dequantizer, FlowDequantization, UniformDequantization
from scorelight.likelihood.log_likelihood import LogLikelihood, log_likelihood

__all__ = [
    "BitsPerDim",
    "Dequantizer",
    "FlowDequantization",
    "LikelihoodProtocol",
    "LogLikelihood",
    "UniformDequantization",
    "VariationalTerms",
    "bits_per_dim",
    "log_likelihood",
    "variational_bound",
]
