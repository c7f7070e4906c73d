"""Forward processes: how data turns into noise."""

from scorelight.processes.base import ForwardProcess, NoiseLevel
from scorelight.processes.sde import VESDE, VPSDE, SubVPSDE

__all__ = ["VESDE", "VPSDE", "ForwardProcess", "NoiseLevel", "SubVPSDE"]
