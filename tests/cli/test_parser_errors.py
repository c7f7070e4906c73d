"""The parser's own messages, provoked: a pattern that no longer matches its prose fails here."""

from abc import ABC, abstractmethod
from argparse import ArgumentError
from collections.abc import Callable
from typing import Literal

import pytest
from jsonargparse import ArgumentParser

from scorelight.cli.parser_errors import PATTERNS, explain, unknown_flag


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def __init__(self, side: float, unit: Literal["m", "cm"] = "m", parts: int | None = None) -> None: ...

    def area(self) -> float: ...


class Frame(Shape):
    def __init__(
        self,
        inside: Shape | None = None,
        make: Callable[[int], Square] | None = None,
        outer: Callable[[Shape], Shape] | None = None,
        width: float | Shape = 1.0,
    ) -> None: ...

    def area(self) -> float: ...


class Tile(Shape):
    def __init__(self, inside: Shape, colour: str) -> None: ...

    def area(self) -> float: ...


def roots(shape: Shape, count: int = 1) -> None: ...


ROOTS = {"shape": roots, "count": roots}
FRAME, SQUARE = (f"{__name__}.{cls.__name__}" for cls in (Frame, Square))
"""Every message names the key; each case says which patterns must match, and what becomes of the message."""
CASES = {
    "--shape=Squar": (["key", "expected"], "shape: unknown class 'Squar'; did you mean 'Square'? allowed: "),
    "--shape=Frame --shape.inside=Foo": (
        ["key", "class", "expected"],
        "shape.inside: unknown class 'Foo'; allowed: Frame, Square, Tile, or the import path of a class",
    ),
    "--shape=Square": (["key", "class", "required"], "shape: Square needs 'side': --shape.side VALUE"),
    "--shape=Square --shape.sied=3": (
        ["key", "class", "option of a class"],
        "shape: Square has no option 'sied'; did you mean 'side'? allowed: parts, side, unit",
    ),
    "--shape=Frame --shape.make=Square --shape.make.unti=m": (
        ["key", "class", "option of a class"],
        "shape.make: Square has no option 'unti'; did you mean 'unit'? allowed: parts, side, unit",
    ),
    "--shape=Square --shape.side=long": (["key", "expected"], "shape.side: expected float, got 'long'"),
    "--shape=Square --shape.side=1 --shape.unit=mm": (
        ["key", "class", "expected"],
        "shape.unit: 'mm'; did you mean 'm'? allowed: cm, m",
    ),
    "--shape=Square --shape.side=1 --shape.parts=few": (
        ["key", "class", "expected"],
        "shape.parts: expected int, got 'few'",
    ),
    "--shape=Frame --shape.make=Square --shape.make.parts=few": (
        ["key", "class", "object around the value", "expected"],
        "shape.make.parts: expected int, got 'few'",
    ),
    "--shape=Frame --shape.inside.side=1": (
        ["key", "class", "expected"],
        "shape.inside: which Shape? Its options come after its class: --shape.inside CLASS; allowed: ",
    ),
    "--shape=Frame --shape.outer.colour=red": (
        ["key", "class", "no class"],
        "shape.outer: which Shape? Its options come after its class: --shape.outer CLASS; allowed: ",
    ),
    "--shape=Frame --shape.outer=Tile": (
        ["key", "class", "class of a factory", "required"],
        "shape.outer: Tile needs 'colour': --shape.outer.colour VALUE",
    ),
    "--shape=Frame --shape.width=wide": (["key", "expected"], "shape.width: expected float, got 'wide'"),
    "--count=many": (["key", "expected"], "count: expected int, got 'many'"),
    "--coumt=3": (["option"], "unknown option '--coumt'; did you mean 'count'?"),
}


def refused(args):
    """The parser's message, and all options."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(roots)
    with pytest.raises(ArgumentError) as error:
        parser.parse_args(args.split())
    return str(error.value), ["--shape", "--count", "--shape.help"]


@pytest.mark.parametrize("args", CASES)
def test_a_message_is_understood(args):
    patterns, rewritten = CASES[args]
    message, options = refused(args)
    assert [name for name in patterns if not PATTERNS[name].search(message)] == [], message
    assert explain(message, ROOTS, options).startswith(rewritten), message


def test_every_pattern_has_a_case():
    assert {name for patterns, _ in CASES.values() for name in patterns} == PATTERNS.keys()


def test_what_is_not_understood_is_shown_as_it_is():
    for message in ("Something\nelse", 'Parser key "shape":\n  In words of next year'):
        assert explain(message, ROOTS, ["--shape"]) == message


def test_keys_of_files_are_options(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    commands = parser.add_subcommands()
    commands.add_subcommand("draw", sub := ArgumentParser(exit_on_error=False))
    sub.add_function_arguments(roots)
    sub.add_argument("--config", action="config")
    (tmp_path / "a.yaml").write_text("coumt: 3\n")
    with pytest.raises(ArgumentError) as error:
        parser.parse_args(["draw", f"--config={tmp_path / 'a.yaml'}"])
    assert explain(str(error.value), ROOTS, ["--count"]) == "unknown option 'coumt'; did you mean 'count'?"


def test_the_first_flag_that_does_not_exist_is_named():
    options = ["--shape", "--shape.side", "--count"]
    assert unknown_flag(["--shape.sied", "3", "--count=2"], options) == ""
    assert (
        unknown_flag(["--coumt=2", "--other"], options) == "unknown option '--coumt'; did you mean 'count'?"
    )
    assert unknown_flag(["--zzz"], options) == "unknown option '--zzz'; see --help for all options"
