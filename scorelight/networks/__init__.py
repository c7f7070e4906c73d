"""Networks: functions of a noisy example and its noise level, with an output like the example."""

from scorelight.networks.base import ScoreNetwork
from scorelight.networks.energy import Energy
from scorelight.networks.mlp import MLP
from scorelight.networks.ncsnpp import DDPMUNet, NCSNpp
from scorelight.networks.unet import UNet

__all__ = ["MLP", "DDPMUNet", "Energy", "NCSNpp", "ScoreNetwork", "UNet"]
