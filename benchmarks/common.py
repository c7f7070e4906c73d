"""What the benchmarks share. Importing it makes `support`, the modules in tests/support, importable too.

With BENCHMARK_RESULTS=FOLDER in the environment the results are written to that folder instead of this one.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", HERE)).resolve()
CONFIG = "digits/vp_epsilon"

sys.path.append(str(HERE.parent / "tests"))


class Pieces:
    """Pieces of long work in a .json, and arrays of them in an .npz; several processes may add to them.

    Args:
        file: The .json.
        **about: Entries beside the pieces.
    """

    def __init__(self, file, **about):
        self.file, self.about = file, about

    def read(self):
        """The rows of all pieces by their names."""
        return self._content()["pieces"]

    def add(self, key, row, array=None):
        """Write a piece beside what other processes wrote in the meantime."""
        with self.file.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = self._content() | self.about
            result["pieces"][key] = row
            self.file.write_text(json.dumps(result, indent=1) + "\n")
            if array is not None:
                np.savez_compressed(self.file.with_suffix(".npz"), **self.arrays() | {key: array})

    def arrays(self):
        """The arrays of pieces that have one."""
        path = self.file.with_suffix(".npz")
        return dict(np.load(path)) if path.exists() else {}

    def _content(self):
        text = self.file.read_text() if self.file.exists() else ""
        return json.loads(text or '{"pieces": {}}')


def commit():
    """The commit that is measured."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE).stdout.strip()


def digits_denoiser(run=None, config=CONFIG, flags=()):
    """Averaged weights of the model in a folder or checkpoint, or of one that is trained first."""
    from scorelight.cli import main
    from scorelight.storage.runs import find_checkpoint
    from scorelight.training.loading import load_module

    if run is None:
        run = f"runs/{config}"
        assert main(["fit", "--config", config, *flags]) == 0
    return load_module(find_checkpoint(run)).denoiser_for("ema")


def run_flag():
    """The argument of --run, which names a model of `digits_denoiser`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", help=f"run folder or checkpoint (default: train {CONFIG} first)")
    return parser.parse_args().run
