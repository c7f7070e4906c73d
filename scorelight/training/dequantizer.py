"""Training a dequantizer on a frozen model, under Lightning."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, Self

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from scorelight.batch import as_batch
from scorelight.data.loaders import global_seed
from scorelight.denoisers.base import Denoiser
from scorelight.errors import ConfigurationError
from scorelight.likelihood.bits_per_dim import LikelihoodProtocol, grey_levels
from scorelight.likelihood.dequantization import Dequantizer
from scorelight.objectives import Objective, VariationalBound
from scorelight.processes.base import ForwardProcess
from scorelight.rng import Generators
from scorelight.storage.checkpoint import CorruptedCheckpointError, read_checkpoint
from scorelight.storage.component import spec
from scorelight.storage.specs import build, described
from scorelight.times import DiscreteTime, ImportanceTime, StratifiedTime
from scorelight.training.checkpointing import use_verified_checkpoints
from scorelight.training.constants import keep_constants_local
from scorelight.training.divergence import DivergenceGuard
from scorelight.training.randomness import module_generator
from scorelight.training.step_log import is_reported

__all__ = ["DequantizerModule", "load_dequantizer"]


class DequantizerModule(LightningModule):
    """A dequantizer in training: it minimises (24) with the model fixed.

    −log p(x + Δu) is replaced by a bound that can be differentiated in x, and log q(u|x) is exact (Song,
    Durkan et al., 2021). The checkpoint holds ``dequantizer.*``, the optimizer, and under
    ``dequantizer`` what `load_dequantizer` builds it from; nothing of the model.

    Args:
        denoiser: The model; a copy of it is frozen.
        dequantizer: What is trained.
        protocol: Its `num_bins` and `data_range` are those of the data.
        objective: Upper bound on −log p(x0) of a density, in nats (default: `VariationalBound` at stratified
            times, which on the digits have a third of the variance of independent ones).
        learning_rate: Learning rate of Adam at the first step; it decays to 0 by a cosine.
        seed: Seed of the noise (default: that of `seed_everything`).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        dequantizer: Dequantizer,
        protocol: LikelihoodProtocol,
        objective: Objective | None = None,
        learning_rate: float = 3e-3,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        objective = objective or _bound(denoiser.process)
        _check(dequantizer, protocol, objective, learning_rate)
        frozen = copy.deepcopy(denoiser).requires_grad_(False).eval()
        objective.check(frozen.process)
        self._frozen = (frozen,)  # no sub-module: neither stored nor trained nor kept in step by DDP
        self.dequantizer = dequantizer
        self.protocol = protocol
        self.objective = objective
        self.learning_rate = learning_rate
        self.seed = global_seed() if seed is None else seed
        self.guard = DivergenceGuard("bound")

    def loss(self, x: Tensor, generator: Generators = None, **cond: Any) -> Tensor:
        """An unbiased estimate of the bound (24) for each example, in bits per dimension, shape (B,).

        Args:
            x: Grey levels, shape (B, ...), see `bits_per_dim`.
            generator: Where all the noise comes from; see `rng`.
            **cond: Conditions for the network.
        """
        centres, spacing = grey_levels(x, self.protocol)
        x0, log_q = self.dequantizer.dequantize(centres, spacing, generator)
        bound = self.objective(self._frozen[0], x0, generator=generator, **cond).value
        bits: Tensor = (bound + log_q) / (x[0].numel() * math.log(2)) - math.log2(spacing)
        return bits

    def setup(self, stage: str) -> None:
        """Have the trainer read and write verified checkpoints of plain data."""
        use_verified_checkpoints(self.trainer)

    def on_fit_start(self) -> None:
        """Move the model to the device of the dequantizer."""
        self._frozen[0].to(self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean of the bound over the batch; its noise is a function of (seed, step, place in it)."""
        x, cond, _ = as_batch(batch)
        first = batch_idx % self.trainer.accumulate_grad_batches * len(x)
        generator = module_generator(self, self.seed, first, len(x), x.device)
        bound = self.loss(x, generator, **cond)
        mean = bound.mean()
        if is_reported(self.trainer, self.global_step + 1):
            self.log("train/bits_per_dim", mean.detach().cpu(), prog_bar=True)
        return self.guard.loss(self, bound, mean)

    def on_train_start(self) -> None:
        """Guard the weights of this run."""
        remedy = f"Try a lower learning rate than {self.learning_rate:g}"
        self.guard = DivergenceGuard("bound", remedy)
        keep_constants_local(self, self.trainer.model)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep a step that is not finite away from the weights."""
        self.guard.before_step(self, optimizer)

    def on_train_batch_end(self, *_: Any) -> None:
        """Ask for the outcome of the last steps."""
        if is_reported(self.trainer, self.global_step):
            self.guard.read(self)

    def on_train_end(self) -> None:
        """Check the last steps."""
        self.guard.read(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam; its rate comes from the schedule alone, so that a resumed run follows its own settings."""
        optimizer, total = (
            Adam(self.dequantizer.parameters(), 1.0, fused=True),
            self.trainer.estimated_stepping_batches,
        )

        def rate(step: int) -> float:
            return 0.5 * self.learning_rate * (1 + math.cos(math.pi * min(step / total, 1)))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"},
        }

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, *args: Any, **settings: Any) -> Self:  # type: ignore[override]
        """The module with the state in a file, and with the settings given: the file describes none."""
        given = settings | {"_instantiator": None, "weights_only": True}
        loaded: Self = super().load_from_checkpoint(checkpoint_path, *args, **given)
        return loaded

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store all that is needed to build the dequantizer; not after a step that was left out."""
        self.guard.read(self)
        checkpoint["dequantizer"] = spec(self.dequantizer)


def load_dequantizer(path: str | Path) -> Dequantizer:
    """The dequantizer of a checkpoint of `DequantizerModule`, on the CPU; only plain data is unpickled.

    Raises:
        ConfigurationError: If the file holds none, or is corrupted.
    """
    try:
        checkpoint = read_checkpoint(Path(path))
        entry, state = checkpoint["dequantizer"], dict(checkpoint["state_dict"])
    except (KeyError, TypeError, CorruptedCheckpointError) as error:
        raise ConfigurationError(
            f"{path}: holds no dequantizer; scorelight dequantize RUN_OR_CHECKPOINT trains and writes one "
            f"({error})"
        ) from error
    dequantizer: Dequantizer = build(described(entry, Dequantizer, "dequantizer", path))
    prefix = "dequantizer."
    mine = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    try:
        dequantizer.load_state_dict(mine)
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: the weights do not fit: {str(error)[:300]}") from error
    return dequantizer.requires_grad_(False).eval()


def _bound(process: ForwardProcess) -> VariationalBound:
    """The bound on the process's levels, or in continuous time."""
    levels = process.num_timesteps
    return VariationalBound(time_sampler=StratifiedTime(DiscreteTime(levels) if levels else ImportanceTime()))


def _check(
    dequantizer: Dequantizer, protocol: LikelihoodProtocol, objective: Objective, learning_rate: float
) -> None:
    """Refuse what cannot be trained."""
    if protocol.num_bins is None:
        raise ConfigurationError(
            "LikelihoodProtocol(num_bins=None): data that are not quantised need no dequantizer; set num_bins"
        )
    if getattr(objective, "num_bins", None) is not None:
        raise ConfigurationError(
            f"{type(objective).__name__}: with num_bins={objective.num_bins} it bounds a probability; the "
            "density of dequantised data is needed: leave num_bins out"
        )
    if not any(parameter.requires_grad for parameter in dequantizer.parameters()):
        raise ConfigurationError(
            f"{type(dequantizer).__name__}: has nothing to train; use FlowDequantization"
        )
    if not 0 < learning_rate < math.inf:
        raise ConfigurationError(f"learning_rate={learning_rate}: must be positive")
