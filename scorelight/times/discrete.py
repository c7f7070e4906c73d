"""Training times on the timesteps of a table or of a partition."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
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

    gathers_losses = True

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
        self._gathered: tuple[Tensor, Any] | None = None

    @override
    def num_timesteps_of(self, process: ForwardProcess) -> int:
        return resolve_num_timesteps(process, self.num_timesteps, "LossAwareTime")

    def probabilities(self, num: int) -> Tensor:
        """p_i, shape (num,), float64, on the device of the losses."""
        self._store_gathered()
        uniform = torch.full((num,), 1 / num, dtype=torch.float64, device=self.losses.device)
        if not self.training or len(self.seen) != num:
            return uniform
        root = self.losses.square().mean(1).sqrt()
        p = (1 - self.uniform_share) * root / root.sum() + self.uniform_share * uniform
        return torch.where((self.seen >= self.history).all() & (root.sum() > 0), p, uniform)

    def quantile(self, process: ForwardProcess, u: Tensor) -> tuple[Tensor, Tensor]:
        """The timestep at which the cumulative probability exceeds u; the weight (10)."""
        num = self.num_timesteps_of(process)
        p = self.probabilities(num).to(u.device)
        index = torch.searchsorted(p.cumsum(0), u, right=True).clamp(max=num - 1)
        return timestep_times(process, num, u.device)[index], 1 / (num * p[index])

    @torch.no_grad()
    def observe(self, process: ForwardProcess, t: Tensor, value: Tensor) -> None:
        """Gather the losses of all processes; they are stored before the next draw.

        On several processes these agree on the size of the largest batch, for which the hosts wait, and then
        exchange (timestep, loss) of every example in the background.
        """
        self._store_gathered()
        num = self.num_timesteps_of(process)
        if len(self.seen) != num:
            self.losses = torch.zeros(num, self.history, dtype=torch.float64)
            self.seen = torch.zeros(num, dtype=torch.long)
        index = timestep_index(process, num, t)
        self._gathered = _from_all_ranks(index, value.double(), num)
        if not _is_distributed():
            self._store_gathered()

    def _store_gathered(self) -> None:
        """Store the losses of the last step, the newest in place of the oldest."""
        if self._gathered is None:
            return
        pairs, work = self._gathered
        self._gathered = None
        if work is not None:
            work.wait()  # for NCCL, the device's stream waits, not the host
        pairs = pairs.transpose(0, 1).flatten(
            0, 1
        )  # in the order of the step's batch, see `module_generator`
        self.losses, self.seen = (state.to(pairs.device) for state in (self.losses, self.seen))
        self.losses, self.seen = _with_newest(self.losses, self.seen, pairs[:, 0].long(), pairs[:, 1])

    def get_extra_state(self) -> dict[str, Tensor]:
        """The history, for the checkpoint; not a buffer, since buffers are cast with the module."""
        self._store_gathered()
        return {"losses": self.losses.cpu(), "seen": self.seen.cpu()}

    @override
    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        if state["losses"].shape[1] == self.history:
            self.losses, self.seen = (state[name].cpu().clone() for name in ("losses", "seen"))


def _with_newest(losses: Tensor, seen: Tensor, index: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The history with further losses, in operations that the host need not wait for.

    Args:
        losses: The last losses of each timestep in a ring, shape (num, history).
        seen: Losses seen of each timestep, shape (num,).
        index: Timestep of each new loss, shape (N,); num for one that does not count.
        values: The new losses, shape (N,).
    """
    num, history = losses.shape
    order = index.argsort(stable=True)
    index, values = index[order], values[order]
    counts = seen.new_zeros(num + 1).scatter_add_(0, index, torch.ones_like(index))
    position = torch.arange(len(index), device=index.device) - (counts.cumsum(0) - counts)[index]
    newest = position >= counts[index] - history  # the last ones of a timestep
    slot = (F.pad(seen, (0, 1))[index] + position) % history
    rows = F.pad(losses, (0, 0, 0, 1))  # with a last row for those that are not stored
    rows[torch.where(newest, index, num), slot] = values
    return rows[:num], seen + counts[:num]


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@functools.lru_cache(1)
def _hosts(world: Any) -> Any:
    """The processes of the group `world` in a group that exchanges what lies in the memory of the hosts."""
    return (
        world
        if torch.distributed.get_backend(world) == "gloo"
        else torch.distributed.new_group(backend="gloo")
    )


def _maximum(number: int) -> int:
    """The largest number of all processes; their hosts wait for each other, and for no device."""
    largest = torch.tensor(number)
    torch.distributed.all_reduce(
        largest, torch.distributed.ReduceOp.MAX, _hosts(torch.distributed.group.WORLD)
    )
    return int(largest)


def _from_all_ranks(index: Tensor, values: Tensor, num: int) -> tuple[Tensor, Any]:
    """Pairs (index, value) of all processes, shape (W, N, 2), float64, and the collective to wait for.

    Each of several processes gives as many as the largest batch has; those that fill it up have the index
    `num`.
    """
    pairs = torch.stack([index.double(), values], 1)
    if not _is_distributed():
        return pairs[None], None
    room = _maximum(len(pairs))
    mine = F.pad(pairs, (0, 0, 0, room - len(pairs)), value=num)
    every = mine.new_empty(torch.distributed.get_world_size() * room, 2)
    parts = list(every.view(-1, room, 2))
    return every.view(-1, room, 2), torch.distributed.all_gather(parts, mine, async_op=True)
