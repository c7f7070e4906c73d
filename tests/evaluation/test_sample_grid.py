import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scorelight import DDIM, MLP, SampleGridCallback, SampleWriter, SeedDataModule, ToyDataModule, UNet
from scorelight.images import to_uint8


def predict(module, make_trainer, folder, num_samples=7, batch_size=3, **data):
    trainer = make_trainer(callbacks=[SampleWriter(folder)])
    trainer.predict(module, SeedDataModule(num_samples, 2, batch_size, **data), return_predictions=False)
    return dict(np.load(folder / "samples.npz"))


def image_module(make_module, **kwargs):
    module = make_module(network=UNet((1, 4, 6), 8, (1,), 1, (), **kwargs), sampler=DDIM(4, eta=1.0))
    torch.nn.init.normal_(module.ema.denoiser.network.last.weight, std=0.3)
    return module


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_the_archive_holds_the_samples_in_order_for_any_batch_size(
    make_module, make_trainer, tmp_path, batch_size
):
    module = image_module(make_module)
    found = predict(module, make_trainer, tmp_path, batch_size=batch_size)
    *_, x = module.eval().sample(2, range(7))
    assert found["images"].shape == (7, 4, 6, 1) and found["images"].dtype == np.uint8
    expected = to_uint8(x).permute(0, 2, 3, 1).numpy().astype(int)
    assert abs(found["images"] - expected).max() <= 1  # rounding may fall either way
    assert found["seed"] == 2


def test_vectors_are_kept_as_they_are(make_module, make_trainer, tmp_path):
    found = predict(make_module(), make_trainer, tmp_path)
    assert found["samples"].shape == (7, 2) and found["samples"].dtype == np.float32


def test_labels_are_kept(make_module, make_trainer, tmp_path):
    found = predict(image_module(make_module, num_classes=3), make_trainer, tmp_path, labels=[0, 1, 2])
    assert found["labels"].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_what_an_interrupted_run_left_is_not_mixed_in(make_module, make_trainer, tmp_path):
    (tmp_path / "parts").mkdir()
    np.savez(tmp_path / "parts" / "0-9.npz", index=[99], x=np.zeros((1, 2)), seed=0)
    assert predict(make_module(), make_trainer, tmp_path)["samples"].shape == (7, 2)
    assert not (tmp_path / "parts").exists()


def test_to_uint8_cuts_and_rounds():
    x = torch.tensor([-9.0, -1.0, -1 + 0.6 / 127.5, 0.0, 1.0, 9.0])
    assert to_uint8(x).tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize(
    ("network", "size"),
    [(MLP((2,), 8, 1), (388, 388)), (UNet((3, 8, 8), 8, (1,), 1, ()), (2 + 3 * 50, 2 + 2 * 50))],
)
def test_grids_are_drawn_now_and_then_and_at_the_end(make_module, make_trainer, tmp_path, network, size):
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    data = ToyDataModule(num_train=40, num_val=8, batch_size=8)
    if len(network.shape) == 3:
        data.scale = lambda x: x[:, :1, None, None].expand(-1, 3, 8, 8)
    trainer = make_trainer(
        max_steps=5,
        logger=logger,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[SampleGridCallback(every_n_steps=2, num_samples=6)],
    )
    trainer.fit(make_module(network=network), data)
    folder = tmp_path / "run" / "samples"
    assert sorted(p.stem for p in folder.iterdir()) == [
        "data",
        "step=0000002",
        "step=0000004",
        "step=0000005",
    ]
    with Image.open(folder / "step=0000005.png") as picture:
        assert picture.size == size
    logged = EventAccumulator(str(tmp_path / "run")).Reload().Images("samples")
    assert [e.step for e in logged] == [2, 4, 5]


def test_drawing_leaves_training_as_it_was(make_module, make_trainer, tmp_path):
    network = MLP((2,), 8, 1)
    start = {k: v.clone() for k, v in network.state_dict().items()}
    ends = []
    for callbacks in ([], [SampleGridCallback(every_n_steps=1)]):
        network.load_state_dict(start)
        trainer = make_trainer(max_steps=4, callbacks=callbacks)
        trainer.fit(make_module(network=network), ToyDataModule(num_train=40, num_val=8, batch_size=8))
        ends.append(network.last.weight.detach().clone())
    assert torch.equal(*ends)
