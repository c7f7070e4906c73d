"""What is done, in which order, and what a failure or a signal leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from scorelight.tables.pieces import Piece
from scorelight.tables.runner import PieceError, run_pieces, work_on
from scorelight.tables.store import PieceFolder

WORK = """
import json, os, pathlib, sys, time
for folder in map(pathlib.Path, sys.argv[1:]):
    args = json.loads((folder / "piece.json").read_text())["args"]
    with open(folder.parent / "order.txt", "a") as file:
        file.write(f"{folder.name} {os.getpid()}\\n")
    print("log of", folder.name, flush=True)
    if "--wait" in args:
        (folder / "waits").touch()
        time.sleep(60)
    if "--crash" in args:
        os.kill(os.getpid(), 11)
    if "--fail" in args:
        (folder / "failure.txt").write_text("as asked for")
        continue
    if "--exit" in args:
        print("scorelight: error: as asked for")
        sys.exit(2)
    keep = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    found = {k: os.environ.get(k) for k in keep} | {"provenance": {}}
    (folder / "result.json").write_text(json.dumps(found))
"""


def fit(name, *args):
    return Piece("fit", args, name, {"name": name})


def evaluate(name, needs, *args):
    return Piece("evaluate", args, name, {"name": name}, needs)


@pytest.fixture
def run(tmp_path):
    """Runs pieces with a small program for their command; the outcomes by name."""
    program = tmp_path / "work.py"
    program.write_text(WORK)

    def run(pieces, jobs=1, devices=()):
        outcomes = []
        command = [sys.executable, str(program)]
        run_pieces(pieces, tmp_path, jobs, 3, devices, outcomes.append, lambda piece: None, command)
        return {outcome.piece.name: outcome.failure for outcome in outcomes}

    return run


def order(folder):
    return (folder / "order.txt").read_text().split()[::2]


def processes(folder):
    """The process that each piece was in last."""
    words = (folder / "order.txt").read_text().split()
    return dict(zip(words[::2], words[1::2], strict=True))


def test_trainings_come_before_what_needs_them(run, tmp_path):
    a, b = fit("a"), fit("b")
    pieces = [a, b, evaluate("c", b), evaluate("d", a)]
    assert run(pieces, jobs=2) == dict.fromkeys(["fit-a", "fit-b", "evaluate-c", "evaluate-d"])
    done = order(tmp_path)
    assert done.index("evaluate-c") > done.index("fit-b") and done.index("evaluate-d") > done.index("fit-a")
    assert "log of fit-a" in PieceFolder.of(tmp_path, a).log.read_text()


def test_what_is_done_is_not_done_again(run, tmp_path):
    pieces = [fit("a"), evaluate("b", fit("a"))]
    run(pieces)
    assert run(pieces) == {}
    assert order(tmp_path) == ["fit-a", "evaluate-b"]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("--fail", "as asked for"),
        ("--exit", "scorelight: error: as asked for"),
        ("--crash", "stopped by signal 11"),
    ],
)
def test_a_failure_is_reported_and_tried_again_and_only_what_needs_it_is_left_out(how, reason, run, tmp_path):
    bad, good = fit("bad", how), fit("good")
    pieces = [bad, good, evaluate("x", bad), evaluate("y", good)]
    found = run(pieces)
    assert found["fit-bad"] == reason
    assert found["evaluate-x"] == "its training fit-bad has failed"
    assert found["fit-good"] is None and found["evaluate-y"] is None
    assert run(pieces).keys() == {"fit-bad", "evaluate-x"}
    assert order(tmp_path).count("fit-bad") == 2


@pytest.mark.parametrize("how", ["--fail", "--exit", "--crash"])
def test_evaluations_of_a_training_share_a_process_and_survive_each_other(how, run, tmp_path):
    training = fit("a")
    names = "bcdef"
    pieces = [training, *(evaluate(name, training, *[how] * (name == "c")) for name in names)]
    found = run(pieces)
    assert found.pop("evaluate-c") is not None
    assert set(found.values()) == {None} and len(found) == 5
    used = processes(tmp_path)
    assert len(set(used.values())) == (2 if how == "--fail" else 3)  # the rest of a process that ended
    assert used["evaluate-b"] != used["fit-a"]


def test_evaluations_of_a_training_are_divided_among_the_jobs(run, tmp_path):
    training = fit("a")
    run([training, *(evaluate(name, training) for name in "bcdef")], jobs=2)
    used = processes(tmp_path)
    assert len(set(used.values())) == 3
    assert used["evaluate-b"] == used["evaluate-d"] != used["evaluate-e"] == used["evaluate-f"]


def test_pieces_get_threads_and_their_share_of_the_devices(run, tmp_path):
    pieces = [fit(name) for name in "ab"]
    run(pieces, jobs=1, devices=["0", "1", "2"])
    found = PieceFolder.of(tmp_path, pieces[0]).result()
    assert found == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "0,1,2", "provenance": {}}
    others = [fit(name) for name in "cd"]
    run(others, jobs=2, devices=["0", "1", "2"])
    found = [PieceFolder.of(tmp_path, piece).result()["CUDA_VISIBLE_DEVICES"] for piece in others]
    assert sorted(found) == ["0,2", "1"]


def test_a_signal_ends_the_pieces_in_work(run, tmp_path, monkeypatch):
    piece = fit("a", "--wait")
    waits = PieceFolder.of(tmp_path, piece).path / "waits"
    seen = []

    def interrupt(seconds):
        seen.append(seconds)
        assert len(seen) < 1000
        if waits.exists():
            raise KeyboardInterrupt
        os.sched_yield()
        subprocess.run(["sleep", "0.02"], check=True)

    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run([piece])
    assert PieceFolder.of(tmp_path, piece).result() is None


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"results": {}}'])
def test_what_is_no_result_is_computed_again(content, run, tmp_path):
    piece = fit("a")
    folder = prepared(tmp_path, piece)
    (folder.path / "result.json").write_text(content)
    assert folder.state() == "waiting"
    assert run([piece]) == {"fit-a": None} and folder.state() == "done"


def prepared(tmp_path, piece):
    folder = PieceFolder.of(tmp_path, piece)
    folder.prepare(piece)
    return folder


def finish(folder):
    """As `fit` does."""
    version = folder.run / "version_0"
    version.mkdir(parents=True)
    (version / "finished").touch()


def test_a_training_has_its_own_folder_and_is_not_repeated_when_it_was_killed_at_its_end(tmp_path):
    folder = prepared(tmp_path, fit("a", "--config=x"))
    commands = []

    def command(args):
        commands.append(args)
        finish(folder)
        return 0

    work_on(folder, command, True)
    assert commands == [["fit", "--config=x", f"--trainer.default_root_dir={folder.run}"]]
    result = folder.result()
    assert result["run"] == "run/version_0" and result["provenance"]["seconds"] >= 0
    work_on(folder, command, True)  # done
    (folder.path / "result.json").unlink()
    work_on(folder, command, True)  # killed before the result was written
    assert len(commands) == 1 and folder.result()["run"] == "run/version_0"


def test_an_evaluation_is_of_the_run_of_its_training(tmp_path):
    training = fit("a")
    finish(prepared(tmp_path, training))
    work_on(PieceFolder.of(tmp_path, training), lambda args: 0, True)
    folder = prepared(tmp_path, evaluate("b", training, "--seeds=[0]"))

    def command(args):
        assert args == [
            "evaluate",
            f"{tmp_path}/fit-a/run/version_0",
            "--seeds=[0]",
            f"--out={folder.evaluation}",
        ]
        folder.evaluation.mkdir()
        (folder.evaluation / "results-1.json").write_text(json.dumps({"results": {"fd": {"value": 2.5}}}))
        return 0

    work_on(folder, command, True)
    assert folder.result()["results"] == {"fd": {"value": 2.5}}


def test_the_other_processes_of_a_training_write_nothing(tmp_path):
    folder = prepared(tmp_path, fit("a"))
    work_on(folder, lambda args: 0, False)
    assert folder.result() is None


@pytest.mark.parametrize(("code", "error"), [(1, PieceError), (128 + signal.SIGTERM, SystemExit)])
def test_a_failure_is_kept_until_the_next_attempt_and_a_signal_is_none(code, error, tmp_path):
    folder = prepared(tmp_path, fit("a"))
    folder.log.write_text("some\nscorelight: error: reason\n")
    with pytest.raises(error):
        work_on(folder, lambda args: code, True)
    assert folder.result() is None
    failed = error is PieceError
    assert folder.state() == ("failed" if failed else "waiting")
    assert folder.failure() == ("PieceError: scorelight: error: reason" if failed else None)
    finish(folder)
    work_on(folder, lambda args: 0, True)
    assert folder.state() == "done" and folder.failure() is None
