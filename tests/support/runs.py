"""What a run folder contains, and what differs between two of them."""

from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scorelight.storage.checkpoint import read_checkpoint


def run_differences(a: Path, b: Path) -> list[str]:
    """Everything that differs between two run folders: checkpoints, logged numbers and sample grids."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        one, two = (read_checkpoint(run / "checkpoints" / name) for run in (a, b))
        # Lightning's ModelCheckpoint does not restore current_score when a run is resumed
        found += [f"{name}{path}" for path in unequal_leaves(one, two) if not path.endswith("/current_score")]
    one, two = logged_scalars(a), logged_scalars(b)
    found += [f"logged {name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)]
    one, two = ({p.name: p.read_bytes() for p in (run / "samples").iterdir()} for run in (a, b))
    return found + [f"picture {name}" for name in one.keys() | two.keys() if one.get(name) != two.get(name)]


def unequal_leaves(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths of the leaves that differ between two nested structures; tensors are compared bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        return [x for k in a.keys() | b.keys() for x in unequal_leaves(a.get(k), b.get(k), f"{path}/{k}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        pairs = enumerate(zip(a, b, strict=True))
        return [x for i, (v, w) in pairs for x in unequal_leaves(v, w, f"{path}/{i}")]
    return [] if type(a) is type(b) and (a is b or a == b) else [path]


def logged_scalars(run: Path) -> dict[str, dict[int, float]]:
    """The TensorBoard scalars of a run folder as {name: {step: value}}."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {name: {p.step: p.value for p in events.Scalars(name)} for name in events.Tags()["scalars"]}
