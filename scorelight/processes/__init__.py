"""Forward processes: how data turns into noise."""

from scorelight.processes.base import ForwardProcess, NoiseLevel
from scorelight.processes.flow import RectifiedFlow
from scorelight.processes.learned import LearnedVPSDE
from scorelight.processes.sde import VESDE, VPSDE, CosineVPSDE, KarrasVESDE, SubVPSDE
from scorelight.processes.tabulated import DDPMProcess, SMLDProcess

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
