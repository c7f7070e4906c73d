"""The process of the command line: its idle threads sleep soon, and it keeps the memory that a step frees."""

import os
import platform
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

SPINS = """
import os, sys
{first}
from scorelight.__main__ import main
sys.argv[1:] = ["--version"]
main()
print(os.environ.get("GOMP_SPINCOUNT", ""))
"""


def spins(first="", **environment):
    """GOMP_SPINCOUNT after the command line has started."""
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", SPINS.format(first=first)]
    done = subprocess.run(command, env=clean | environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_idle_threads_sleep_soon_unless_the_user_sets_how_they_wait():
    assert spins() == "10000"
    assert spins(GOMP_SPINCOUNT="7") == "7"
    assert spins(OMP_WAIT_POLICY="active") == ""
    assert spins(first="sys.modules['torch'] = None") == "", "OpenMP has read it already"


def test_the_command_starts_where_the_tuning_is():
    """Lightning starts its processes with the same command, or with ``python -m scorelight``."""
    (script,) = entry_points(group="console_scripts", name="scorelight")
    assert script.value == "scorelight.__main__:main"


FAULTS = """
import ctypes, resource, sys
import torch
from scorelight.cli.tuning import keep_freed_memory

def step():
    return [torch.ones(2**20) for _ in range(8)]  # 4 MiB each, 8,192 pages of 4 KiB together

ctypes.CDLL(None).mallopt(-3, 2**16)  # nothing large is kept; by default that depends on what else is in use
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(do, **environment):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | environment
    done = subprocess.run([sys.executable, "-c", FAULTS, do], env=env, stdout=subprocess.PIPE, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_pages_are_mapped_in_once_and_not_at_every_step_unless_the_user_says_otherwise():
    kept = faults("keep")
    assert kept < 100  # of 81,920 pages of 4 KiB; larger pages are fewer
    assert faults("leave") > 10 * (kept + 1)
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072") > 10 * (kept + 1)
