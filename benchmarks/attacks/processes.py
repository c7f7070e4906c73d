"""What every attack needs: processes that run a command, and the row that reports on them."""

import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import scorelight
from scorelight.cli import main

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOY = ["fit", "--config=toy/vp_epsilon", "--trainer.max_steps=200", "--trainer.val_check_interval=40"]
TOY += ["--checkpoint.every_n_steps=20", "--samples.every_n_steps=50", "--trainer.log_every_n_steps=5"]
TOY += ["--trainer.enable_progress_bar=false"]
DIGITS = ["fit", "--config=digits/vp_epsilon", "--trainer.max_steps=40", "--trainer.val_check_interval=20"]
DIGITS += ["--checkpoint.every_n_steps=10", "--samples.every_n_steps=20", "--trainer.log_every_n_steps=5"]
DIGITS += ["--trainer.enable_progress_bar=false"]
RUN = "runs/toy/vp_epsilon/version_0"


def ranks_flags(ranks):
    """Flags for this many processes, with 240 examples of the toy in a global batch."""
    return [
        "--trainer.accelerator=cpu",
        f"--trainer.devices={ranks}",
        f"--data.batch_size={240 // ranks}",
        "--trainer.strategy=ddp",
    ]


def import_everything():
    """Import all of scorelight before processes are forked: its modules are imported when first used."""
    for module in pkgutil.walk_packages(scorelight.__path__, "scorelight."):
        importlib.import_module(module.name)


def start_process(folder, command, fresh=False, memory=None, seconds=0):
    """The id of a process that runs the command in the folder, in its own group; its output is in log.txt.

    Args:
        folder: Created if it does not exist.
        command: Arguments of scorelight.
        fresh: Whether to start a new interpreter, which a process that starts others needs.
        memory: Bytes of address space that it may use beyond what it has.
        seconds: Time limit, exit code −14; 0 means none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
        if fresh:
            os.execv(sys.executable, [sys.executable, "-m", "scorelight", *command])
        if memory:
            most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + memory
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        signal.alarm(seconds)
        code = main(command)
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(pid):
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(folder, command, **options):
    """Run the command to its end; its exit code."""
    return exit_code(start_process(folder, command, **options))


def seconds_until_gone(group, seconds=60):
    """Seconds until no process of the group is left, None if some still are."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return time.perf_counter() - begin
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return None


def log_of(folder):
    return (folder / "log.txt").read_text(errors="replace")


def log_problem(log):
    """What a user would complain of in the output of a run that had to stop."""
    if "Traceback" in log:
        return "a traceback"
    return "" if log.count("scorelight: error:") == 1 else "not one message"


def fingerprint(folder):
    """Size and time of the last change of every file of a folder except the trial's log."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "log.txt")
    return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def row(what, cases, wrong, notes=""):
    print(
        f"{what}: {cases} cases, {len(wrong)} wrong. {notes}",
        *wrong[:5],
        sep="\n  ",
        flush=True,
    )
    return {"what": what, "cases": cases, "wrong": wrong, "notes": notes}
