"""Checkpoints that are corrupted, or hold a payload."""

import builtins
import contextlib
import functools
import os
import pickle
import subprocess
from pathlib import Path

import torch
from support.corruption import CallWhenUnpickled, corrupted

from attacks.processes import RUN, TOY, log_of, log_problem, row, run
from scorelight.storage.checkpoint import CorruptedCheckpointError, read_checkpoint, write_checkpoint


def corruption(quick, folder, rng):
    """Checkpoints truncated or with a bit flipped; a tenth of them are given to a command."""
    number = 20 if quick else 100
    assert run(folder / "run", TOY) == 0
    path = folder / "run" / RUN / "checkpoints/last.ckpt"
    content, wrong, turns = path.read_bytes(), [], range(number)
    for turn in turns:
        path.write_bytes(corrupted(content, turn, rng))
        with contextlib.suppress(CorruptedCheckpointError):
            read_checkpoint(path)
            wrong.append(f"corrupted file {turn} was loaded")
        if turn % 10 == 0:  # the command line, too
            code, log = run(folder / "run", ["sample", RUN, "--num_samples=4"]), log_of(folder / "run")
            if code != 0 or "last.ckpt is not a checkpoint of scorelight, or is corrupted" not in log:
                wrong.append(f"corrupted file {turn}: {code}: {log[-300:]}")
    yield row("checkpoints truncated or with a bit flipped", number, wrong, "the previous one was used")


GADGETS = {
    "os.system": lambda: CallWhenUnpickled(os.system, "touch ran"),
    "exec": lambda: CallWhenUnpickled(builtins.exec, "open('ran', 'w').close()"),
    "eval": lambda: CallWhenUnpickled(builtins.eval, "open('ran', 'w').close()"),
    "Path.touch": lambda: CallWhenUnpickled(Path.touch, Path("ran")),
    "subprocess": lambda: CallWhenUnpickled(subprocess.check_call, ["touch", "ran"]),
    "partial": lambda: CallWhenUnpickled(functools.partial, os.system, "touch ran"),
}
READERS = {
    "sample": ["sample", RUN, "--num_samples=4"],
    "evaluate": ["evaluate", RUN, "--num_samples=4"],
    "validate": ["validate", "--config=toy/vp_epsilon", f"--ckpt_path={RUN}"],
    "fit --ckpt_path": [*TOY, f"--ckpt_path={RUN}"],
    "fit, resuming": TOY,
}


def write_payload(path, way, gadget):
    """Put a payload into a checkpoint: as torch saves, as plain pickle, or with a valid checksum."""
    content = read_checkpoint(path)
    content["hyper_parameters" if way == "checksum" else "state_dict"]["bad"] = GADGETS[gadget]()
    if way == "checksum":  # which shows that the file is what was written, not that it is harmless
        write_checkpoint(content, path)
    elif way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))


def payloads(quick, folder, rng):
    assert run(folder / "run", TOY) == 0
    (folder / "run" / RUN / "finished").unlink()
    for name in ("previous", "best"):
        (folder / "run" / RUN / f"checkpoints/{name}.ckpt").unlink()
    path = folder / "run" / RUN / "checkpoints/last.ckpt"
    content, wrong, cases = path.read_bytes(), [], 0
    for way in ("torch", "pickle", "checksum"):
        for gadget in [*GADGETS][: 1 if quick else None]:
            for reader, command in READERS.items():
                path.write_bytes(content)
                write_payload(path, way, gadget)
                (folder / "run/log.txt").unlink()
                code, cases = run(folder / "run", command), cases + 1
                ran, log = (folder / "run/ran").exists(), log_of(folder / "run")
                if ran or code != 2 or log_problem(log):
                    wrong.append(f"{way}, {gadget}, {reader}: {code}, ran: {ran}: {log[-300:]}")
    yield row("checkpoints with a payload", cases, wrong, "refused by name before anything ran")
