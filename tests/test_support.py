"""Tests and benchmarks share the modules of tests/support, and import nothing else of each other."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"


def imported(path):
    """Names of the top-level modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def names(paths):
    return {path.stem for path in paths}


def test_no_test_imports_a_benchmark():
    benchmarks = names(BENCHMARKS.glob("*.py")) | {"benchmarks"}
    assert "certify" in benchmarks
    for path in TESTS.rglob("*.py"):
        assert not benchmarks & set(imported(path)), path


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_imports_nothing_of_the_tests_but_support(path):
    tests = names(p for p in TESTS.rglob("*.py") if "support" not in p.parts) | {"tests"}
    support = names(TESTS.glob("support/*.py"))  # only as support.name
    assert not tests & set(imported(path))
    assert not (support - names(BENCHMARKS.glob("*.py"))) & set(imported(path))
    if "support" in set(imported(path)):
        assert "common" in set(imported(path)), "common makes support importable"
