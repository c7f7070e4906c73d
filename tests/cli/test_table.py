"""`scorelight table`: real trainings and evaluations, resumed, extended, killed and repaired."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scorelight.cli import main

TABLE = {
    "title": "Steps of a sampler",
    "source": "nobody",
    "metric": "sliced_wasserstein",
    "rows": [
        {"name": "narrow", "fit": {"model.network.width": 16}},
        {"name": "wide", "fit": {"model.network.width": 24}},
    ],
    "columns": [{"name": f"{n} steps", "evaluate": {"sampler.num_steps": n}} for n in (3, 5)],
    "scales": {
        "mini": {
            "fit": {
                "config": "toy/vp_epsilon",
                "trainer.max_steps": 40,
                "trainer.val_check_interval": 20,
                "checkpoint.every_n_steps": 10,
            },
            "evaluate": {"metrics": ["SlicedWasserstein"], "sampler": "DDIM", "num_samples": 100},
        }
    },
    "published": {"wide": {"5 steps": 0.1}},
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(**changes):
    Path("steps.yaml").write_text(yaml.safe_dump(TABLE | changes))


def table(*flags):
    return main(["table", "steps.yaml", *flags])


def cells(folder="runs/tables/steps-mini"):
    found = json.loads(Path(folder, "table.json").read_text())["cells"]
    return {(cell["row"], cell["column"]): cell["values"] for cell in found}


def finished():
    """When each piece was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in Path("runs/tables").glob("*/result.json")}


def test_the_status_and_mistakes_of_a_table_need_no_work(capsys):
    write()
    assert table("--status") == 0
    assert capsys.readouterr().out == "fit        2 waiting\nevaluate   4 waiting\n"
    for flags, message in [
        (["--scale", "full"], "has no scale 'full'"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--fit", "trainer.devices"], "--fit trainer.devices: NAME=VALUE is expected"),
        (["--fit", "trainer.max_step=3"], "max_step"),
        (["--evaluate", "num_sample=3"], "num_sample"),
    ]:
        assert table(*flags) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert main(["table", "ddim1"]) == 2
    assert "did you mean 'ddim_1'" in capsys.readouterr().err
    assert not Path("runs").exists()


UNITS = {"FLOP": 1, "kFLOP": 1e3, "MFLOP": 1e6, "GFLOP": 1e9, "s": 1, "minutes": 60, "ms": 1e-3}


def quantity(text):
    number, unit = text.split()
    return float(number) * UNITS[unit]


def test_a_dry_run_lists_what_is_left_with_its_cost_and_writes_nothing(capsys, monkeypatch):
    monkeypatch.setattr("scorelight.cli.table_cost._start_seconds", lambda: 100.0)
    monkeypatch.setattr("scorelight.cli.table_cost._SECONDS", 0.1)
    write()
    narrow = "--config=toy/vp_epsilon --model.network.width=16 --trainer.max_steps=40"
    assert main(["fit", *narrow.split(), "--trainer.val_check_interval=20", "--dry_run"]) == 0
    one_run = dict(re.findall(r"^  (\S.*?)  +(\S.*)$", capsys.readouterr().out, flags=re.M))
    assert table("--dry_run", "--jobs", "2") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    pattern = r"(fit|evaluate) +(.*?)  +(\S+ \S+)  (\S+ \S+)"
    found = [re.fullmatch(pattern, line).groups() for line in lines]
    assert [kind for kind, *_ in found] == ["fit"] * 2 + ["evaluate"] * 4
    costs = {name: (quantity(flops), quantity(time)) for _, name, flops, time in found[2:]}
    network = quantity(one_run["network, one example"])
    for name, steps in (("narrow, 3 steps, seed 0", 3), ("narrow, 5 steps, seed 0", 5)):
        assert costs[name][0] == pytest.approx(100 * steps * network, rel=0.01)
    training = sum(quantity(value) for name, value in one_run.items() if name.startswith("computed in"))
    assert quantity(found[0][2]) == pytest.approx(training, rel=0.01)
    seconds = [quantity(time) for *_, time in found]
    assert sum(s >= 100 for s in seconds) == 4  # two trainings, and the first evaluation of each
    total = re.fullmatch(r"6 to do, 0 done; .*FLOP, (\S+) hours with --jobs 2", last)
    assert float(total[1]) == pytest.approx(sum(seconds) / 7200, rel=0.05)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_table_is_computed_once_whatever_changes_in_its_file(capsys):
    write()
    assert table() == 0
    assert "| wide |" in capsys.readouterr().out
    first, done = cells(), finished()
    assert len(done) == 6 and all(len(values) == 1 for values in first.values())
    for name in ("table.md", "table.tex", "table.html"):
        assert Path("runs/tables/steps-mini", name).stat().st_size > 100
    assert "0.1" in Path("runs/tables/steps-mini/table.md").read_text()

    write(title="Other", rows=[*reversed(TABLE["rows"])], columns=[*reversed(TABLE["columns"])])
    assert table() == 0
    assert finished() == done and cells() == first

    assert table("--seeds", "0", "1", "--jobs", "2") == 0
    after = finished()
    assert len(after) == 12 and done.items() <= after.items()
    assert all(values["0"] == first[place]["0"] != values["1"] for place, values in cells().items())

    assert table("--evaluate", "num_samples=50") == 0
    assert len(finished()) == 16  # the trainings are those of before


@pytest.mark.slow
def test_a_failure_is_reported_and_the_rest_computed_and_no_failure_is_kept(capsys):
    bad = {"name": "bad", "fit": {"model.optimizer": "torch.optim.SGD", "model.optimizer.lr": 1e30}}
    write(rows=[bad, TABLE["rows"][0]], published={})
    assert table() == 2
    captured = capsys.readouterr()
    assert "3 of 6 trainings and evaluations have failed" in captured.err
    assert "Failed: bad, 3 steps, seed 0" in captured.out
    assert len(finished()) == 3
    assert cells()["bad", "3 steps"] == {} and cells()["narrow", "3 steps"]
    assert table("--status") == 0
    assert "1 done, 1 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_table_that_is_killed_anywhere_ends_where_it_would_have_ended(tmp_path):
    write()
    assert table("--store", "whole", "--out", "whole/out") == 0
    command = [sys.executable, "-m", "scorelight", "table", "steps.yaml"]
    for delay, signum in ((9, signal.SIGKILL), (13, signal.SIGTERM), (17, signal.SIGKILL)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        os.kill(process.pid, signum)
        process.wait()
    assert table() == 0
    assert cells() == cells("whole/out")
    assert len(list(Path("runs/tables").glob("fit-*/run/version_*"))) == 2  # none was begun anew
