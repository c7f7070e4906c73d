"""Several processes against one."""

import torch
from support.runs import logged_scalars

from attacks.processes import RUN, TOY, log_of, ranks_flags, row, run
from scorelight.storage.checkpoint import read_checkpoint


def ranks(quick, folder, rng):
    """Losses, weights and average on two and three processes, as relative differences from those on one."""
    command, results = [*TOY, "--trainer.max_steps=50", "--trainer.log_every_n_steps=1"], {}
    for number in (1, 2, 3):
        here = folder / str(number)
        assert run(here, [*command, *ranks_flags(number)], fresh=True) == 0, log_of(here)
        weights = read_checkpoint(here / RUN / "checkpoints/last.ckpt")["state_dict"]
        flat = torch.cat(
            [v.flatten().double() for v in weights.values() if torch.is_tensor(v) and v.is_floating_point()]
        )
        losses = torch.tensor([*logged_scalars(here / RUN)["train/loss"].values()], dtype=torch.float64)
        results[number] = losses, flat, len([*(here / RUN).glob("events*")])
    wrong, notes = [], []
    for number in (2, 3):
        losses, weights = (
            ((a - b).abs() / b.abs().mean()).max().item()
            for a, b in zip(results[number][:2], results[1][:2], strict=True)
        )
        notes.append(f"{number}: losses {losses:.0e}, weights {weights:.0e}")
        if max(losses, weights) > 1e-4 or len(results[number][0]) != 50 or results[number][2] != 1:
            wrong.append(f"{number} processes: {notes[-1]}, {results[number][2]} logs")
    yield row(
        "two and three processes against one",
        2,
        wrong,
        f"largest relative difference in 50 steps: {'; '.join(notes)}",
    )
