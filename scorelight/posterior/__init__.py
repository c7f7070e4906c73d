"""Posteriors of a model by Markov chains."""

from scorelight.posterior.diagnostics import effective_sample_size, split_r_hat
from scorelight.posterior.exact import ExactGuidance
from scorelight.posterior.likelihood import Likelihood
from scorelight.posterior.noise_chains import ChainState, noise_chains

__all__ = [
    "ChainState",
    "ExactGuidance",
    "Likelihood",
    "effective_sample_size",
    "noise_chains",
    "split_r_hat",
]
