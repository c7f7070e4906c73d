"""Between the steps that are logged, a training step waits for nothing, and exchanges one number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.waits import Waits

ON_HOST = {
    # numbers that never were on a device
    "lightning/pytorch/trainer/connectors/logger_connector/result.py:metrics",
    "lightning/fabric/utilities/apply_func.py:to_item",
    "scorelight/training/agreement.py:exchange",
    "scorelight/training/agreement.py:finish",
    "scorelight/times/discrete.py:_maximum",
    # labels are checked here on the CPU only; on a GPU it is an assertion of the device
    "scorelight/conditions.py:class_rows",
}

SCRIPT = """
import json, sys, warnings
import torch
torch.set_num_threads(1)
warnings.simplefilter("ignore")
from support.waits import Waits
from scorelight.cli import main

class Report(Waits):
    def on_train_batch_end(self, trainer, *args):
        was_on = self.on
        super().on_train_batch_end(trainer, *args)
        if was_on and not self.on and trainer.is_global_zero:
            counts = [[*key, value] for key, value in self.counts.items()]
            with open("waits.json", "w") as file:
                json.dump({"counts": counts, "collectives": self.collectives}, file)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""
STEPS = 5


def waits(folder, devices, config, *flags):
    """Counts of five steps of a configuration, none of which is logged."""
    (folder / "counting.py").write_text(SCRIPT)
    command = [sys.executable, "counting.py", "fit", "--config", config, "--trainer.max_steps", "20"]
    command += [
        "--trainer.val_check_interval",
        "20",
        "--trainer.devices",
        str(devices),
        "--trust",
        "counting",
    ]
    command += ["--trainer.callbacks+=counting.Report", "--trainer.log_every_n_steps", "10", *flags]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path, "."])}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "waits.json").read_text())
    reads = {(kind, *rest): n for kind, *rest, n in found["counts"] if kind != "collective"}
    return {key: n for key, n in reads.items() if key[2] not in ON_HOST}, found["collectives"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "flags", "gathers"),
    [
        ("toy/vp_epsilon", [], 0),
        ("toy/edm", [], 0),
        ("toy/vdm", [], 0),
        ("toy/smld_levels", ["--trainer.accumulate_grad_batches=2"], 0),
        ("digits/vp_epsilon_conditional", [], 0),
        ("digits/ddpm_hybrid", [], 0),
        ("toy/ddpm_bound", [], 1),
        (
            "toy/vp_epsilon",
            [
                "--trainer.max_time=00:01:00:00",
                "--trainer.callbacks+=LearningRateSchedule",
                "--model.lr_scheduler=null",
            ],
            0,
        ),
    ],
)
def test_two_processes_exchange_gradients_and_one_number(tmp_path, config, flags, gathers):
    reads, collectives = waits(tmp_path, 2, config, *flags)
    assert not reads
    buckets = collectives.pop("all_reduce") - STEPS + 1  # the number of the last step is sent after it
    gathered = sum(
        collectives.pop(name, 0) for name in ("all_gather", "all_gather_into_tensor", "allgather_base")
    )
    assert gathered == gathers * STEPS
    assert buckets % STEPS == 0 and 1 <= buckets // STEPS <= 2  # DDP puts 25 MB of gradients into one message
    assert not collectives


@pytest.mark.slow
def test_a_process_alone_reads_nothing_and_exchanges_nothing(tmp_path):
    reads, collectives = waits(tmp_path, 1, "toy/vp_epsilon")
    assert not reads and not collectives


def test_the_recorder_notices_what_it_is_there_for(make_module, make_trainer):
    class Reading(type(make_module())):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            float(loss.detach()), torch.tensor(1.0), (loss > 0).nonzero()
            return loss

    waits, module = Waits(1, 2), make_module()
    module.__class__ = Reading
    data = torch.utils.data.DataLoader(torch.randn(8, 2), 4)
    make_trainer(max_steps=4, log_every_n_steps=100, callbacks=[waits], limit_val_batches=0).fit(
        module, data, data
    )
    found = {name: n for (_, name, _), n in waits.counts.items() if n == 2}
    assert {"_local_scalar_dense", "lift_fresh", "nonzero"} <= found.keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("config", ["toy/vp_epsilon", "toy/edm", "digits/vp_epsilon_conditional"])
def test_a_gpu_is_not_waited_for(tmp_path, monkeypatch, config):
    from lightning.pytorch import Callback

    from scorelight.cli import main

    class Strict(Callback):
        def on_train_batch_start(self, trainer, *_):
            torch.cuda.set_sync_debug_mode("error" if 11 <= trainer.global_step <= 18 else "default")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "strict", type(sys)("strict"))
    sys.modules["strict"].Strict = Strict
    flags = ["--trainer.callbacks+=strict.Strict", "--trust", "strict", "--trainer.accelerator", "gpu"]
    flags += ["--trainer.max_steps", "30", "--trainer.log_every_n_steps", "10", "--trainer.devices", "1"]
    try:
        assert main(["fit", "--config", config, "--trainer.val_check_interval", "30", *flags]) == 0
    finally:
        torch.cuda.set_sync_debug_mode("default")
