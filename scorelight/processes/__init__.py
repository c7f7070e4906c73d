"""Forward processes: how data turns into noise."""

from scorelight.processes.base import ForwardProcess, NoiseLevel
from scorelight.processes.discrete import DDPMProcess, SMLDProcess
from scorelight.processes.flow import RectifiedFlow
from scorelight.processes.learned import LearnedVPSDE
from scorelight.processes.sde import VESDE, VPSDE, CosineVPSDE, KarrasVESDE, SubVPSDE

__all__ = [
    "VESDE",
    "VPSDE",
    "CosineVPSDE",
    "DDPMProcess",
    "ForwardProcess",
    "KarrasVESDE",
    "LearnedVPSDE",
    "NoiseLevel",
    "RectifiedFlow",
    "SMLDProcess",
    "SubVPSDE",
]
