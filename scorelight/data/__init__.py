"""Data modules."""

from scorelight.data.base import ArrayDataModule, EightBitDataModule
from scorelight.data.digits import DigitsDataModule
from scorelight.data.examples import Arrays, Examples
from scorelight.data.loaders import EvalLoader, TrainLoader
from scorelight.data.seeds import SeedDataModule
from scorelight.data.toy import ToyDataModule

__all__ = [
    "ArrayDataModule",
    "Arrays",
    "DigitsDataModule",
    "EightBitDataModule",
    "EvalLoader",
    "Examples",
    "SeedDataModule",
    "ToyDataModule",
    "TrainLoader",
]
