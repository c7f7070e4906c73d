"""scorelight: score-based generative models, every one a YAML file.

Data at t = 0, noise at t = 1; x0 is data and ε ~ N(0, I):

    x_t = α(t) x0 + σ(t) ε                                (1)  ForwardProcess: data into noise
    dx  = f x dt + g dw,  f = α'/α,  g² = 2σ(σ' − fσ)     (2)    the same as an SDE
    dx  = [f x − g² ∇log p_t(x)] dt + g dw̄                (3)  Sampler: noise into data, by the reverse SDE
    dx  = [α' x0 + σ' ε] dt                               (4)    or by the probability flow
    y   = a(t) x0 + b(t) ε                                (5)  Parameterization: what the network outputs
    L   = E[w λ ‖ŷ − y‖²], minimised by the true score    (7)  Objective
    log p(x0) = log p_T(x_T) + ∫ tr ∂v̂/∂z dθ             (21)  log_likelihood, along the flow (4)

A `Denoiser` joins process, network and parameterization: ``pred = denoiser(x_t, t)`` has
``pred.x0 .epsilon .score .velocity``. `ScoreModule` trains it under Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scorelight import _threads as _threads
from scorelight.analytic import AnalyticDenoiser, EmpiricalDenoiser, GaussianMixture
from scorelight.bounds import VariationalTerms, variational_bound
from scorelight.certification import Certificate, certify
from scorelight.denoiser import CountedDenoiser, Denoiser, NetworkDenoiser, Prediction
from scorelight.dequantization import Dequantizer, FlowDequantization, UniformDequantization
from scorelight.errors import ConfigurationError, SolverError, TrainingDivergedError
from scorelight.example_metrics import ExampleMetric, NegativeLogLikelihood, VariationalBoundMetric
from scorelight.likelihood import (
    BitsPerDim,
    LogLikelihood,
    Protocol,
    bits_per_dim,
    log_likelihood,
)
from scorelight.metrics import (
    DigitsFeatures,
    FeatureExtractor,
    FeatureSet,
    FrechetDistance,
    InceptionFeatures,
    InceptionScore,
    KernelDistance,
    MaximumMeanDiscrepancy,
    Metric,
    MNISTFeatures,
    ModuleFeatures,
    PixelFeatures,
    PrecisionRecall,
    SampleMetric,
    ScoreError,
    SlicedWasserstein,
    score_error,
)
from scorelight.networks import MLP, DDPMUNet, Energy, NCSNpp, ScoreNetwork, UNet
from scorelight.objectives import (
    DenoisingScoreMatching,
    EDMWeighting,
    EpsilonPrediction,
    ExplicitScoreMatching,
    HybridObjective,
    ImplicitScoreMatching,
    LikelihoodWeighting,
    Loss,
    MinSNRWeighting,
    Objective,
    SigmaSquaredWeighting,
    SigmoidWeighting,
    SlicedScoreMatching,
    UniformWeighting,
    VariationalBound,
    Weighting,
)
from scorelight.parameterizations import EDM, X0, Epsilon, Parameterization, Score, Velocity, VPrediction
from scorelight.probability_flow import decode, encode, slerp
from scorelight.processes import (
    VESDE,
    VPSDE,
    CosineVPSDE,
    DDPMProcess,
    ForwardProcess,
    KarrasVESDE,
    LearnedVPSDE,
    NoiseLevel,
    RectifiedFlow,
    SMLDProcess,
    SubVPSDE,
)
from scorelight.samplers import (
    DDIM,
    RK45,
    AncestralSampler,
    AnnealedCorrector,
    AnnealedLangevin,
    Corrector,
    DPMSolverPP,
    EDMSampler,
    Euler,
    EulerMaruyama,
    ExponentialAdams,
    Heun,
    LangevinCorrector,
    LangevinDynamics,
    PredictorCorrector,
    Restart,
    ReverseDiffusion,
    Sampler,
    UniPC,
)
from scorelight.times import (
    DiscreteGrid,
    DiscreteTime,
    FixedTime,
    ImportanceTime,
    KarrasGrid,
    LogitNormalTime,
    LogNormalTime,
    LogSNRGrid,
    LossAwareTime,
    MixedGrid,
    NearestLevels,
    QuadraticGrid,
    StratifiedTime,
    TimeGrid,
    TimeSampler,
    TrailingGrid,
    UniformGrid,
    UniformTime,
)
from scorelight.trusted import trust

if TYPE_CHECKING:
    from scorelight.callbacks import FIDCallback, NLLCallback, SampleGridCallback, SampleWriter
    from scorelight.data import (
        CIFAR10DataModule,
        DigitsDataModule,
        ImageDataModule,
        MNISTDataModule,
        SeedDataModule,
        ToyDataModule,
    )
    from scorelight.dequantizer_module import DequantizerModule, load_dequantizer
    from scorelight.metrics.quality import SampleQuality
    from scorelight.module import ScoreModule

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "EDM",
    "MLP",
    "RK45",
    "VESDE",
    "VPSDE",
    "X0",
    "AnalyticDenoiser",
    "AncestralSampler",
    "AnnealedCorrector",
    "AnnealedLangevin",
    "BitsPerDim",
    "CIFAR10DataModule",
    "Certificate",
    "ConfigurationError",
    "Corrector",
    "CosineVPSDE",
    "CountedDenoiser",
    "DDPMProcess",
    "DDPMUNet",
    "DPMSolverPP",
    "Denoiser",
    "DenoisingScoreMatching",
    "Dequantizer",
    "DequantizerModule",
    "DigitsDataModule",
    "DigitsFeatures",
    "DiscreteGrid",
    "DiscreteTime",
    "EDMSampler",
    "EDMWeighting",
    "EmpiricalDenoiser",
    "Energy",
    "Epsilon",
    "EpsilonPrediction",
    "Euler",
    "EulerMaruyama",
    "ExampleMetric",
    "ExplicitScoreMatching",
    "ExponentialAdams",
    "FIDCallback",
    "FeatureExtractor",
    "FeatureSet",
    "FixedTime",
    "FlowDequantization",
    "ForwardProcess",
    "FrechetDistance",
    "GaussianMixture",
    "Heun",
    "HybridObjective",
    "ImageDataModule",
    "ImplicitScoreMatching",
    "ImportanceTime",
    "InceptionFeatures",
    "InceptionScore",
    "KarrasGrid",
    "KarrasVESDE",
    "KernelDistance",
    "LangevinCorrector",
    "LangevinDynamics",
    "LearnedVPSDE",
    "LikelihoodWeighting",
    "LogLikelihood",
    "LogNormalTime",
    "LogSNRGrid",
    "LogitNormalTime",
    "Loss",
    "LossAwareTime",
    "MNISTDataModule",
    "MNISTFeatures",
    "MaximumMeanDiscrepancy",
    "Metric",
    "MinSNRWeighting",
    "MixedGrid",
    "ModuleFeatures",
    "NCSNpp",
    "NLLCallback",
    "NearestLevels",
    "NegativeLogLikelihood",
    "NetworkDenoiser",
    "NoiseLevel",
    "Objective",
    "Parameterization",
    "PixelFeatures",
    "PrecisionRecall",
    "Prediction",
    "PredictorCorrector",
    "Protocol",
    "QuadraticGrid",
    "RectifiedFlow",
    "Restart",
    "ReverseDiffusion",
    "SMLDProcess",
    "SampleGridCallback",
    "SampleMetric",
    "SampleQuality",
    "SampleWriter",
    "Sampler",
    "Score",
    "ScoreError",
    "ScoreModule",
    "ScoreNetwork",
    "SeedDataModule",
    "SigmaSquaredWeighting",
    "SigmoidWeighting",
    "SlicedScoreMatching",
    "SlicedWasserstein",
    "SolverError",
    "StratifiedTime",
    "SubVPSDE",
    "TimeGrid",
    "TimeSampler",
    "ToyDataModule",
    "TrailingGrid",
    "TrainingDivergedError",
    "UNet",
    "UniPC",
    "UniformDequantization",
    "UniformGrid",
    "UniformTime",
    "UniformWeighting",
    "VPrediction",
    "VariationalBound",
    "VariationalBoundMetric",
    "VariationalTerms",
    "Velocity",
    "Weighting",
    "bits_per_dim",
    "certify",
    "decode",
    "encode",
    "load_dequantizer",
    "log_likelihood",
    "score_error",
    "slerp",
    "trust",
    "variational_bound",
]

_LIGHTNING_EDGE = {
    "FIDCallback": "scorelight.callbacks",
    "NLLCallback": "scorelight.callbacks",
    "SampleGridCallback": "scorelight.callbacks",
    "SampleWriter": "scorelight.callbacks",
    "CIFAR10DataModule": "scorelight.data",
    "DigitsDataModule": "scorelight.data",
    "ImageDataModule": "scorelight.data",
    "MNISTDataModule": "scorelight.data",
    "SeedDataModule": "scorelight.data",
    "ToyDataModule": "scorelight.data",
    "DequantizerModule": "scorelight.dequantizer_module",
    "SampleQuality": "scorelight.metrics.quality",
    "ScoreModule": "scorelight.module",
    "load_dequantizer": "scorelight.dequantizer_module",
}


def __getattr__(name: str) -> Any:
    """Import what needs Lightning or torchmetrics only when it is asked for: that import takes seconds."""
    if name in _LIGHTNING_EDGE:
        return getattr(importlib.import_module(_LIGHTNING_EDGE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
