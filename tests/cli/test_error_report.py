"""What the user reads of an error: one message for a mistake, a traceback for a bug, both if asked for."""

import subprocess
import sys

import pytest
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

from scorelight import (
    VPSDE,
    ConfigurationError,
    DDPMProcess,
    ForwardProcess,
    SolverError,
    TrainingDivergedError,
)
from scorelight.cli import main
from scorelight.cli.construction import ComponentParser, construct
from scorelight.cli.error_report import user_message

COMMAND = """
import sys, types
import scorelight.cli
from scorelight.__main__ import main
from scorelight.errors import ConfigurationError

def run_sample(args):
    try:
        raise ConfigurationError("a mistake")
    except ConfigurationError as error:
        error.no_such_attribute

sys.modules["scorelight.cli.main"]._prepare = lambda *_: None
sys.modules["scorelight.cli.sample"] = types.ModuleType("sample")
sys.modules["scorelight.cli.sample"].run_sample = run_sample
sys.argv[1:] = ["sample"]
sys.exit(main())
"""


def test_a_bug_met_while_a_mistake_is_handled_has_a_traceback_and_exit_code_1():
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "no_such_attribute" in done.stderr
    assert "scorelight: error:" not in done.stderr


def raised(function):
    """The error of a function, with its traceback."""
    with pytest.raises(Exception) as error:
        function()
    return error.value


class Failing(VPSDE):
    """A process whose constructor raises what it is given."""

    error: Exception = ConfigurationError("a mistake")

    def __init__(self, beta_min: float = 0.1) -> None:
        raise self.error


def built(error, monkeypatch, annotation=ForwardProcess | None, parser_class=ArgumentParser):
    """The error of a parser that builds a component which raises one."""
    monkeypatch.setattr(Failing, "error", error)
    parser = parser_class(exit_on_error=False)
    parser.add_argument("--process", type=annotation)
    namespace = parser.parse_args([f"--process={__name__}.Failing"])
    return raised(lambda: parser.instantiate_classes(namespace))


@pytest.mark.parametrize("annotation", [ForwardProcess | None, ForwardProcess])
def test_a_mistake_that_the_parser_has_wrapped_is_found(annotation, monkeypatch):
    error = built(ConfigurationError("a mistake"), monkeypatch, annotation)
    assert isinstance(error, ConfigurationError) == (annotation is ForwardProcess), "only a union is wrapped"
    assert user_message(error) == ("a mistake", 2)
    assert user_message(built(SolverError("stopped"), monkeypatch, annotation)) == ("stopped", 1)


@pytest.mark.parametrize("annotation", [ForwardProcess | None, ForwardProcess])
@pytest.mark.parametrize("bug", [AttributeError, TypeError, ValueError, RuntimeError, NameError])
def test_a_bug_that_the_parser_has_wrapped_is_not_reported(annotation, bug, monkeypatch):
    error = built(bug("a bug"), monkeypatch, annotation)
    assert user_message(error) is None
    wrapped = error
    while wrapped.__cause__:
        wrapped = wrapped.__cause__
    assert type(wrapped) is bug


def test_an_error_counts_for_what_it_was_raised_as():
    def chained(error, cause):
        raise error from cause

    def while_handling(error, handled):
        try:
            raise handled
        except Exception:
            raise error  # noqa: B904

    mistake, bug = ConfigurationError("a mistake"), AttributeError("a bug")
    assert user_message(mistake) == ("a mistake", 2)
    assert user_message(raised(lambda: chained(mistake, bug))) == ("a mistake", 2)
    assert user_message(raised(lambda: while_handling(mistake, bug))) == ("a mistake", 2)
    for error in (ValueError("a bug"), TypeError("a bug"), AttributeError("a bug")):
        assert user_message(raised(lambda error=error: chained(error, mistake))) is None
        assert user_message(raised(lambda error=error: while_handling(error, mistake))) is None
    assert user_message(MisconfigurationException("No supported gpu")) == ("No supported gpu", 2)
    assert user_message(TrainingDivergedError("nan")) == ("nan", 1)


@pytest.mark.parametrize(
    "args", [["smaple", "--traceback"], ["--traceback", "smaple"], ["smaple", "--a=1", "--traceback", "--b"]]
)
def test_traceback_shows_both_and_the_exit_code_stays(args, capsys):
    assert main(args) == 2
    stderr = capsys.readouterr().err
    assert "Traceback" in stderr and "ConfigurationError" in stderr
    assert stderr.splitlines()[-1].startswith("scorelight: error: unknown command 'smaple'")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_traceback_can_be_set_in_the_environment(value, shown, capsys, monkeypatch):
    monkeypatch.setenv("SCORELIGHT_TRACEBACK", value)
    assert main(["smaple"]) == 2
    stderr = capsys.readouterr().err
    assert ("Traceback" in stderr) is shown and stderr.count("scorelight: error:") == 1


def test_help_explains_how_to_see_a_traceback(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--traceback" in text and "SCORELIGHT_TRACEBACK=1" in text


def test_a_value_that_torch_refuses_in_a_constructor_is_a_mistake(monkeypatch):
    with pytest.raises(ConfigurationError, match=rf"^DDPMProcess\(num_timesteps={2**70}\): ") as refused:
        construct(DDPMProcess, num_timesteps=2**70)
    assert refused.value.__cause__ is not None
    monkeypatch.setattr(Failing, "__module__", "scorelight.processes.sde")
    for error in (ValueError("too large"), OverflowError("too large"), RuntimeError("too large")):
        found = built(error, monkeypatch, parser_class=ComponentParser)
        assert user_message(found) == ("Failing(beta_min=0.1): too large", 2)


@pytest.mark.parametrize("bug", [AttributeError, TypeError, KeyError, NotImplementedError, AssertionError])
def test_a_bug_in_a_constructor_is_none(bug, monkeypatch):
    monkeypatch.setattr(Failing, "__module__", "scorelight.processes.sde")
    assert user_message(built(bug("a bug"), monkeypatch, parser_class=ComponentParser)) is None


def test_a_component_from_elsewhere_keeps_its_traceback(monkeypatch):
    """Its author wants to see it."""
    assert user_message(built(ValueError("too large"), monkeypatch, parser_class=ComponentParser)) is None


def test_no_memory_in_a_constructor_is_no_mistake(monkeypatch):
    monkeypatch.setattr(Failing, "__module__", "scorelight.processes.sde")
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    message, code = user_message(built(error, monkeypatch, parser_class=ComponentParser))
    assert message.startswith("out of memory") and code == 1


@pytest.mark.parametrize("make", ["a file", "a name that is too long"])
def test_a_path_that_cannot_be_a_folder_is_a_mistake(make, tmp_path):
    path = tmp_path / ("x" * 1000 if "long" in make else "file")
    if make == "a file":
        path.touch()
    with pytest.raises(OSError) as caught:
        path.mkdir(parents=True)
    message, code = user_message(caught.value)
    assert code == 2 and path.name in message and "another path" in message
