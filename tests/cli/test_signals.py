"""Ctrl-C and SIGTERM stop every command, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from scorelight.cli import main
from scorelight.cli.signals import stopped_by_signals
from scorelight.errors import Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_raises_once_and_the_handlers_are_restored(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped, match=signum.name) as stopped, stopped_by_signals():
        os.kill(os.getpid(), signum)
    assert stopped.value.signum == signum and signal.getsignal(signum) is before


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_exit_code_is_that_of_the_signal(signum, monkeypatch, capsys):
    monkeypatch.setattr("scorelight.cli.fit.run", lambda _: os.kill(os.getpid(), signum))
    assert main(["fit"]) == 128 + signum
    assert capsys.readouterr().err.strip().startswith(f"scorelight: stopped by {signum.name}. ")


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    seen = []

    def look():
        with stopped_by_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


WAITING = """
import os, signal, sys, time
from scorelight.cli import signals
signals._PATIENCE = 0.5
with signals.stopped_by_signals():
    print("ready", flush=True)
    {what}
print("went on")
"""
SLOW_MODULE = """
import time
try:
    for _ in range(200):
        time.sleep(0.05)
except BaseException:
    pass
"""
CASES = {
    "in Python": "time.sleep(20)",
    "in a call that does not return": "import ctypes; mutex = ctypes.create_string_buffer(64); "
    "lock = ctypes.CDLL(None).pthread_mutex_lock; lock(mutex); lock(mutex)",
    "in an import": "import slow_module",
}


@pytest.mark.parametrize("case", CASES)
def test_wherever_the_process_is_it_ends(tmp_path, case):
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    command = [sys.executable, "-c", WAITING.format(what=CASES[case])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, **pipes)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.terminate()
    output, error = process.communicate(timeout=15)
    if case == "in Python":
        assert process.returncode == 1 and "Stopped: SIGTERM" in error, "the block has raised"
    else:
        assert process.returncode == 143 and error.count("stopped by SIGTERM") == 1
    assert output == ""


FORKED = """
import os, signal, sys, time
from scorelight.cli import signals
signals._PATIENCE = 0.5
with signals.stopped_by_signals():
    worker = os.fork()
    if not worker:
        time.sleep(20)
    time.sleep(0.2)
    os.kill(worker, signal.SIGTERM)
    status = os.waitpid(worker, 0)[1]
    time.sleep(1.5)
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_worker_dies_of_its_signal_alone():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, str(-signal.SIGTERM), "")


COMMANDS = {
    "sample": "sample RUN --num_samples 1000000 --out samples",
    "sample on two": "sample RUN --num_samples 1000000 --out samples --devices 2 --accelerator cpu",
    "evaluate": "evaluate RUN --num_samples 1000000 --metrics FrechetDistance --features PixelFeatures",
    "validate": "validate --ckpt_path RUN --data.num_val 30000000",
}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3.0, 30.0])
@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_stop_and_leave_no_process(train, tmp_path, command, signum, seconds):
    flags = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.num_train=64"]
    run = train("--config", "toy/vp_epsilon", *flags, "--data.num_val=8") / "runs/toy/vp_epsilon/version_0"
    words = [str(run) if word == "RUN" else word for word in COMMANDS[command].split()]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scorelight", *words],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    time.sleep(seconds)
    process.send_signal(signum)
    code, text = process.wait(timeout=60), (tmp_path / "log").read_text(errors="replace")
    assert code == 128 + signum and text.count(f"stopped by {signum.name}") == 1, text[-2000:]
    assert "Traceback" not in text
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
