"""Points in the plane with labels, from every kind of data that a trainer takes."""

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset

from scorelight import ArrayDataModule
from scorelight.data import Arrays

NUM = 40
POINTS = torch.randn(NUM, 2, generator=torch.Generator().manual_seed(0))


def tensors(label=None):
    """A loader of a data set of tensors."""
    return DataLoader(TensorDataset(POINTS, *([] if label is None else [label])), 8)


class Items(Dataset):
    """Points and labels one by one, which a loader collates."""

    def __init__(self, label):
        self.label = label

    def __len__(self):
        return NUM

    def __getitem__(self, i):
        return POINTS[i] if self.label is None else (POINTS[i], self.label[i])


def items(label=None):
    """A loader of another data set."""
    return DataLoader(Items(label), 8)


class Own(ArrayDataModule):
    """A data module on scorelight's base that does not state its number of classes."""

    shape = (2,)

    def __init__(self, label=None):
        super().__init__(batch_size=8)
        self.label = label

    def arrays(self):
        examples = Arrays(POINTS, {} if self.label is None else {"label": self.label})
        return examples, examples


class Foreign(LightningDataModule):
    """Nothing of scorelight's: made in `setup`, of tensors."""

    def __init__(self, label=None):
        super().__init__()
        self.label = label

    def setup(self, stage):
        self.loader = tensors(self.label)

    def train_dataloader(self):
        return self.loader

    def val_dataloader(self):
        return self.loader


class Hooked(Foreign):
    """Its labels are made when a batch is moved."""

    def setup(self, stage):
        self.loader = tensors(None if self.label is None else self.label + 7)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch[0] if len(batch) == 1 else [batch[0], batch[1] - 7]


class Stating(Foreign):
    """It states how many classes it has, whatever its labels are."""

    def __init__(self, number, label=None):
        super().__init__(label)
        self.num_classes = number
