"""What a training step waits for: collectives, and numbers that the host asks the device for."""

from collections import Counter
from traceback import extract_stack

import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "bincount", "unique")
"""Operators whose result, or its shape, the host has to wait for."""
COLLECTIVES = [
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "reduce",
    "scatter_object_list",
]


def caller() -> str:
    """The innermost function of scorelight or Lightning on the stack."""
    for frame in reversed(extract_stack()):
        for package in ("scorelight/", "lightning/", "torchmetrics/"):
            _, found, rest = frame.filename.rpartition(f"/{package}")
            if found and "/tests/" not in frame.filename:
                return f"{package}{rest}:{frame.name}"
    return "elsewhere"


class Waits(Callback):
    """Counts, in the training steps from `first` to `last`, what is exchanged and what the host reads.

    `counts` holds them by (kind, operation, function). The collectives of DDP itself are made in C++, and
    counted by the profiler: ``collectives`` holds the number of each.
    """

    def __init__(self, first=11, last=15):
        self.first, self.last = first, last
        self.counts, self.collectives = Counter(), Counter()
        self.on = False

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.first and not self.on:
            self.on = True
            self.originals = {name: getattr(torch.distributed, name) for name in COLLECTIVES}
            for name, function in self.originals.items():
                setattr(torch.distributed, name, self.counting("collective", name, function))
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
            self.profile.__enter__()
            self.mode = Reads(self.counts)
            self.mode.__enter__()

    def on_train_batch_end(self, trainer, *_):
        if self.on and trainer.global_step == self.last + 1:
            self.mode.__exit__(None, None, None)
            self.profile.__exit__(None, None, None)
            self.on = False
            for name, function in self.originals.items():
                setattr(torch.distributed, name, function)
            for event in self.profile.key_averages():
                if event.key.startswith(("gloo:", "nccl:")):
                    self.collectives[event.key.partition(":")[2]] += event.count

    def counting(self, kind, name, function):
        def counted(*args, **kwargs):
            self.counts[kind, name, caller()] += 1
            return function(*args, **kwargs)

        return counted


class Reads(TorchDispatchMode):
    """Counts the operators whose result the host waits for."""

    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in READS:
            self.counts["read", name, caller()] += 1
        if name == "lift_fresh":  # torch.tensor(...): on a GPU, a copy that the host waits for
            self.counts["copy", name, caller()] += 1
        return func(*args, **(kwargs or {}))
