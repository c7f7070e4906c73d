"""A checkpoint may name code of scorelight, of torch and of packages that the user trusts, and no other."""

import re
import sys

import pytest
import torch

import scorelight
from scorelight import ConfigurationError, ScoreModule
from scorelight.cli import main
from scorelight.storage.checkpoint import read_checkpoint, write_checkpoint
from scorelight.storage.trust import locate, packages_named
from scorelight.training.loading import read_config


@pytest.fixture(autouse=True)
def _own_list(monkeypatch):
    monkeypatch.setattr("scorelight.storage.trust._trusted", set())


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
    "optimizer": lambda c: c["hyper_parameters"]["optimizer"].update(class_path="evil.M"),
    "an argument": lambda c: c["hyper_parameters"]["network"]["init_args"].update(
        width={"class_path": "evil.M"}
    ),
    "data": lambda c: c.update(data={"class_path": "evil.Data"}),
}
STRINGS = {
    "a string for a class": lambda c: c["hyper_parameters"].update(optimizer="evil.M"),
    "an argument": lambda c: c["hyper_parameters"]["network"]["init_args"].update(width="evil.M"),
    "the instantiator": lambda c: c["hyper_parameters"].update(_instantiator="evil.M"),
}


COMMANDS = [["sample", "a.ckpt"], ["validate", "--config", "toy/vp_epsilon", "--ckpt_path", "a.ckpt"]]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("place", PLACES)
def test_other_code_is_refused_and_not_run(checkpoint, evil, capsys, place):
    content = read_checkpoint(checkpoint)
    PLACES[place](content)
    write_checkpoint(content, checkpoint)
    for command in COMMANDS:
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


@pytest.mark.parametrize("place", STRINGS)
def test_a_string_is_no_description(checkpoint, evil, capsys, place):
    content = read_checkpoint(checkpoint)
    STRINGS[place](content)
    write_checkpoint(content, checkpoint)
    for command in COMMANDS:
        assert main(command) == 2
        message = capsys.readouterr().err
        assert message.count("scorelight: error:") == 1 and "evil.M" in message
    with pytest.raises(ConfigurationError, match=r"evil\.M"):
        ScoreModule.load_from_checkpoint(checkpoint)
    assert not (evil / "ran").exists()


REFUSED = {
    "torch.os.system": "--trust torch",
    "scorelight.storage.trust.import_module": "a function, not a class",
    "scorelight.storage.specs.Path": "which is defined in pathlib",
    "scorelight.cli.os.system": "does not exist",
    "scorelight.VPSDE.__base__": "does not exist",
    "scorelight.MLP.forward": "a function, not a class",
    "scorelight.Nothing": "does not exist",
    "scorelight": "no import path",
    "scorelight..VPSDE": "no import path",
    "no_such_package.Class": "--trust no_such_package",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_is_refused_with_the_reason(name):
    with pytest.raises(ConfigurationError, match=rf"a\.ckpt names '{re.escape(name)}'.*{REFUSED[name]}"):
        locate(name, "a.ckpt")


def test_a_trusted_package_does_not_lend_its_trust(evil):
    scorelight.trust("torch", "evil")
    for name in ("torch.os.system", "torch.nn.Linear.os", "evil.Path", "torch.hub.load"):
        with pytest.raises(ConfigurationError):
            locate(name, "a.ckpt")
    assert locate("torch.nn.Linear", "a.ckpt") is torch.nn.Linear
    assert locate("evil.M", "a.ckpt") is scorelight.MLP


def test_a_package_within_a_package_is_trusted_alone():
    scorelight.trust("json.decoder")
    assert locate("json.decoder.JSONDecoder", "a.ckpt").__name__ == "JSONDecoder"
    with pytest.raises(ConfigurationError, match="--trust json"):
        locate("json.encoder.JSONEncoder", "a.ckpt")


def test_packages_are_those_of_classes_alone():
    """A file ``photos.zip`` beside a folder ``photos`` is no package; neither is any other word."""
    own = {"class_path": "scorelight.ImageDataModule", "init_args": {"path": "photos.zip"}}
    theirs = {"class_path": "mine.processes.P", "init_args": {"inner": {"class_path": "other.Q"}}}
    assert packages_named(own, {"optimizer": {"class_path": "torch.optim.Adam"}}) == set()
    assert packages_named(own, [{"a": theirs}], {"class_path": "DDIM"}) == {"mine", "other"}


def test_trust_needs_a_package(capsys):
    assert main(["sample", "--trust"]) == 2
    assert "--trust PACKAGE" in capsys.readouterr().err


def test_a_zip_beside_a_folder_of_its_name_is_data(checkpoint, evil):
    """The folder ``photos`` can be imported, as a namespace package, but nothing asks for it."""
    (evil / "photos").mkdir()
    content = read_checkpoint(checkpoint)
    content["data"] = {"class_path": "scorelight.ImageDataModule", "init_args": {"path": "photos.zip"}}
    write_checkpoint(content, checkpoint)
    assert read_config(checkpoint)[1] == content["data"]
