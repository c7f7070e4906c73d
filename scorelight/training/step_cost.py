"""What a training step costs, counted on the real network without computing it."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from scorelight.rng import PhiloxGenerator, Stream
from scorelight.training.module import ScoreModule

__all__ = ["StepCost", "count_step", "measured_flops_per_second"]


class StepCost(NamedTuple):
    """Counts of a model. One multiplication and addition are two floating-point operations (FLOP)."""

    parameters: int
    """Numbers that are trained, P."""
    tensors: int
    """Tensors that they are in."""
    parameter_bytes: int
    """Bytes of the parameters; the gradient has as many."""
    optimizer_bytes: int
    """Bytes that the optimizer stores between steps."""
    averaged_bytes: int
    """Bytes of the averaged weights, with what is not trained."""
    checkpoint_bytes: int
    """Bytes of all tensors in a checkpoint."""
    checkpoint_tensors: int
    network_flops: int
    """One evaluation of the network for one example."""
    loss_flops: int
    """The loss of one example, forward."""
    step_flops: int
    """The loss of one example and its gradient."""
    activation_bytes: int
    """Kept from the forward to the backward pass, for one example."""
    random_numbers: int
    """Drawn for one example by scorelight: times, noise and the objective's own; dropout is not counted."""
    gathers_losses: bool
    """Whether every step gathers the losses of all processes."""


@torch.enable_grad()
def count_step(module: ScoreModule, conditions: dict[str, Tensor] | None = None) -> StepCost:
    """Count the step of a module for one example.

    The network and the objective run on the ``meta`` device, where tensors have shapes and no numbers, or, if
    one of them asks for numbers, on the CPU. Attention is counted in its plain form. Activations are the
    tensors that autograd saves, each storage once, in the type of the weights.

    Args:
        module: The module, before training or after; it stays as it is.
        conditions: Conditions of one example, each of shape (1, ...) (default: a label of class-conditional
            networks).
    """
    try:
        counted = _count_on(torch.device("meta"), module, conditions)
    except (NotImplementedError, RuntimeError):
        counted = _count_on(torch.device("cpu"), module, conditions)
    trained = [p for p in module.parameters() if p.requires_grad]
    stored = [v for v in module.state_dict().values() if isinstance(v, Tensor)]
    optimizer = [_optimizer_state(module, p) for p in trained]
    return StepCost(
        parameters=sum(p.numel() for p in trained),
        tensors=len(trained),
        parameter_bytes=sum(p.nbytes for p in trained),
        optimizer_bytes=sum(sum(state) for state in optimizer),
        averaged_bytes=sum(v.nbytes for v in module.ema.state_dict().values() if isinstance(v, Tensor)),
        checkpoint_bytes=sum(v.nbytes for v in stored) + sum(sum(state) for state in optimizer),
        checkpoint_tensors=len(stored) + sum(len(state) for state in optimizer),
        gathers_losses=module.objective.times(module.denoiser.process).gathers_losses,
        **counted,
    )


def measured_flops_per_second(
    module: ScoreModule, cost: StepCost, batch_size: int, device: torch.device, repeats: int = 3
) -> float:
    """FLOP per second that the loss and its gradient achieve, the best of some repeats.

    Args:
        module: The module; it stays as it is.
        cost: Its `count_step`.
        batch_size: Examples of the batch.
        device: Where it is measured.
        repeats: How often, after once to warm up.
    """
    step = _Step(module, device, batch_size, None)
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        loss = step()
        torch.autograd.backward(loss)
        step.wait()
        seconds.append(time.perf_counter() - start)
    return batch_size * cost.step_flops / min(seconds[1:])


class _CountingGenerator(PhiloxGenerator):
    """Counts the numbers that are drawn."""

    num_numbers = 0

    @override
    def draw(self, shape: Sequence[int], device: torch.device, *args: Any) -> Tensor:
        numbers = super().draw(shape, device, *args)
        self.num_numbers += numbers.numel()
        return numbers


class _Step:
    """The mean loss of a batch of zeros, of copies of the module's parts; called as often as wanted."""

    def __init__(
        self, module: ScoreModule, device: torch.device, size: int, conditions: dict[str, Tensor] | None
    ) -> None:
        self.denoiser = copy.deepcopy(module.denoiser).to(device).train()
        self.objective = copy.deepcopy(module.objective).to(device).train()
        self.x0 = torch.zeros(size, *module.shape, device=device)
        if conditions is None:
            conditions = {"label": torch.zeros(1, dtype=torch.long)} if module.num_classes else {}
        self.cond = {name: v.expand(size, *v.shape[1:]).to(device) for name, v in conditions.items()}
        examples = torch.arange(size, device=device)
        self.generator = _CountingGenerator(0, examples, Stream.TRAINING, batch_size=size)

    def network(self) -> None:
        """One evaluation of the network alone."""
        with torch.no_grad():
            self.denoiser.network(self.x0, torch.zeros(len(self.x0), device=self.x0.device), **self.cond)

    def wait(self) -> None:
        """Wait for the device: for a number of the gradient."""
        for parameter in self.denoiser.parameters():
            if parameter.grad is not None:
                parameter.grad.sum().item()
                return

    def __call__(self) -> Tensor:
        """The mean loss."""
        loss: Tensor = self.objective(self.denoiser, self.x0, generator=self.generator, **self.cond).value
        return loss.mean()


def _count_on(
    device: torch.device, module: ScoreModule, conditions: dict[str, Tensor] | None
) -> dict[str, int]:
    step = _Step(module, device, 1, conditions)
    saved = _SavedBytes(step.denoiser, step.objective)
    with sdpa_kernel(SDPBackend.MATH):
        with _FlopCounter() as network:
            step.network()
        with _FlopCounter() as forward, saved_tensors_hooks(saved.pack, lambda x: x):
            loss = step()
        with _FlopCounter() as backward:
            torch.autograd.backward(loss)
    return {
        "network_flops": network.flops,
        "loss_flops": forward.flops,
        "step_flops": forward.flops + backward.flops,
        "activation_bytes": saved.num_bytes(),
        "random_numbers": step.generator.num_numbers,
    }


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up PyTorch's counts of products and convolutions; all other operations count as 0.

    `FlopCounterMode` also keeps counts of each module, by hooks that autograd refuses inside an objective
    that differentiates the network.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        return result


class _SavedBytes:
    """The storages that autograd saves, without those of the parts themselves."""

    def __init__(self, *parts: nn.Module) -> None:
        own = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
        self._own = {id(storage): storage for storage in map(Tensor.untyped_storage, own)}
        self._saved: dict[int, Any] = {}

    def pack(self, x: Tensor) -> Tensor:
        """Note the storage, which is kept so that no other takes its place."""
        storage = x.untyped_storage()
        if id(storage) not in self._own:
            self._saved[id(storage)] = storage
        return x

    def num_bytes(self) -> int:
        """Bytes of the storages."""
        return sum(storage.nbytes() for storage in self._saved.values())


def _optimizer_state(module: ScoreModule, parameter: nn.Parameter) -> list[int]:
    """Bytes of each tensor that the optimizer stores for a parameter."""
    like = nn.Parameter(torch.zeros_like(parameter, device="cpu"))
    like.grad = torch.zeros_like(like)
    optimizer = module.optimizer([like])
    optimizer.step(lambda: 0.0)
    return [v.nbytes for v in optimizer.state[like].values() if isinstance(v, Tensor)]
