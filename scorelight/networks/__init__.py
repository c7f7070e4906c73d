"""Networks: a noisy example and its noise level in, an output like the example out."""

from scorelight.networks.base import ScoreNetwork
from scorelight.networks.energy import Energy
from scorelight.networks.mlp import MLP
from scorelight.networks.ncsnpp import DDPMUNet, NCSNpp
from scorelight.networks.unet import UNet

__all__ = ["MLP", "DDPMUNet", "Energy", "NCSNpp", "ScoreNetwork", "UNet"]
