import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from support.corruption import fail_when_unpickled

from scorelight import ToyDataModule
from scorelight.storage.checkpoint import CorruptedCheckpointError, read_checkpoint, verify
from scorelight.training.checkpointing import RollingCheckpoint
from scorelight.training.progress import StepProgressBar


class Raise(Callback):
    def __init__(self, error):
        self.error = error

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 3:
            raise self.error


def steps(folder):
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else None


def run(make_module, make_trainer, *callbacks):
    trainer = make_trainer(max_steps=5, enable_checkpointing=True, callbacks=list(callbacks))
    trainer.fit(make_module(), ToyDataModule(num_train=40, num_val=8, batch_size=8))


def test_the_last_step_is_saved_whatever_the_interval(make_module, make_trainer, tmp_path):
    run(make_module, make_trainer, RollingCheckpoint(every_n_steps=2))
    assert steps(tmp_path) == 5


class Counts(Checkpoint):
    """Stands for Lightning's ModelCheckpoint: has a state that a validation changes, and comes last."""

    def __init__(self):
        self.seen = 0

    def on_validation_end(self, trainer, module):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}


@pytest.mark.parametrize("first", [True, False])
def test_the_state_of_the_other_callbacks_is_that_after_the_validation(
    make_module, make_trainer, tmp_path, first
):
    """Else a killed run forgets its best checkpoint, and may put a worse one in its place."""
    both = [RollingCheckpoint(every_n_steps=5), Counts()]
    run(make_module, make_trainer, *(both if first else reversed(both)))
    found = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert found["global_step"] == 5 and found["callbacks"]["Counts"] == {"seen": 1}


def test_a_run_interrupted_in_the_middle_of_a_step_keeps_the_checkpoint_before(
    make_module, make_trainer, tmp_path
):
    with pytest.raises(SystemExit):
        run(make_module, make_trainer, RollingCheckpoint(every_n_steps=2), Raise(KeyboardInterrupt()))
    assert steps(tmp_path) == 2


def test_after_an_error_the_last_valid_checkpoint_stays(make_module, make_trainer, tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(make_module, make_trainer, RollingCheckpoint(every_n_steps=2), Raise(ZeroDivisionError()))
    assert steps(tmp_path) == 2


def test_one_bar_counts_the_steps_of_the_whole_run(make_module, make_trainer, capsys):
    bar = StepProgressBar()
    trainer = make_trainer(max_steps=12, enable_progress_bar=True, callbacks=[bar])
    trainer.fit(make_module(), ToyDataModule(num_train=40, num_val=8, batch_size=8))
    assert bar.train_progress_bar.total == bar.train_progress_bar.n == 12
    assert "12/12" in capsys.readouterr().out


def test_a_trainer_in_python_unpickles_only_plain_data(make_module, make_trainer, tmp_path):
    """Lightning's own reader would run the pickle: its `weights_only` is False by default."""
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_module(), ToyDataModule(num_train=60))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    verify(tmp_path / "own.ckpt")
    content = read_checkpoint(tmp_path / "own.ckpt")
    torch.save(content | {"callbacks": {"x": fail_when_unpickled()}}, tmp_path / "stranger.ckpt")
    for method in ("fit", "validate"):
        with pytest.raises(CorruptedCheckpointError):
            run = getattr(make_trainer(max_steps=2), method)
            run(make_module(), datamodule=ToyDataModule(num_train=60), ckpt_path=tmp_path / "stranger.ckpt")


def test_another_way_to_store_checkpoints_is_kept(make_module, make_trainer):
    class Own(TorchCheckpointIO):
        pass

    trainer = make_trainer(max_steps=1, plugins=[Own()])
    trainer.fit(make_module(), ToyDataModule(num_train=60))
    assert type(trainer.strategy.checkpoint_io) is Own
