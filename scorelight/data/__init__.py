"""Data modules."""

from scorelight.data.base import ArrayDataModule, Arrays, EvalLoader, TrainLoader
from scorelight.data.digits import DigitsDataModule
from scorelight.data.seeds import SeedDataModule
from scorelight.data.toy import ToyDataModule

__all__ = [
    "ArrayDataModule",
    "Arrays",
    "DigitsDataModule",
    "EvalLoader",
    "SeedDataModule",
    "ToyDataModule",
    "TrainLoader",
]
