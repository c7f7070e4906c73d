"""What a launcher such as torchrun or srun says about this process in its environment variables."""

from __future__ import annotations

import os
import re
import socket

from scorelight.errors import ConfigurationError

__all__ = ["check_environment", "check_number"]

_SRUN = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR")
_NUMBERS = (*_TORCHRUN[:-1], "NODE_RANK", "GROUP_RANK", *_SRUN, "SLURM_NTASKS", "SLURM_NNODES")
_UNSET = "if they are left over from an earlier run, unset them"


def check_environment() -> None:
    """Refuse variables that no launcher sets; complete those of srun.

    Raises:
        ConfigurationError: If one is not a number, or if those of torchrun are left over.
    """
    for name in _NUMBERS:
        value = os.environ.get(name, "0")
        if not re.fullmatch("[0-9]{1,9}", value):
            raise ConfigurationError(
                f"environment variable {name}={value!r}: a launcher sets it to a number; unset it"
            )
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _check_torchrun()
    if "SLURM_NTASKS" in os.environ:
        _complete_srun()


def _check_torchrun() -> None:
    if missing := [name for name in _TORCHRUN if name not in os.environ]:
        raise ConfigurationError(
            f"environment variables TORCHELASTIC_*: they say that torchrun has started this process, but "
            f"these are missing: {', '.join(missing)}; {_UNSET}"
        )
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # where torchrun itself listens
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            socket.create_connection((address, port), timeout=10).close()
        except OSError as error:
            raise ConfigurationError(
                f"environment variables TORCHELASTIC_*: they say that torchrun has started this process, but "
                f"nothing answers at MASTER_ADDR={address}, MASTER_PORT={port}; {_UNSET}"
            ) from error


def _complete_srun() -> None:
    """Let Lightning see tasks that srun has started, and only those."""
    tasks, nodes = (int(os.environ.get(name, 1)) for name in ("SLURM_NTASKS", "SLURM_NNODES"))
    if any(name not in os.environ for name in _SRUN):
        os.environ["SLURM_JOB_NAME"] = "interactive"  # how Lightning is told that there is no srun
    elif nodes and tasks % nodes == 0:
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", str(tasks // nodes))


def check_number(processes: int) -> None:
    """Refuse a number of processes that is not the one that the launcher has started.

    Args:
        processes: The number that the command is to run on: devices × nodes.

    Raises:
        ConfigurationError: If it differs, or if this process has a number that is too large.
    """
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "TORCHELASTIC_RUN_ID" not in os.environ and "SLURM_NTASKS" in os.environ and not interactive:
        names = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    else:
        names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    found = {name: int(os.environ[name]) for name in names if name in os.environ}
    launched, ranks = found.get(names[0], 1), [found[name] for name in names[1:] if name in found]
    if found and (launched != processes or max(ranks, default=0) >= processes):
        listed = ", ".join(f"{name}={value}" for name, value in found.items())
        raise ConfigurationError(
            f"environment variables {listed}: they say that a launcher has started {launched} processes, but "
            f"devices x nodes is {processes}; make them equal, or unset what is left over from an earlier run"
        )
