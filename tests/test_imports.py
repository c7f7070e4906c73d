"""Who may import whom, read off the code; and what is imported when."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import scorelight

ROOT = Path(scorelight.__file__).parent
BASICS = {"component", "errors", "seeding", "batch"}
CORE = {"processes.base"}
ALLOWED = {
    "_threads": set(),
    "component": {"errors"},
    "errors": set(),
    "advice": {"errors"},
    "seeding": {"errors"},
    "batch": {"errors"},
    "processes": BASICS,
    "autodiff": set(),
    "networks": BASICS | {"autodiff"},
    "parameterizations": BASICS | CORE,
    "times": BASICS | CORE,
    "denoiser": BASICS | CORE | {"parameterizations"},
    "analytic": BASICS | CORE | {"parameterizations", "denoiser"},
    "bounds": BASICS | CORE | {"parameterizations", "denoiser", "times"},
    "dequantization": BASICS,
    "quadrature": set(),
    "integrate": {"errors", "quadrature"},
    "probability_flow": BASICS | CORE | {"denoiser", "integrate"},
    "objectives": BASICS
    | CORE
    | {"parameterizations", "denoiser", "times", "analytic", "autodiff", "bounds"},
    "samplers": BASICS | CORE | {"parameterizations", "denoiser", "times", "probability_flow", "quadrature"},
    "likelihood": BASICS
    | CORE
    | {"parameterizations", "denoiser", "times", "autodiff", "bounds", "probability_flow", "integrate"}
    | {"dequantization"},
    "certification": BASICS
    | CORE
    | {"parameterizations", "denoiser", "times", "analytic", "networks", "objectives.base"},
    "ema": BASICS | {"denoiser"},
    "metrics": BASICS | CORE | {"atomic", "denoiser", "times"},
    "atomic": set(),
    "checkpoint_io": {"atomic", "errors"},
    "trusted": {"errors"},
    "parts": {"atomic"},
    "pictures": set(),
    "data": BASICS | {"analytic"},
    "module": BASICS
    | CORE
    | {
        "denoiser",
        "dequantization",
        "ema",
        "parameterizations",
        "objectives.base",
        "samplers.base",
        "networks.base",
        "checkpoint_io",
        "trusted",
    },
    "dequantizer_module": BASICS
    | CORE
    | {"checkpoint_io", "trusted", "denoiser", "dequantization", "likelihood", "objectives", "times"},
    "example_metrics": BASICS | {"bounds", "denoiser", "dequantization", "likelihood", "metrics.base"},
    "judging": BASICS
    | {"data.loaders", "denoiser", "dequantization", "example_metrics", "metrics", "module", "parts"}
    | {"pictures", "samplers.base"},
    "evaluation": BASICS
    | {"denoiser", "dequantization", "example_metrics", "judging", "metrics", "module", "parts"}
    | {"pictures", "samplers.base"},
    "callbacks": BASICS
    | {
        "advice",
        "atomic",
        "example_metrics",
        "judging",
        "metrics",
        "module",
        "parts",
        "pictures",
        "samplers.base",
    },
    "cli": BASICS
    | {
        "advice",
        "atomic",
        "callbacks",
        "checkpoint_io",
        "trusted",
        "data",
        "denoiser",
        "module",
        "pictures",
        "probability_flow",
    }
    | {"samplers.base", "samplers.adaptive"}
    | {
        "dequantization",
        "dequantizer_module",
        "likelihood",
        "metrics",
        "example_metrics",
        "judging",
        "evaluation",
    },
}
EDGE = {"checkpoint_io", "judging", "evaluation", "data", "module", "dequantizer_module", "callbacks", "cli"}
FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem not in ("__init__", "__main__"))


def part(path):
    relative = path.relative_to(ROOT).with_suffix("")
    return relative.parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_imports_only_what_stands_to_its_right(path):
    mine = part(path)
    for name in imports(path):
        if name == "scorelight" or not name.startswith("scorelight."):
            continue
        target = name.removeprefix("scorelight.")
        allowed = any(target == a or target.startswith(f"{a}.") for a in ALLOWED[mine])
        assert allowed or target.split(".")[0] == mine, f"{mine} must not import {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_edge_knows_lightning(path):
    if part(path) not in EDGE:
        theirs = {"lightning", "jsonargparse"} | ({"torchmetrics"} if part(path) != "metrics" else set())
        assert not [n for n in imports(path) if n.split(".")[0] in theirs]


def test_every_part_has_a_rule():
    assert {part(p) for p in FILES} == set(ALLOWED)


def test_the_core_and_the_list_of_configurations_do_not_load_lightning():
    script = """
import sys, scorelight
from scorelight.cli import main
main(["configs"])
assert not {"lightning", "jsonargparse", "sklearn", "torchmetrics", "torch_fidelity"} & set(sys.modules)
assert scorelight.ScoreModule.__name__ == "ScoreModule" and "lightning" in sys.modules
"""
    subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", script], check=True, capture_output=True
    )


def test_every_public_name_exists_and_is_its_classes_shortest_path():
    from scorelight.storage.component import class_path

    for name in scorelight.__all__:
        assert class_path(getattr(scorelight, name)) == f"scorelight.{name}"


@pytest.mark.parametrize(
    ("given", "found"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "")]
)
def test_idle_threads_sleep_soon_unless_the_user_says_otherwise(given, found):
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    script = "import os, scorelight; print(os.environ.get('GOMP_SPINCOUNT', ''))"
    done = subprocess.run([sys.executable, "-c", script], env=clean | given, capture_output=True, text=True)
    assert done.stdout.strip() == found
