"""The processes of an evaluation."""

import torch

from scorelight.evaluation.context import DistributedContext


class OneProcess:
    """What a Fabric of one process does."""

    def barrier(self):
        pass

    def broadcast(self, value):
        return value


def one_process() -> DistributedContext:
    """A single process on the CPU."""
    return DistributedContext(0, 1, torch.device("cpu"), OneProcess())
