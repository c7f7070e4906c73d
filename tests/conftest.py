"""One thread: on a shared machine two threads that wait for each other are slower than one."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import functools
import json
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test that is marked `one_in(n)`, every n-th case is quick and the others are slow."""
    count = Counter()
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is None or item.get_closest_marker("slow"):
            continue
        test = item.nodeid.partition("[")[0]
        if count[test] % mark.args[0]:
            item.add_marker(pytest.mark.slow)
        count[test] += 1


@pytest.fixture
def generator():
    """A generator with a fixed seed: every statistical test here is reproducible."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _no_global_seed(monkeypatch):
    """`seed_everything` leaves its seed in the environment."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def make_module():
    """A small two-dimensional model built from Python; keywords replace parts of it."""
    from scorelight import DDIM, MLP, VPSDE, Epsilon, EpsilonPrediction, ScoreModule

    def make(**changes):
        parts = dict(
            network=MLP((2,), width=16, depth=1),
            process=VPSDE(),
            parameterization=Epsilon(),
            objective=EpsilonPrediction(),
            sampler=DDIM(num_steps=5),
            optimizer=functools.partial(torch.optim.Adam, lr=1e-2),
        )
        return ScoreModule(**(parts | changes))

    return make


@pytest.fixture
def make_trainer(tmp_path):
    """A quiet trainer on the CPU."""

    def make(**changes):
        quiet = dict(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            log_every_n_steps=1,
            max_epochs=-1,
        )
        return Trainer(**(quiet | changes))

    return make


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train from the command line in a new folder, once a file: what starts from a run copies it."""
    from scorelight.cli import main

    def fit(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder := tmp_path_factory.mktemp("trained"))
            assert main(["fit", *args]) == 0
        return folder

    return fit


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    """The package, which knows a small architecture, ViT-tiny-for-tests."""
    package = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    path = tmp_path_factory.mktemp("configs") / "ViT-tiny-for-tests.json"
    path.write_text(json.dumps(config))
    package.add_model_config(path)
    return package


@pytest.fixture(scope="module")
def open_clip_weights(open_clip, tmp_path_factory):
    """A file of random weights of that architecture."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(open_clip.create_model("ViT-tiny-for-tests").state_dict(), path)
    return str(path)


@pytest.fixture
def in_a_folder_with_data(tmp_path, monkeypatch):
    """Data sets of noise below ``data``, MNIST as large as it is and CIFAR-10 small."""
    from scorelight import CIFAR10DataModule

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    for name, num in (("train", 60_000), ("t10k", 10_000)):
        for kind, sizes in (("images-idx3", (num, 28, 28)), ("labels-idx1", (num,))):
            header = struct.pack(f">{1 + len(sizes)}i", 0x0800 + len(sizes), *sizes)
            with (tmp_path / f"data/MNIST/raw/{name}-{kind}-ubyte").open("wb") as file:
                file.write(header)
                file.truncate(len(header) + np.prod(sizes))
    monkeypatch.setattr(CIFAR10DataModule, "_sizes", (8, 8))
    for name in ("train", "test"):
        images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"data/cifar10_{name}.npz", images=images, labels=np.arange(8))
