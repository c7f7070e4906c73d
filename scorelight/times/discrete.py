"""Training times on the timesteps of a table or of a partition."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from scorelight.errors import ConfigurationError
from scorelight.processes.base import ForwardProcess
from scorelight.times.base import TimeSampler, resolve_num_timesteps, timestep_index, timestep_times

__all__ = ["DiscreteTime", "LossAwareTime"]


class DiscreteTime(TimeSampler):
    """Uniform over N timesteps: those of the process's table, or equally spaced times from t_min to t_max.

    Args:
        num_timesteps: Number N (default: the process's).
    """

    def __init__(self, num_timesteps: int | None = None) -> None:
        super().__init__()
        self.num_timesteps = num_timesteps

    @override
    def num_timesteps_of(self, process: ForwardProcess) -> int:
        return resolve_num_timesteps(process, self.num_timesteps, "DiscreteTime")

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """The timestep floor(u N), counted from 0; all weights are 1."""
        num = self.num_timesteps_of(process)
        return timestep_times(process, num, u.device)[(u * num).long()], torch.ones_like(u)


class LossAwareTime(TimeSampler):
    """p_i ∝ sqrt(E[L_i²]) over the timesteps, for L_vlb (Nichol & Dhariwal, 2021, eq. 18).

    The expectation is the mean of the last losses at the timestep, of all processes; until every timestep
    has `history` losses, and in evaluation, the timesteps are equally likely. The losses are stored in the
    checkpoint.

    Args:
        num_timesteps: Number of timesteps (default: the process's).
        history: Losses kept per timestep.
        uniform_share: Probability of drawing uniformly instead, so that no timestep is neglected.
    """

    def __init__(
        self, num_timesteps: int | None = None, history: int = 10, uniform_share: float = 0.001
    ) -> None:
        super().__init__()
        if history < 1 or not 0 < uniform_share <= 1:
            raise ConfigurationError(
                f"LossAwareTime: history={history}, uniform_share={uniform_share}: "
                "history >= 1 and 0 < uniform_share <= 1 are needed"
            )
        self.num_timesteps = num_timesteps
        self.history = history
        self.uniform_share = uniform_share
        self.losses = torch.zeros(0, history, dtype=torch.float64)
        self.seen = torch.zeros(0, dtype=torch.long)

    @override
    def num_timesteps_of(self, process: ForwardProcess) -> int:
        return resolve_num_timesteps(process, self.num_timesteps, "LossAwareTime")

    def probabilities(self, num: int) -> Tensor:
        """p_i, shape (num,), float64."""
        uniform = torch.full((num,), 1 / num, dtype=torch.float64)
        if not self.training or len(self.seen) != num or (self.seen < self.history).any():
            return uniform
        root = self.losses.square().mean(1).sqrt()
        if not root.sum() > 0:
            return uniform
        return (1 - self.uniform_share) * root / root.sum() + self.uniform_share * uniform

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """The timestep at which the cumulative probability exceeds u; the weight (10)."""
        num = self.num_timesteps_of(process)
        p = self.probabilities(num).to(u.device)
        index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=num - 1)
        return timestep_times(process, num, u.device)[index], 1 / (num * p[index])

    @torch.no_grad()
    def observe(self, process: ForwardProcess, t: Tensor, value: Tensor) -> None:
        """Store the losses of all processes, the newest in place of the oldest."""
        num = self.num_timesteps_of(process)
        if len(self.seen) != num:
            self.losses = torch.zeros(num, self.history, dtype=torch.float64)
            self.seen = torch.zeros(num, dtype=torch.long)
        index, losses = _from_all_ranks(timestep_index(process, num, t).cpu(), value.double().cpu())
        order = index.argsort(stable=True)
        index, losses = index[order], losses[order]
        counts = index.bincount(minlength=num)
        position = torch.arange(len(index)) - (counts.cumsum(0) - counts)[index]  # 0, 1, ... at a timestep
        newest = position >= counts[index] - self.history
        slot = (self.seen[index] + position) % self.history
        self.losses[index[newest], slot[newest]] = losses[newest]
        self.seen += counts

    def get_extra_state(self) -> dict[str, Tensor]:
        """The history, for the checkpoint; not a buffer, since buffers are cast with the module."""
        return {"losses": self.losses, "seen": self.seen}

    @override
    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        if state["losses"].shape[1] == self.history:
            self.losses, self.seen = (state[name].cpu().clone() for name in ("losses", "seen"))


def _from_all_ranks(*columns: Tensor) -> list[Tensor]:
    """The columns of all processes, concatenated; their lengths may differ."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(columns)
    parts: list[tuple[Tensor, ...]] = [()] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, columns)
    return [torch.cat(column) for column in zip(*parts, strict=True)]
