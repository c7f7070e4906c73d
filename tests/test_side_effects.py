"""Importing the library changes nothing outside of it."""

import subprocess
import sys

STATE = """
import os, sys, threading, warnings

def state():
    hooks = sys.excepthook, threading.excepthook, sys.displayhook
    return dict(os.environ), list(warnings.filters), list(sys.path), hooks
"""

PACKAGE = """
before = state()
import scorelight
assert state() == before
assert "torch" not in sys.modules and "lightning" not in sys.modules
"""

CORE = """
import torch, torchvision, numpy, torchmetrics  # which may have effects of their own
from importlib import import_module

before = state()
for part in (
    "storage numerics processes times networks denoisers samplers likelihood objectives metrics certification"
).split():
    import_module(f"scorelight.{part}")
    assert state() == before, part
    assert "lightning" not in sys.modules, part

import scorelight
for process in (scorelight.VPSDE(), scorelight.LearnedVPSDE(4)):
    process.at(torch.tensor(0.5))
    assert state() == before, "the level of a process"
"""


def run(code):
    result = subprocess.run([sys.executable, "-c", STATE + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_changes_no_setting_and_loads_no_torch():
    run(PACKAGE)


def test_importing_the_core_and_asking_for_a_level_changes_no_setting_and_loads_no_lightning():
    run(CORE)
