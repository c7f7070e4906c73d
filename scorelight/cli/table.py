"""``scorelight table``: a published table, computed piece by piece."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from scorelight.cli.common import check_positive, run_command, written
from scorelight.cli.configs import find_table
from scorelight.cli.dry_run import duration, scaled
from scorelight.cli.resolution import CommandInputs
from scorelight.cli.table_cost import PieceCost, estimate_costs, total_hours
from scorelight.errors import ConfigurationError, Stopped
from scorelight.storage.atomic import atomic_write
from scorelight.tables.gather import circumstances, commands, curves, names_of_pieces, samples
from scorelight.tables.page import as_page
from scorelight.tables.pieces import Plan, plan_pieces
from scorelight.tables.report import as_json, as_latex, as_markdown
from scorelight.tables.results import TableResult, collect
from scorelight.tables.runner import Outcome, run_pieces
from scorelight.tables.spec import read_table
from scorelight.tables.store import PieceFolder

__all__ = ["run_table", "table"]


def run_table(args: list[str]) -> None:
    """Parse and run."""
    run_command(table, args)


def table(
    file: str,
    scale: str = "mini",
    seeds: list[int] | None = None,
    fit: list[str] | None = None,
    evaluate: list[str] | None = None,
    jobs: int = 1,
    threads: int = 1,
    store: str = "runs/tables",
    out: str | None = None,
    dry_run: bool = False,
    status: bool = False,
) -> None:
    """Compute a published table: train, evaluate, and set the numbers beside those of the paper.

    What several cells need is computed once. What is done is not computed again, whatever else has changed in
    the file: rerun the same command to resume, to add seeds or to try again what has failed. Writes the table
    as Markdown, LaTeX, JSON and one HTML page.

    Args:
        file: A table of `scorelight configs`, such as ddim_1, or a YAML file.
        scale: mini, for two CPU cores, or full, the setting of the paper.
        seeds: Seeds of trainings and samples (default: those of the file).
        fit: Further flags of every training, as NAME=VALUE: data.root=/data trainer.devices=8
        evaluate: Further flags of every evaluation, as NAME=VALUE.
        jobs: Trainings and evaluations that run side by side.
        threads: CPU threads of each.
        store: Folder of what is computed; tables may share it.
        out: Folder to write the table to (default: the store and the table's name and scale).
        dry_run: Whether to print what is left to do and how long it takes, as measured on some steps of each
            training, and compute nothing.
        status: Whether to print how far it is, and compute nothing.
    """
    check_positive(jobs=jobs, threads=threads)
    path = Path(find_table(file))
    extra = {"fit": _flags("fit", fit), "evaluate": _flags("evaluate", evaluate)}
    described = read_table(path, scale, seeds, **extra)
    plan = plan_pieces(described, CommandInputs())
    if status:
        _print_status(plan, Path(store))
        return
    if dry_run:
        _print_costs(plan, estimate_costs(plan, Path(store), threads), jobs)
        return
    folder = Path(out or Path(store) / f"{described.name}-{scale}")
    failures = _run(plan, Path(store), jobs, threads, folder)
    result = collect(described, plan, Path(store))
    with written(folder):
        files = _write(result, plan, Path(store), folder)
    print(f"\n{as_markdown(result)}")
    for name in files:
        print(f"  {name}")
    if failures:
        number = f"{failures} of {len(plan.pieces)} trainings and evaluations"
        raise ConfigurationError(f"{number} have failed, see above; rerun the same command to try them again")


def _flags(name: str, given: list[str] | None) -> dict[str, Any]:
    """Flags of the form NAME=VALUE."""
    found = {}
    for word in given or []:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"--{name} {word}: NAME=VALUE is expected, such as trainer.devices=8")
        found[key.removeprefix("--")] = yaml.safe_load(value)
    return found


def _run(plan: Plan, store: Path, jobs: int, threads: int, folder: Path) -> int:
    """Run what is missing; the number of failures."""
    failed: list[Outcome] = []
    names = names_of_pieces(plan)
    done = sum(PieceFolder.of(store, piece).result() is not None for piece in plan.pieces)
    with tqdm(total=len(plan.pieces), initial=done, unit="piece", desc=folder.name) as bar:

        def ended(outcome: Outcome) -> None:
            bar.update()
            what = f"{outcome.piece.kind} {names[outcome.piece.key]}"
            if outcome.failure is None:
                bar.write(f"{what}: {outcome.seconds:.0f} s")
            else:
                failed.append(outcome)
                log = PieceFolder.of(store, outcome.piece).log
                where = f"; see {log}" if log.exists() else ""
                bar.write(f"{what}: failed: {outcome.failure}{where}")

        devices = [str(i) for i in range(torch.cuda.device_count())]
        try:
            run_pieces(
                plan.pieces, store, jobs, threads, devices, ended, lambda p: bar.set_postfix_str(names[p.key])
            )
        except Stopped as stopped:
            stopped.add_note("What is finished is kept; rerun the same command to resume")
            raise
    return len(failed)


def _print_status(plan: Plan, store: Path) -> None:
    states = {piece.key: PieceFolder.of(store, piece).state() for piece in plan.pieces}
    names = names_of_pieces(plan)
    for kind in ("fit", "evaluate"):
        counts = Counter(states[piece.key] for piece in plan.pieces if piece.kind == kind)
        line = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
        print(f"{kind:<10} {line}")
    for piece in plan.pieces:
        if states[piece.key] in ("running", "failed"):
            folder = PieceFolder.of(store, piece)
            reason = f": {folder.failure()}" if states[piece.key] == "failed" else ""
            print(f"{states[piece.key]}: {piece.kind} {names[piece.key]}, {folder.log}{reason}")


def _print_costs(plan: Plan, costs: Mapping[str, PieceCost], jobs: int) -> None:
    names = names_of_pieces(plan)
    width = max((len(names[key]) for key in costs), default=0)
    for piece in plan.pieces:
        if piece.key in costs:
            flops, seconds = costs[piece.key]
            cost = f"{scaled(flops, 'FLOP'):>11}  {duration(seconds)}"
            print(f"{piece.kind:<9} {names[piece.key]:<{width}}  {cost}")
    done = len(plan.pieces) - len(costs)
    hours = total_hours(list(costs.values()), jobs)
    computed = scaled(sum(cost.flops for cost in costs.values()), "FLOP")
    print(f"{len(costs)} to do, {done} done; {computed}, {hours:.2g} hours with --jobs {jobs}")


def _write(result: TableResult, plan: Plan, store: Path, folder: Path) -> list[Path]:
    table, computed = result.table, circumstances(plan, store)
    shown = curves(table, plan, store), samples(table, plan, store), commands(table, plan)
    texts = {
        "table.md": as_markdown(result),
        "table.tex": as_latex(result),
        "table.json": json.dumps(as_json(result) | {"computed": computed}, indent=1) + "\n",
        "table.html": as_page(result, *shown, computed),
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in texts]
