"""The process group of a command that runs on several processes: how it is joined and left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time

__all__ = [
    "end_children",
    "end_with_parent",
    "is_child",
    "renew_rendezvous",
    "shutdown_process_group",
    "wait_for_parent",
]

_PARENT = "SCORELIGHT_PARENT"
_GRACE = 5.0
"""Seconds in which the other processes of a command that has failed can end on their own."""


def end_with_parent() -> None:
    """Watch, in a process that Lightning has started for a command, whether the first process is alive.

    Without it, a process can wait for ever to be connected. torchrun and srun watch their processes.
    """
    if is_child():
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    else:
        os.environ[_PARENT] = str(os.getpid())


def is_child() -> bool:
    """Whether Lightning has started this process for the first one of a command."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and os.environ.get(_PARENT) == str(os.getppid())


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    time.sleep(2 * _GRACE)  # for messages and open files
    os._exit(1)


def wait_for_parent() -> None:
    """Wait a moment for the first process: if it reports the same mistake, it ends this one."""
    parent, end = os.getppid(), time.monotonic() + _GRACE / 2
    while os.getppid() == parent and time.monotonic() < end:
        time.sleep(0.05)


def end_children(grace: float = 0.0) -> None:
    """End the processes that Lightning has started, when this one has failed or was stopped.

    Args:
        grace: Seconds in which they can end on their own before they get SIGTERM.
    """
    private = sys.modules.get("scorelight.training.lightning_private")  # not imported: not started any
    find = getattr(private, "child_processes", None)
    children: list[subprocess.Popen[bytes]] = find() if find else []
    for end, stop in ((grace, subprocess.Popen.terminate), (_GRACE, subprocess.Popen.kill)):
        deadline = time.monotonic() + end
        while children and time.monotonic() < deadline:
            children = [child for child in children if child.poll() is None]
            time.sleep(0.02)
        for child in children:
            stop(child)


def renew_rendezvous() -> None:
    """Give processes started by torchrun an address of their own to meet at.

    From torch 2.5 on they meet at the agent's store, which outlives them: after a restart, some find the
    addresses of dead processes there, and fail or hang (pytorch/pytorch issue 135712; remove this function
    when the oldest supported torch has the fix). With one agent, its store serves to agree on a new port.
    Several agents count their restarts separately, so that this is impossible.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        if os.environ.get("RANK") == "0" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            print(
                "scorelight: warning: on several machines torchrun's restarts can fail or hang; set "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment",
                file=sys.stderr,
            )
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"scorelight/port/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))
    os.environ |= {"MASTER_PORT": store.get(key).decode(), "TORCHELASTIC_USE_AGENT_STORE": "False"}


def shutdown_process_group() -> None:
    """Stop gloo's threads: a process that exits with them running is sometimes aborted."""
    dist = sys.modules.get("torch.distributed")
    if dist and dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()
