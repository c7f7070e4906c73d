"""A short run on digits, for the commands on a checkpoint."""

import shutil

import pytest


@pytest.fixture(scope="module")
def trained(train):
    """A folder with a run on digits, of two steps."""
    flags = "--trainer.max_steps 2 --trainer.val_check_interval 2 --model.network.base_channels 8"
    flags += " --model.sampler.num_steps 3 --samples.num_samples 4"
    return train("--config", "digits/vp_epsilon", *flags.split())


@pytest.fixture
def copied_run(trained, tmp_path, monkeypatch):
    """A copy of that run in the working folder, which is returned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCORELIGHT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained / "runs", "runs")
    return tmp_path
