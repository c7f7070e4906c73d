"""`sample` and `evaluate` on several machines: here two sets of processes that meet by their variables."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow
RUN = "runs/digits/vp_epsilon"
SCORELIGHT = [sys.executable, "-m", "scorelight"]
SAMPLE = ["sample", RUN, "--num_samples", "30", "--batch_size", "4"]
METRICS = ["--metrics", "FrechetDistance", "PrecisionRecall", "NegativeLogLikelihood", "--num_images", "7"]
EVALUATE = ["evaluate", RUN, "--num_samples", "30", "--batch_size", "4", *METRICS]
NODES = ["--accelerator", "cpu", "--devices", "1", "--num_nodes", "2"]


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    return tmp_path


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def by_lightning(node, port):
    """The user starts the command on each node, and says where they meet."""
    return SCORELIGHT, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(node)}


def by_torchrun(node, port):
    meet = ["--master-addr=127.0.0.1", f"--master-port={port}", "--nnodes=2", f"--node-rank={node}"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *meet,
        "--nproc-per-node=1",
        "-m",
        "scorelight",
    ]
    return torchrun, {}


def by_srun(node, port):
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "sample", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"}
    job |= {"SLURM_NODELIST": "localhost", "SLURM_NODEID": str(node), "SLURM_PROCID": str(node)}
    return SCORELIGHT, job | {"SLURM_LOCALID": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def together(launch, command, folders, cache):
    """Exit codes and outputs of the command on both nodes, each in its working folder."""
    port, running = free_port(), []
    for node, folder in enumerate(folders):
        launcher, variables = launch(node, port)
        env = {k: v for k, v in os.environ.items() if k != "PL_GLOBAL_SEED"}
        env |= variables | {"SCORELIGHT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running.append(subprocess.Popen([*launcher, *command, *NODES], cwd=folder, env=env, **pipes))
    outputs = [process.communicate(timeout=400)[0] for process in running]
    return [process.returncode for process in running], outputs


def alone(command, folder):
    env = os.environ | {"SCORELIGHT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*SCORELIGHT, *command, "--accelerator", "cpu"], cwd=folder, env=env, check=True)


@pytest.mark.parametrize("launch", [by_lightning, by_torchrun, by_srun])
def test_samples_are_those_of_one_process(folder, launch):
    codes, outputs = together(launch, [*SAMPLE, "--out", "two"], [folder, folder], folder / "cache")
    assert codes == [0, 0], outputs
    alone([*SAMPLE, "--out", "one"], folder)
    one, two = (np.load(folder / name / "samples.npz")["images"].astype(int) for name in ("one", "two"))
    assert abs(one - two).max() <= 1 and one.shape == two.shape
    assert not (folder / "two/parts").exists()


def test_numbers_are_those_of_one_process(folder):
    codes, outputs = together(by_lightning, [*EVALUATE, "--out", "two"], [folder, folder], folder / "cache")
    assert codes == [0, 0], outputs
    alone([*EVALUATE, "--out", "one"], folder)
    one, two = (json.loads(next((folder / n).glob("results-*.json")).read_text()) for n in ("one", "two"))
    assert one["protocol"] == two["protocol"]
    for name, result in one["results"].items():
        assert two["results"][name]["value"] == pytest.approx(result["value"], rel=1e-4), name


@pytest.mark.parametrize("command", [SAMPLE, EVALUATE], ids=["sample", "evaluate"])
def test_nodes_that_do_not_share_the_folder_are_told_at_the_start(folder, command, tmp_path_factory):
    """Each has its own working folder, as on machines with disks of their own."""
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(folder / "runs", other / "runs")
    codes, outputs = together(by_lightning, [*command, "--out", "mine"], [folder, other], folder / "cache")
    assert codes == [2, 2], outputs
    for output in outputs:
        assert "does not see what the first process writes there" in output and "Traceback" not in output
        assert "process 1 on" in output and "--out must be on a file system that they share" in output
    assert not [*folder.glob("mine/**/*.npz"), *other.glob("mine/**/*.npz")]


BROKEN = '''
import os
import torch
from scorelight import PixelFeatures
from scorelight.metrics import Features

class Broken(PixelFeatures):
    """Not finite for samples on the second node."""

    def extract(self, x):
        values, _ = super().extract(x)
        return Features(values / (0 if os.environ["NODE_RANK"] == "1" and len(x) == 4 else 1))
'''


def test_an_error_on_one_node_is_reported_by_both_and_the_samples_of_the_other_are_kept(folder):
    (folder / "broken.py").write_text(BROKEN)
    command = [*EVALUATE[:6], "--metrics", "FrechetDistance", "--features", "broken.Broken", "--out", "two"]
    codes, outputs = together(by_lightning, command, [folder, folder], folder / "cache")
    assert codes == [2, 2], outputs
    assert all("4 of 4 rows of the Broken of samples are NaN" in output for output in outputs)
    assert not any("Traceback" in output for output in outputs)
    stored = [np.load(path)["index"] for path in folder.glob("two/samples-*/*.npz")]
    assert set(range(0, 30, 2)) <= set(np.concatenate(stored).tolist())
