"""One thread: on a shared machine two threads that wait for each other are slower than one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def generator():
    """A generator with a fixed seed: every statistical test here is reproducible."""
    return torch.Generator().manual_seed(0)
