"""Who may import whom, read off the code; and what is imported when."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import scorelight

ROOT = Path(scorelight.__file__).parent
ORDER = [
    "errors",
    "batch",
    "conditions",
    "philox",
    "rng",
    "storage",  # here, since Component is in it
    "images",
    "numerics",
    "processes",
    "parameterizations",
    "times",
    "networks",
    "denoisers",
    "classifiers",
    "image_text",
    "samplers",
    "likelihood",
    "posterior",
    "inverse",
    "objectives",
    "metrics",
    "certification",
    "data",  # from here on Lightning may be imported
    "training",
    "guidance",
    "evaluation",
    "interop",
    "tables",
    "cli",
    "__main__",
]
"""A file imports only modules of its own entry and of the entries before it."""

TO_COME = {"interop"}

CORE = ORDER[: ORDER.index("data")]
LIGHTNING = {"lightning", "jsonargparse", "torchmetrics"}
EXCEPTIONS = {
    "metrics/quality.py": {"torchmetrics"}
}  # a metric of torchmetrics around functions that need none


def entry(path: Path) -> str:
    """The entry that a file belongs to: a folder or a module at the top."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{path}: a relative import"
            yield node.module
            if node.module == "scorelight":
                yield from (f"scorelight.{alias.name}" for alias in node.names)


def files() -> Iterator[tuple[Path, str]]:
    """Every file but the root's own, with its entry."""
    for path in sorted(ROOT.rglob("*.py")):
        if path != ROOT / "__init__.py":
            yield path, entry(path)


def test_a_file_imports_only_what_stands_before_it():
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, own in files()
        for name in imported(path)
        if name.startswith("scorelight.") and (target := name.split(".")[1]) in ORDER
        if ORDER.index(target) > ORDER.index(own)
    ]
    assert upward == []


def test_nothing_before_data_imports_lightning():
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, own in files()
        for name in imported(path)
        if own in CORE
        and name.split(".")[0] in LIGHTNING - EXCEPTIONS.get(str(path.relative_to(ROOT)), set())
    ]
    assert found == []


def test_every_file_has_a_place_in_the_order():
    assert {own for _, own in files()} <= set(ORDER)


def test_names_of_the_root_are_imported_by_their_modules():
    """`from scorelight import VPSDE` inside the package would hide an arrow."""
    allowed = {"__version__", *ORDER}
    found = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path, _ in files()
        for name in imported(path)
        if name.startswith("scorelight.") and name.count(".") == 1 and name.split(".")[1] not in allowed
    ]
    assert found == []


def private_names(path: Path) -> Iterator[str]:
    """Attributes with a leading underscore of anything but `self` and `cls`."""
    for node in ast.walk(ast.parse(path.read_text())):
        private = isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr)
        if private and getattr(node.value, "id", "") not in ("self", "cls"):
            yield node.attr


def test_private_names_of_lightning_are_in_one_file():
    public = {"_replace", "_asdict", "_exit"}  # of named tuples and of os
    known = {
        "storage/identity.py": {"_init_args"},
        "storage/component.py": {"_init_args"},
        "training/ema.py": {"_foreach_lerp_"},
        "training/power_ema.py": {"_foreach_lerp_"},
    }
    found = {str(path.relative_to(ROOT)): {*private_names(path)} - public for path, _ in files()}
    del found["training/lightning_private.py"]
    assert {path: names for path, names in found.items() if names} == known


def python(script, **environment):
    """What a fresh process prints."""
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", script],
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


HEAVY = "{'torch', 'lightning', 'jsonargparse', 'numpy', 'sklearn', 'torchmetrics', 'torch_fidelity'}"


@pytest.mark.parametrize("args", [["--help"], ["configs"], ["--version"], ["smaple"], []])
def test_help_lists_and_mistakes_answer_without_torch(args):
    script = f"""
import sys
from scorelight.__main__ import main
sys.argv[1:] = {args}
code = main()
print(code, {HEAVY} & set(sys.modules))
"""
    assert python(script).splitlines()[-1] == f"{2 if args == ['smaple'] else 0} set()"


def test_importing_scorelight_and_using_its_names_has_no_side_effects():
    """Nor does the core load Lightning."""
    script = f"""
import os, sys, threading, warnings
from importlib import import_module
def state():
    hooks = sys.excepthook, threading.excepthook, sys.displayhook
    return dict(os.environ), [*warnings.filters], [*sys.path], hooks
before = state()
import scorelight, scorelight.cli, scorelight.__main__
assert state() == before
print({HEAVY} & set(sys.modules))
import torch, torchvision, torchmetrics, sklearn.datasets  # which may have effects of their own
before = state()
for part in {[part for part in CORE if part not in TO_COME]}:
    import_module(f"scorelight.{{part}}")
    assert state() == before, part
    assert "lightning" not in sys.modules, part
for process in (scorelight.VPSDE(), scorelight.LearnedVPSDE(4)):
    process.at(torch.tensor(0.5))
    assert state() == before, process
import lightning.pytorch.cli
before = state()
for name in scorelight.__all__:
    getattr(scorelight, name)
    assert state() == before, name
"""
    assert python(script).strip() == "set()"


def test_every_public_name_exists_and_is_its_classes_shortest_path():
    from scorelight.storage.component import class_path

    for name in scorelight.__all__:
        assert class_path(getattr(scorelight, name)) == f"scorelight.{name}"
