"""The process group of a command that runs on several processes: how it is joined and left."""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["renew_rendezvous", "shutdown_process_group"]


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
    key = f"scorelight/port/{os.environ['TORCHELASTIC_RESTART_COUNT']}"
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
