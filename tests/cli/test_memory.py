"""The process of the command line keeps the memory that a step frees."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
import torch
from scorelight.__main__ import keep_freed_memory

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
