"""A module in the working folder is imported if the user has named it, and never by accident."""

import importlib
import sys

import pytest

from scorelight import MLP, VPSDE, Epsilon, NetworkDenoiser  # noqa: F401  they are loaded before the folder is set
from scorelight.cli import main
from scorelight.cli.working_folder import WorkingFolder, find_modules_in, has_checkpoints

MODULE = "from pathlib import Path; Path({trace!r}).touch()\nfrom scorelight import VPSDE as Mine\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with modules in it that leave a trace; what was found stays as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    monkeypatch.setattr("scorelight.storage.trust._trusted", set())
    for name in ("mine", "helper", "rich_optional"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(trace=str(tmp_path / f"{name}.ran")))
    yield tmp_path
    for name in ("mine", "helper", "rich_optional"):
        sys.modules.pop(name, None)


def ran(folder):
    return sorted(path.stem for path in folder.glob("*.ran"))


@pytest.mark.parametrize("name", ["mine", "rich_optional"])
def test_a_module_that_is_not_named_is_not_found(folder, name):
    find_modules_in(str(folder), ["sample", "RUN", "--out", f"{name}", f"--data.path=x/{name}.zip"])
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)
    assert ran(folder) == [] and str(folder) not in sys.path


@pytest.mark.parametrize(
    "args",
    [
        ["--model.process", "mine.Mine"],
        ["--model.process=mine.Mine"],
        ['--metrics=[{"class_path": "mine.Mine"}]'],
        ["--config=own.yaml"],
    ],
)
def test_a_named_module_is_found_and_what_it_imports_beside_it(folder, args):
    (folder / "own.yaml").write_text("model:\n  process: {class_path: mine.Mine}\n")
    find_modules_in(str(folder), args)
    importlib.import_module("mine")
    importlib.import_module("helper")
    assert ran(folder) == ["helper", "mine"]


def test_the_configuration_of_a_run_folder_names_nothing(folder):
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text("model: {process: {class_path: mine.Mine}}\n")
    assert has_checkpoints(folder / "run/config.yaml") and not has_checkpoints(folder / "own.yaml")
    find_modules_in(str(folder), ["--config=run/config.yaml"])
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mine")


def test_a_trusted_module_is_found(folder):
    assert WorkingFolder(str(folder), [], ["mine.inner"]).find_spec("mine") is not None


def test_a_command_imports_no_module_of_the_working_folder_on_its_own(folder, capsys):
    """Names of packages that libraries import if they find them, and of modules that commands import late."""
    names = ("rich", "wandb", "triton", "torch_xla", "numba", "psutil", "IPython", "my_plugin", "tensorflow")
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    for name in absent:
        (folder / f"{name}.py").write_text(MODULE.format(trace=str(folder / f"{name}.ran")))
    assert main(["fit", "--config=toy/vp_epsilon", "--trainer.fast_dev_run=1", "--data.num_train=60"]) == 0
    assert ran(folder) == [] and len(absent) > 3
