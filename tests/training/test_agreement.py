"""When each of two processes learns that one of them wants to stop, and the time."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from scorelight.training.agreement import StepAgreement

SCRIPT = """
import json, sys
from types import SimpleNamespace
import torch.distributed as dist
import torch.multiprocessing as mp
from scorelight.training import agreement

def run(rank, folder, few):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    agreement._FEW = few
    trainer, stop = SimpleNamespace(world_size=2), agreement.StepAgreement()
    stop.start(trainer)
    learned = [stop.exchange(trainer, rank == 1 and step == 3, step + rank) for step in range(6)]
    last = stop.finish()
    json.dump([learned, last], open(f"{folder}/{rank}.json", "w"))
    dist.barrier()

if __name__ == "__main__":
    mp.spawn(run, (sys.argv[1], int(sys.argv[2])), nprocs=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("few", "step"), [(64, 3), (1, 4)])
def test_all_learn_it_at_the_same_step_and_many_one_step_later(tmp_path, few, step):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", tmp_path, str(few)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        learned, last = json.loads((tmp_path / f"{rank}.json").read_text())
        assert [stop for stop, _ in learned] == [n == step for n in range(6)] and not last[0]
        times = [1, 2, 3, 4, 5, 6] if step == 3 else [0, 1, 2, 3, 4, 5]  # of rank 1, which is ahead
        assert [seconds for _, seconds in learned] == times


def test_a_process_alone_learns_it_at_once():
    strategy = SimpleNamespace(reduce_boolean_decision=lambda wanted, all: wanted)
    trainer, stop = SimpleNamespace(world_size=1, strategy=strategy), StepAgreement()
    stop.start(trainer)
    assert [stop.exchange(trainer, wanted, 7.0) for wanted in (False, True)] == [(False, 7), (True, 7)]
    assert not stop.finish().stop
