"""A checkpoint may name code of scorelight, of torch and of packages that the user trusts, and no other."""

import sys

import pytest
import torch

import scorelight
from scorelight import ConfigurationError, ScoreModule
from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.trust import check_trusted, import_paths


@pytest.fixture(autouse=True)
def _own_list(monkeypatch):
    monkeypatch.setattr("scorelight.storage.trust._trusted", {"scorelight", "torch"})


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module beside the checkpoint that leaves a trace when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    code = "from pathlib import Path; Path('ran').touch(); from scorelight import MLP as M"
    (tmp_path / "evil.py").write_text(code)
    yield tmp_path
    sys.modules.pop("evil", None)


@pytest.fixture
def checkpoint(evil, make_module, make_trainer):
    module, trainer = make_module(), make_trainer(max_steps=1)
    trainer.fit(module, scorelight.ToyDataModule(num_train=60))
    trainer.save_checkpoint(evil / "a.ckpt")
    return evil / "a.ckpt"


PLACES = {
    "network": lambda c: c["hyper_parameters"]["network"].update(class_path="evil.M"),
    "process": lambda c: c["hyper_parameters"]["process"].update(class_path="evil.sub.Process"),
    "optimizer as a string": lambda c: c["hyper_parameters"].update(optimizer="evil.M"),
    "an argument": lambda c: c["hyper_parameters"]["network"]["init_args"].update(width="evil.M"),
    "instantiator": lambda c: c["hyper_parameters"].update(_instantiator="evil.M"),
    "data": lambda c: c.update(data={"class_path": "evil.Data"}),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("place", PLACES)
def test_other_code_is_refused_and_not_run(checkpoint, evil, capsys, place):
    content = read_checkpoint(checkpoint)
    PLACES[place](content)
    write_checkpoint(content, checkpoint)
    commands = [["sample", "a.ckpt"], ["validate", "--config", "toy/vp_epsilon", "--ckpt_path", "a.ckpt"]]
    if place == "instantiator":
        commands = []
    for command in commands:
        assert main(command) == 2
        message = capsys.readouterr().err
        assert "a.ckpt names 'evil." in message and "--trust evil" in message
    if place != "data":
        with pytest.raises(ConfigurationError, match=r"scorelight\.trust\('evil'\)"):
            ScoreModule.load_from_checkpoint(checkpoint)
    assert not (evil / "ran").exists()


def test_what_is_trusted_is_imported(checkpoint, evil):
    content = read_checkpoint(checkpoint)
    PLACES["network"](content)
    write_checkpoint(content, checkpoint)
    assert main(["sample", "a.ckpt", "--num_samples", "2", "--trust", "evil"]) == 0
    assert (evil / "ran").exists()
    loaded = ScoreModule.load_from_checkpoint(checkpoint)
    for name, value in loaded.state_dict().items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, content["state_dict"][name])


def test_words_that_name_no_module_are_words(tmp_path):
    assert list(import_paths({"a": ["x.y", "one", "a b.c", "1.5", {"k.l": 2}], "photos.zip": None})) == [
        "x.y",
        "k.l",
        "photos.zip",
    ]
    check_trusted({"path": "photos.zip", "other": "data/archive.tar"}, tmp_path)
    with pytest.raises(ConfigurationError, match=r"names 'os\.system'"):
        check_trusted([("os.system",)], tmp_path)
    scorelight.trust("os")
    check_trusted(["os.system"], tmp_path)


def test_trust_needs_a_package(capsys):
    assert main(["sample", "--trust"]) == 2
    assert "--trust PACKAGE" in capsys.readouterr().err
