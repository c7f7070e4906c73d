"""What the page of a table shows beside its numbers: curves, samples, commands and circumstances."""

from __future__ import annotations

import shlex
from pathlib import Path

from scorelight.tables.pieces import Plan
from scorelight.tables.spec import Table
from scorelight.tables.store import PieceFolder

__all__ = ["circumstances", "commands", "curves", "names_of_pieces", "samples"]

_LOSS = "val/loss"


def names_of_pieces(plan: Plan) -> dict[str, str]:
    """Of each piece by its key, the first cell that it is for."""
    found: dict[str, str] = {}
    for (row, column, seed), piece in plan.of_cells.items():
        for known in (piece, piece.needs):
            if known:
                found.setdefault(known.key, f"{row}, {column}, seed {seed}")
    return found


def curves(table: Table, plan: Plan, store: Path) -> dict[str, list[tuple[float, float]]]:
    """Steps and validation losses of the trainings of the first seed, as TensorBoard has logged them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for key, names in _trainings(table, plan).items():
        folder = PieceFolder(store / f"fit-{key}")
        result = folder.result()
        if result:
            found[_common(names)] = _logged(folder.path / result["run"])
    return found


def samples(table: Table, plan: Plan, store: Path) -> dict[str, Path]:
    """Pictures of samples of the first seed, by cell."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for (row, column, seed), piece in plan.of_cells.items():
        pictures = sorted(PieceFolder.of(store, piece).evaluation.glob("samples-*.png"))
        if seed == table.seeds[0] and pictures and piece.key not in seen:
            seen.add(piece.key)
            found[f"{row}, {column}"] = pictures[0]
    return found


def commands(table: Table, plan: Plan) -> dict[tuple[str, str], list[str]]:
    """The commands that reproduce the first seed of each cell."""
    found = {}
    for (row, column, seed), piece in plan.of_cells.items():
        if seed == table.seeds[0] and piece.needs:
            run = f"runs/{table.name}/{piece.needs.key}"
            fit = ["fit", *piece.needs.args, f"--trainer.default_root_dir={run}"]
            evaluate = ["evaluate", run, *piece.args]
            found[row, column] = [f"scorelight {shlex.join(words)}" for words in (fit, evaluate)]
    return found


def circumstances(plan: Plan, store: Path) -> dict[str, str]:
    """Versions, machines and the time that the results have taken."""
    seconds, cpu_seconds = 0.0, 0.0
    seen: dict[str, set[str]] = {}
    for piece in plan.pieces:
        result = PieceFolder.of(store, piece).result()
        if result is None:
            continue
        found = dict(result["provenance"])
        seconds += found.pop("seconds")
        cpu_seconds += found.pop("cpu_seconds")
        found["began"] = found["began"].partition("T")[0]
        for name, value in found.items():
            seen.setdefault(name, set()).add(str(value))
    used = {"hours": f"{seconds / 3600:.2f}", "CPU hours": f"{cpu_seconds / 3600:.2f}"}
    return used | {name: ", ".join(sorted(values)) for name, values in seen.items()}


def _trainings(table: Table, plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """Cells of the trainings of the first seed, by key."""
    found: dict[str, list[tuple[str, str]]] = {}
    for (row, column, seed), piece in plan.of_cells.items():
        if seed == table.seeds[0] and piece.needs:
            found.setdefault(piece.needs.key, []).append((row, column))
    return found


def _common(cells: list[tuple[str, str]]) -> str:
    """The row or column that all cells of a training have in common."""
    rows, columns = ({cell[i] for cell in cells} for i in (0, 1))
    parts = [next(iter(names)) for names in (rows, columns) if len(names) == 1]
    return ", ".join(parts) or "all"


def _logged(run: Path) -> list[tuple[float, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    if _LOSS not in events.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in events.Scalars(_LOSS)]
