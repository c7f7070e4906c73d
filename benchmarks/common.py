"""What the benchmarks share. Importing it makes `support`, the modules in tests/support, importable too.

With BENCHMARK_RESULTS=FOLDER in the environment the results are written to that folder instead of this one.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", HERE)).resolve()
CONFIG = "digits/vp_epsilon"

sys.path.append(str(HERE.parent / "tests"))


def commit():
    """The commit that is measured."""
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE).stdout.strip()


def digits_denoiser():
    """Averaged weights of the model in the folder or checkpoint of --run, or of one that is trained first."""
    from scorelight.cli import main
    from scorelight.storage.runs import find_checkpoint
    from scorelight.training.loading import load_module

    parser = argparse.ArgumentParser()
    parser.add_argument("--run", help=f"run folder or checkpoint (default: train {CONFIG} first)")
    run = parser.parse_args().run
    if run is None:
        run = f"runs/{CONFIG}"
        assert main(["fit", "--config", CONFIG]) == 0
    return load_module(find_checkpoint(run)).denoiser_for("ema")
