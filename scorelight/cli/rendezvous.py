"""How processes that are started together meet, and part."""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["part", "renew_rendezvous"]


def renew_rendezvous() -> None:
    """Let the processes that torchrun has started meet at an address of their own.

    From torch 2.5 on they meet at the agent's store, which outlives them: started again, some find there the
    addresses of those that have died, and fail or wait for ever (issue 135712 of pytorch/pytorch). With one
    agent its store serves to agree on a new port; with several it cannot, for they count restarts apart.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        if os.environ.get("RANK") == "0" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            print(
                "scorelight: warning: on several machines torchrun's restarts can fail or hang; have "
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


def part() -> None:
    """Take gloo's threads down; a process that leaves that to its exit is now and then aborted there."""
    dist = sys.modules.get("torch.distributed")
    if dist and dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()
