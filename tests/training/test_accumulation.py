"""An optimizer step takes `accumulate_grad_batches` micro-batches, also where an epoch ends."""

import functools
import warnings

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, TensorDataset

from scorelight import Loss, Objective, ToyDataModule
from scorelight.errors import ConfigurationError

SGD = functools.partial(torch.optim.SGD, lr=0.02)
POINTS = torch.randn(56, 2, generator=torch.Generator().manual_seed(0))


class Noiseless(Objective):
    """A loss of the examples alone, so that a batch and its parts have the same gradient."""

    def forward(self, denoiser, x0, *, generator=None, **cond):
        t = torch.full((len(x0),), 0.5)
        return Loss((denoiser(x0, t).epsilon - 1).square().sum(1), t)

    def loss(self, denoiser, noisy, *, generator=None, **cond):
        raise NotImplementedError


class Plain(LightningDataModule):
    """Data with torch's own loader, in the order of the points."""

    shape = (2,)

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(TensorDataset(POINTS), self.batch_size, collate_fn=stacked)

    def val_dataloader(self):
        return self.train_dataloader()


def stacked(rows):
    return torch.stack([x for (x,) in rows])


def ours(batch_size):
    return ToyDataModule(num_train=56, num_val=8, batch_size=batch_size)


class Record(Callback):
    """The examples of every micro-batch, and at which of them a step was taken."""

    def __init__(self):
        self.examples, self.steps = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.examples.append(batch.x0 if hasattr(batch, "x0") else batch)

    def on_train_batch_end(self, trainer, *_):
        self.steps.append(trainer.global_step)


def train(make_module, make_trainer, data, **options):
    torch.manual_seed(0)
    module = make_module(objective=Noiseless(), optimizer=SGD, seed=0)
    trainer = make_trainer(limit_val_batches=0, callbacks=[seen := Record()], **options)
    trainer.fit(module, data)
    return torch.nn.utils.parameters_to_vector(module.denoiser.network.parameters()).detach(), seen


@pytest.mark.parametrize("k", [2, 3, 4, 9])
def test_steps_of_k_micro_batches_are_those_of_batches_k_times_as_large(make_module, make_trainer, k):
    """An epoch has 7 micro-batches of 8 examples; 12 steps take several epochs."""
    small, seen = train(make_module, make_trainer, ours(8), max_steps=12, accumulate_grad_batches=k)
    large, whole = train(make_module, make_trainer, ours(8 * k), max_steps=12)
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.cat(seen.examples), torch.cat(whole.examples)), (
        "every example, in the same order"
    )
    assert len(seen.examples) == 12 * k


@pytest.mark.parametrize("k", [2, 3, 5, 16])
@pytest.mark.parametrize("limit", [None, 3, 1])
def test_with_the_loader_of_torch_and_limited_epochs(make_module, make_trainer, k, limit):
    options = {"limit_train_batches": limit} if limit else {}
    small, seen = train(
        make_module, make_trainer, Plain(8), max_steps=6, accumulate_grad_batches=k, **options
    )
    assert seen.steps == [n // k for n in range(1, 6 * k + 1)]
    torch.manual_seed(0)
    reference = make_module(objective=Noiseless(), optimizer=SGD, seed=0)
    weights = [*reference.denoiser.network.parameters()]
    optimizer = SGD(weights)
    for first in range(0, 6 * k, k):
        optimizer.zero_grad()
        parts = seen.examples[first : first + k]
        sum(reference.objective(reference.denoiser, x0).value.mean() / k for x0 in parts).backward()
        optimizer.step()
    expected = torch.nn.utils.parameters_to_vector(weights).detach()
    torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-5)


def test_the_micro_batches_of_a_step_have_noise_of_their_own_if_an_epoch_is_one_of_them(
    make_module, make_trainer
):
    drawn = []

    class Spy(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            drawn.append(torch.rand(()).item())

    trainer = make_trainer(max_steps=4, accumulate_grad_batches=3, limit_train_batches=1, callbacks=[Spy()])
    trainer.fit(make_module(), ours(8))
    assert len(set(drawn)) == 12


def test_a_resumed_run_with_another_number_begins_a_whole_step(make_module, make_trainer, tmp_path):
    """The checkpoint is written after 6 micro-batches of an epoch, which 4 does not divide."""
    first = make_trainer(max_steps=2, accumulate_grad_batches=3)
    first.fit(make_module(), ours(8))
    first.save_checkpoint(tmp_path / "some.ckpt")
    second = make_trainer(max_steps=5, accumulate_grad_batches=4, callbacks=[seen := Record()])
    second.fit(make_module(), ours(8), ckpt_path=tmp_path / "some.ckpt", weights_only=False)
    assert seen.steps == [2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5]


def test_a_trainer_can_train_another_kind_of_module_afterwards(make_module, make_trainer):
    trainer = make_trainer(max_steps=2, accumulate_grad_batches=3)
    trainer.fit(make_module(), ours(8))
    from lightning.pytorch.demos.boring_classes import BoringModel

    trainer.fit_loop.epoch_loop.max_steps = 30
    trainer.fit(BoringModel())
    assert trainer.global_step == 30


def test_a_number_that_changes_within_a_step_is_refused(make_module, make_trainer):
    trainer = make_trainer(max_steps=2, callbacks=[GradientAccumulationScheduler({0: 2, 1: 3})])
    warnings.filterwarnings("ignore", message=".*hooks will not be called on every batch")
    with pytest.raises(
        ConfigurationError, match=r"GradientAccumulationScheduler.*use trainer.accumulate_grad"
    ):
        trainer.fit(make_module(), ours(8))
