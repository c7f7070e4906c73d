"""What is refused before a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from scorelight.denoisers.base import Denoiser, DenoiserWrapper
from scorelight.errors import ConfigurationError
from scorelight.networks.base import ScoreNetwork
from scorelight.objectives.base import Objective
from scorelight.processes.base import ForwardProcess
from scorelight.samplers.base import Sampler

__all__ = [
    "check_checkpoint",
    "check_compatible",
    "check_fit",
    "check_guidance",
    "check_seed",
    "check_trainer",
    "check_validation_examples",
    "require_floating",
]

_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_steps": 0,
    "min_epochs": 0,
    "num_sanity_val_steps": -1,
}
"""Options of a trainer that Lightning takes at any value, and their least one."""


def check_guidance(denoiser: Denoiser, condition_dropout: float) -> None:
    """Refuse guidance that asks for an unconditional prediction of a model that has not learned one.

    Raises:
        ConfigurationError: If the model was trained without `condition_dropout`.
    """
    if isinstance(denoiser, DenoiserWrapper) and denoiser.needs_condition_dropout and not condition_dropout:
        name = type(denoiser).__name__
        raise ConfigurationError(
            f"{name} needs the model's prediction without its condition, which condition_dropout=0 does not "
            "train; train a class-conditional model with --model.condition_dropout 0.1"
        )


def check_compatible(
    network: ScoreNetwork,
    process: ForwardProcess,
    objective: Objective,
    sampler: Sampler,
    condition_dropout: float,
) -> None:
    """Refuse components that do not go together.

    Raises:
        ConfigurationError: Naming what does not fit.
    """
    if not 0 <= condition_dropout <= 1:
        raise ConfigurationError(f"condition_dropout={condition_dropout}: a probability, 0 to 1, is needed")
    if condition_dropout and not network.num_classes:
        raise ConfigurationError(
            f"condition_dropout={condition_dropout}: the network has no condition; "
            "set model.network.num_classes, on the command line to data for those of the data"
        )
    objective.check(process, network)
    sampler.levels(process)


def check_trainer(option: Callable[[str], Any]) -> None:
    """Refuse options of a trainer that lead to an error later, or are ignored.

    Args:
        option: The value of an option by its name.

    Raises:
        ConfigurationError: Naming the option.
    """
    for name, least in _LEAST.items():
        value = option(name)
        if isinstance(value, int | float) and not value >= least:
            raise ConfigurationError(f"trainer.{name}={value}: must be at least {least}")
    interval = option("val_check_interval")
    if isinstance(interval, int | float) and not interval > 0:
        raise ConfigurationError(
            f"trainer.val_check_interval={interval}: must be above 0; for no validation at all, set "
            "trainer.limit_val_batches to 0"
        )


def check_seed(key: str, seed: Any) -> None:
    """Refuse a seed that is not one of torch, NumPy and Python.

    Raises:
        ConfigurationError: If it is a number out of range.
    """
    if isinstance(seed, int) and not 0 <= seed < 2**32:
        raise ConfigurationError(f"{key}={seed}: a seed is at least 0 and below 2^32")


def check_checkpoint(module: LightningModule, checkpoint: dict[str, Any], resuming: bool) -> None:
    """Refuse a checkpoint that is not one of this model, or has no state to resume from.

    Raises:
        ConfigurationError: Naming what differs.
    """
    mine, stored = module.state_dict(), checkpoint["state_dict"]
    unequal = [
        f"{key}: {_shape(stored, key)} in the checkpoint, {_shape(mine, key)} here"
        for key in sorted(mine.keys() | stored.keys())
        if _shape(mine, key) != _shape(stored, key)
    ]
    if unequal:
        parts = ("network", "process", "objective")
        old, new = (
            _flat({k: s.get(k) for k in parts}) for s in (checkpoint["hyper_parameters"], module.hparams)
        )
        changed = [
            f"model.{key}: {old.get(key)} in the checkpoint, {new.get(key)} here"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        listed = "; ".join((changed or unequal)[:4])
        raise ConfigurationError(
            f"the checkpoint's weights do not fit this model: {listed}. Train another model without the "
            "checkpoint, or keep its network and the shape of its data"
        )
    if resuming and "optimizer_states" not in checkpoint:
        raise ConfigurationError(
            "the checkpoint holds weights only, and training cannot be resumed from it; give one that was "
            "written with the state of the training, such as checkpoints/last.ckpt of a run folder"
        )


def _shape(weights: Mapping[str, Any], key: str) -> Any:
    """Shape of a weight, "none" if there is none; other state has no shape."""
    weight = weights.get(key, "none")
    return tuple(weight.shape) if isinstance(weight, Tensor) else weight if weight == "none" else "a state"


def _flat(settings: Any, key: str = "") -> dict[str, Any]:
    """Nested settings as {key on the command line: value}."""
    if not isinstance(settings, Mapping):
        return {key: tuple(settings) if isinstance(settings, list) else settings}
    pairs = ((f"{key}.{name}".strip("."), value) for name, value in settings.items())
    flat = [
        _flat(value, name.removesuffix(".init_args").removesuffix(".class_path")) for name, value in pairs
    ]
    return {name: value for part in flat for name, value in part.items()}


def check_fit(trainer: Trainer, dequantize: bool) -> None:
    """Refuse a precision or data that a model cannot be trained with.

    Args:
        trainer: A trainer that has been given the data.
        dequantize: Whether the model dequantises them.

    Raises:
        ConfigurationError: If weights are to be trained in 16 bits, or data without grey levels dequantised.
    """
    stage, data = trainer.state.fn, getattr(trainer, "datamodule", None)
    if stage == "fit":
        check_trainer(lambda name: getattr(trainer, name, None))
    if stage == "fit" and trainer.precision in ("bf16-true", "16-true"):
        raise ConfigurationError(
            f"trainer.precision={trainer.precision}: weights of 16 bits do not move by the small "
            "steps of their optimizer and average; use bf16-mixed, which keeps them in 32"
        )
    if stage in ("fit", "validate") and dequantize and getattr(data, "num_bins", None) is None:
        raise ConfigurationError(
            f"model.dequantize=true: {type(data).__name__} does not state its number of grey levels "
            "(num_bins); leave it out for data that are not quantised"
        )


def check_validation_examples(trainer: Trainer) -> None:
    """Refuse a data module, which is set up, with fewer validation examples than processes.

    Raises:
        ConfigurationError: Naming both numbers.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if trainer.state.fn in ("fit", "validate") and hasattr(data, "examples"):
        number, processes = len(data.examples("val")), trainer.world_size
        if 0 < number < processes:
            raise ConfigurationError(
                f"data: {number} validation examples for {processes} processes, each of which needs one; use "
                "more examples or fewer devices"
            )


def require_floating(x0: Tensor) -> None:
    """Refuse examples that are whole numbers, such as images that nobody has scaled.

    Raises:
        ConfigurationError: If they are no floating-point numbers.
    """
    if not x0.is_floating_point():
        raise ConfigurationError(
            f"a batch of the data has x0 of type {x0.dtype}; give floating-point numbers, images in [-1, 1]"
        )
