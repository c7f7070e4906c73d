"""Networks: functions of a noisy example and its noise level."""

from scorelight.networks.base import Encoder, ScoreNetwork
from scorelight.networks.encoders import MLPEncoder, UNetEncoder
from scorelight.networks.energy import Energy
from scorelight.networks.mlp import MLP
from scorelight.networks.ncsnpp import DDPMUNet, NCSNpp
from scorelight.networks.unet import UNet

__all__ = [
    "MLP",
    "DDPMUNet",
    "Encoder",
    "Energy",
    "MLPEncoder",
    "NCSNpp",
    "ScoreNetwork",
    "UNet",
    "UNetEncoder",
]
