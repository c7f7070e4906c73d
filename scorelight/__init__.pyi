"""The public names; `scorelight/__init__.py` imports each when it is first used."""

from .certification import (
    Certificate as Certificate,
)
from .certification import (
    ScoreError as ScoreError,
)
from .certification import (
    certify as certify,
)
from .certification import (
    score_error as score_error,
)
from .classifiers import (
    BayesClassifier as BayesClassifier,
)
from .classifiers import (
    Classifier as Classifier,
)
from .classifiers import (
    LevelAccuracy as LevelAccuracy,
)
from .classifiers import (
    NetworkClassifier as NetworkClassifier,
)
from .classifiers import (
    accuracy_by_level as accuracy_by_level,
)
from .data import (
    ArrayDataModule as ArrayDataModule,
)
from .data import (
    CIFAR10DataModule as CIFAR10DataModule,
)
from .data import (
    ClusteredDataModule as ClusteredDataModule,
)
from .data import (
    DescribedDigitsDataModule as DescribedDigitsDataModule,
)
from .data import (
    DigitsDataModule as DigitsDataModule,
)
from .data import (
    ImageDataModule as ImageDataModule,
)
from .data import (
    MNISTDataModule as MNISTDataModule,
)
from .data import (
    SeedDataModule as SeedDataModule,
)
from .data import (
    ToyDataModule as ToyDataModule,
)
from .denoisers import (
    AnalyticDenoiser as AnalyticDenoiser,
)
from .denoisers import (
    ClippedDenoiser as ClippedDenoiser,
)
from .denoisers import (
    CountingDenoiser as CountingDenoiser,
)
from .denoisers import (
    Denoiser as Denoiser,
)
from .denoisers import (
    DenoiserWrapper as DenoiserWrapper,
)
from .denoisers import (
    EmpiricalDenoiser as EmpiricalDenoiser,
)
from .denoisers import (
    GaussianMixture as GaussianMixture,
)
from .denoisers import (
    NetworkDenoiser as NetworkDenoiser,
)
from .denoisers import (
    Prediction as Prediction,
)
from .errors import (
    ConfigurationError as ConfigurationError,
)
from .errors import (
    SamplingError as SamplingError,
)
from .errors import (
    SolverError as SolverError,
)
from .errors import (
    TrainingDivergedError as TrainingDivergedError,
)
from .evaluation import (
    ClassifierReport as ClassifierReport,
)
from .evaluation.callbacks import (
    FIDCallback as FIDCallback,
)
from .evaluation.callbacks import (
    NLLCallback as NLLCallback,
)
from .evaluation.sample_grid import (
    SampleGridCallback as SampleGridCallback,
)
from .evaluation.sample_grid import (
    SampleWriter as SampleWriter,
)
from .guidance import (
    Autoguidance as Autoguidance,
)
from .guidance import (
    ClassifierFreeGuidance as ClassifierFreeGuidance,
)
from .guidance import (
    ClassifierGuidance as ClassifierGuidance,
)
from .guidance import (
    ClassLikelihood as ClassLikelihood,
)
from .guidance import (
    CLIPGuidance as CLIPGuidance,
)
from .image_text import (
    Captions as Captions,
)
from .image_text import (
    ImageText as ImageText,
)
from .image_text import (
    NoisyCLIP as NoisyCLIP,
)
from .image_text import (
    OpenCLIP as OpenCLIP,
)
from .image_text import (
    ZeroShotClassifier as ZeroShotClassifier,
)
from .inverse import (
    DDRM as DDRM,
)
from .inverse import (
    DPS as DPS,
)
from .inverse import (
    JPEG as JPEG,
)
from .inverse import (
    MMPS as MMPS,
)
from .inverse import (
    TDS as TDS,
)
from .inverse import (
    TMPD as TMPD,
)
from .inverse import (
    Convolution as Convolution,
)
from .inverse import (
    DiffPIR as DiffPIR,
)
from .inverse import (
    Downsample as Downsample,
)
from .inverse import (
    ExactPosterior as ExactPosterior,
)
from .inverse import (
    FourierMagnitude as FourierMagnitude,
)
from .inverse import (
    GaussianBlur as GaussianBlur,
)
from .inverse import (
    Grayscale as Grayscale,
)
from .inverse import (
    Identity as Identity,
)
from .inverse import (
    LinearOperator as LinearOperator,
)
from .inverse import (
    Mask as Mask,
)
from .inverse import (
    MatrixOperator as MatrixOperator,
)
from .inverse import (
    Measurement as Measurement,
)
from .inverse import (
    MotionBlur as MotionBlur,
)
from .inverse import (
    Operator as Operator,
)
from .inverse import (
    PiGDM as PiGDM,
)
from .inverse import (
    PosteriorSampler as PosteriorSampler,
)
from .inverse import (
    PosteriorScore as PosteriorScore,
)
from .inverse import (
    RePaint as RePaint,
)
from .inverse import (
    Replacement as Replacement,
)
from .inverse import (
    SDEdit as SDEdit,
)
from .inverse import (
    SeparableOperator as SeparableOperator,
)
from .inverse import (
    mixture_posterior as mixture_posterior,
)
from .likelihood import (
    BitsPerDim as BitsPerDim,
)
from .likelihood import (
    Dequantizer as Dequantizer,
)
from .likelihood import (
    FlowDequantization as FlowDequantization,
)
from .likelihood import (
    LikelihoodProtocol as LikelihoodProtocol,
)
from .likelihood import (
    LogLikelihood as LogLikelihood,
)
from .likelihood import (
    UniformDequantization as UniformDequantization,
)
from .likelihood import (
    VariationalTerms as VariationalTerms,
)
from .likelihood import (
    bits_per_dim as bits_per_dim,
)
from .likelihood import (
    log_likelihood as log_likelihood,
)
from .likelihood import (
    variational_bound as variational_bound,
)
from .metrics import (
    DigitsFeatures as DigitsFeatures,
)
from .metrics import (
    FeatureExtractor as FeatureExtractor,
)
from .metrics import (
    FeatureSet as FeatureSet,
)
from .metrics import (
    FrechetDistance as FrechetDistance,
)
from .metrics import (
    InceptionFeatures as InceptionFeatures,
)
from .metrics import (
    InceptionScore as InceptionScore,
)
from .metrics import (
    KernelDistance as KernelDistance,
)
from .metrics import (
    LikelihoodMetric as LikelihoodMetric,
)
from .metrics import (
    MaximumMeanDiscrepancy as MaximumMeanDiscrepancy,
)
from .metrics import (
    Metric as Metric,
)
from .metrics import (
    MNISTFeatures as MNISTFeatures,
)
from .metrics import (
    ModuleFeatures as ModuleFeatures,
)
from .metrics import (
    NegativeLogLikelihood as NegativeLogLikelihood,
)
from .metrics import (
    PixelFeatures as PixelFeatures,
)
from .metrics import (
    PrecisionRecall as PrecisionRecall,
)
from .metrics import (
    SampleQualityMetric as SampleQualityMetric,
)
from .metrics import (
    SlicedWasserstein as SlicedWasserstein,
)
from .metrics import (
    VariationalBoundMetric as VariationalBoundMetric,
)
from .metrics.quality import (
    SampleQuality as SampleQuality,
)
from .networks import (
    MLP as MLP,
)
from .networks import (
    DDPMUNet as DDPMUNet,
)
from .networks import (
    Encoder as Encoder,
)
from .networks import (
    Energy as Energy,
)
from .networks import (
    MLPEncoder as MLPEncoder,
)
from .networks import (
    NCSNpp as NCSNpp,
)
from .networks import (
    ScoreNetwork as ScoreNetwork,
)
from .networks import (
    UNet as UNet,
)
from .networks import (
    UNetEncoder as UNetEncoder,
)
from .objectives import (
    DenoisingScoreMatching as DenoisingScoreMatching,
)
from .objectives import (
    EDMWeighting as EDMWeighting,
)
from .objectives import (
    EpsilonPrediction as EpsilonPrediction,
)
from .objectives import (
    ExplicitScoreMatching as ExplicitScoreMatching,
)
from .objectives import (
    HybridObjective as HybridObjective,
)
from .objectives import (
    ImplicitScoreMatching as ImplicitScoreMatching,
)
from .objectives import (
    LikelihoodWeighting as LikelihoodWeighting,
)
from .objectives import (
    Loss as Loss,
)
from .objectives import (
    MinSNRWeighting as MinSNRWeighting,
)
from .objectives import (
    Objective as Objective,
)
from .objectives import (
    SigmaSquaredWeighting as SigmaSquaredWeighting,
)
from .objectives import (
    SigmoidWeighting as SigmoidWeighting,
)
from .objectives import (
    SlicedScoreMatching as SlicedScoreMatching,
)
from .objectives import (
    UniformWeighting as UniformWeighting,
)
from .objectives import (
    VariationalBound as VariationalBound,
)
from .objectives import (
    Weighting as Weighting,
)
from .parameterizations import (
    EDM as EDM,
)
from .parameterizations import (
    X0 as X0,
)
from .parameterizations import (
    Epsilon as Epsilon,
)
from .parameterizations import (
    Parameterization as Parameterization,
)
from .parameterizations import (
    PosteriorMean as PosteriorMean,
)
from .parameterizations import (
    Score as Score,
)
from .parameterizations import (
    Velocity as Velocity,
)
from .parameterizations import (
    VPrediction as VPrediction,
)
from .posterior import (
    ExactGuidance as ExactGuidance,
)
from .posterior import (
    Likelihood as Likelihood,
)
from .processes import (
    VESDE as VESDE,
)
from .processes import (
    VPSDE as VPSDE,
)
from .processes import (
    CosineVPSDE as CosineVPSDE,
)
from .processes import (
    DDPMProcess as DDPMProcess,
)
from .processes import (
    ForwardProcess as ForwardProcess,
)
from .processes import (
    KarrasVESDE as KarrasVESDE,
)
from .processes import (
    LearnedVPSDE as LearnedVPSDE,
)
from .processes import (
    NoiseLevel as NoiseLevel,
)
from .processes import (
    RectifiedFlow as RectifiedFlow,
)
from .processes import (
    SMLDProcess as SMLDProcess,
)
from .processes import (
    SubVPSDE as SubVPSDE,
)
from .samplers import (
    DDIM as DDIM,
)
from .samplers import (
    RK45 as RK45,
)
from .samplers import (
    AncestralSampler as AncestralSampler,
)
from .samplers import (
    AnnealedCorrector as AnnealedCorrector,
)
from .samplers import (
    AnnealedLangevin as AnnealedLangevin,
)
from .samplers import (
    Corrector as Corrector,
)
from .samplers import (
    DPMSolverPP as DPMSolverPP,
)
from .samplers import (
    EDMSampler as EDMSampler,
)
from .samplers import (
    Euler as Euler,
)
from .samplers import (
    EulerMaruyama as EulerMaruyama,
)
from .samplers import (
    ExponentialAdams as ExponentialAdams,
)
from .samplers import (
    Heun as Heun,
)
from .samplers import (
    LangevinCorrector as LangevinCorrector,
)
from .samplers import (
    LangevinDynamics as LangevinDynamics,
)
from .samplers import (
    PredictorCorrector as PredictorCorrector,
)
from .samplers import (
    Restart as Restart,
)
from .samplers import (
    ReverseDiffusion as ReverseDiffusion,
)
from .samplers import (
    Sampler as Sampler,
)
from .samplers import (
    UniPC as UniPC,
)
from .samplers import (
    decode as decode,
)
from .samplers import (
    encode as encode,
)
from .samplers import (
    generate as generate,
)
from .samplers import (
    slerp as slerp,
)
from .storage.trust import (
    trust as trust,
)
from .times import (
    DiscreteGrid as DiscreteGrid,
)
from .times import (
    DiscreteTime as DiscreteTime,
)
from .times import (
    FixedTime as FixedTime,
)
from .times import (
    ImportanceTime as ImportanceTime,
)
from .times import (
    KarrasGrid as KarrasGrid,
)
from .times import (
    LogitNormalTime as LogitNormalTime,
)
from .times import (
    LogNormalTime as LogNormalTime,
)
from .times import (
    LogSNRGrid as LogSNRGrid,
)
from .times import (
    LossAwareTime as LossAwareTime,
)
from .times import (
    MixedGrid as MixedGrid,
)
from .times import (
    NearestLevels as NearestLevels,
)
from .times import (
    QuadraticGrid as QuadraticGrid,
)
from .times import (
    StratifiedTime as StratifiedTime,
)
from .times import (
    TimeGrid as TimeGrid,
)
from .times import (
    TimeSampler as TimeSampler,
)
from .times import (
    TrailingGrid as TrailingGrid,
)
from .times import (
    UniformGrid as UniformGrid,
)
from .times import (
    UniformTime as UniformTime,
)
from .training import (
    ClassifierModule as ClassifierModule,
)
from .training import (
    ImageTextModule as ImageTextModule,
)
from .training.dequantizer import (
    DequantizerModule as DequantizerModule,
)
from .training.dequantizer import (
    load_dequantizer as load_dequantizer,
)
from .training.learning_rate import (
    LearningRateSchedule as LearningRateSchedule,
)
from .training.module import (
    ScoreModule as ScoreModule,
)
from .training.muon import (
    MuonWithAdam as MuonWithAdam,
)
from .training.power_ema import (
    PowerEMA as PowerEMA,
)

__version__: str
