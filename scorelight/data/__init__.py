"""Data modules."""

from scorelight.data.arrays import Arrays, Examples
from scorelight.data.base import ArrayDataModule, EightBitDataModule
from scorelight.data.clusters import ClusteredDataModule
from scorelight.data.described import DescribedDigitsDataModule
from scorelight.data.digits import DigitsDataModule
from scorelight.data.image_folder import ImageDataModule
from scorelight.data.loaders import EvalLoader, TrainLoader
from scorelight.data.seeds import SeedDataModule
from scorelight.data.torchvision import CIFAR10DataModule, MNISTDataModule
from scorelight.data.toy import ToyDataModule

__all__ = [
    "ArrayDataModule",
    "Arrays",
    "CIFAR10DataModule",
    "ClusteredDataModule",
    "DescribedDigitsDataModule",
    "DigitsDataModule",
    "EightBitDataModule",
    "EvalLoader",
    "Examples",
    "ImageDataModule",
    "MNISTDataModule",
    "SeedDataModule",
    "ToyDataModule",
    "TrainLoader",
]
