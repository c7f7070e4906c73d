"""Flags with several values."""

import pytest

from scorelight.cli.evaluate import evaluate
from scorelight.cli.lists import as_lists, as_switches, join_words
from scorelight.errors import ConfigurationError


def command(run: str, labels: list[int] | None = None, num: int = 3, names: list[str] | None = None) -> None:
    """A command with two parameters that are lists."""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("RUN --labels 3 5 --num 4", "RUN --labels=[3,5] --num 4"),
        ("RUN --labels=3 5", "RUN --labels=[3,5]"),
        ("RUN --guidance.interval -1 2.5e-3", "RUN --guidance.interval=[-1,2.5e-3]"),
        ("RUN OTHER --num 4 --compile", "RUN OTHER --num 4 --compile"),
        ("--num=-4 -h", "--num=-4 -h"),
        ("--labels [3,5]", "--labels [3,5]"),
        ("--metrics FrechetDistance mine.Metric", "--metrics=[FrechetDistance,mine.Metric]"),
        ("", ""),
    ],
)
def test_two_or_more_words_after_a_flag_are_a_list(given, expected):
    assert join_words(given.split()) == expected.split()


def test_words_that_yaml_would_read_otherwise_are_quoted():
    assert join_words(["--names", "a: b", "T-shirt/top", "x,y"]) == ['--names=["a: b",T-shirt/top,x,y]']
    assert join_words(["--m", "A", '{"class_path": "B"}']) == ['--m=[A,{"class_path": "B"}]']


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("RUN --labels 3 --num 4", "RUN --labels=[3] --num 4"),
        ("RUN --labels=3", "RUN --labels=[3]"),
        ("RUN --labels [3,5] --names three", "RUN --labels [3,5] --names=[three]"),
        ("RUN --labels null", "RUN --labels null"),
        ("RUN --labels.help", "RUN --labels.help"),
    ],
)
def test_one_word_is_a_list_where_the_parameter_is_one(given, expected):
    assert as_lists(command, given.split()) == expected.split()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("RUN --compile", "RUN --compile=true"),
        ("RUN --compile --precision 32-true", "RUN --compile=true --precision 32-true"),
        ("RUN --compile false", "RUN --compile false"),
        ("RUN --compile=false --precision", "RUN --compile=false --precision"),
    ],
)
def test_a_switch_needs_no_word(given, expected):
    assert as_switches(evaluate, given.split()) == expected.split()


def test_a_list_without_a_word_is_refused():
    with pytest.raises(ConfigurationError, match="--labels: give at least one"):
        as_lists(command, ["RUN", "--labels", "--num", "3"])
