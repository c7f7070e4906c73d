"""The numbers of a table: means over seeds, standard errors, and which differences are significant."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy import stats

from scorelight.errors import ConfigurationError, nearest
from scorelight.tables.pieces import Piece, Plan
from scorelight.tables.spec import Cell, Table
from scorelight.tables.store import PieceFolder, State

__all__ = ["CellResult", "TableResult", "collect"]


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell."""

    cell: Cell
    pieces: Mapping[int, Piece]
    """The evaluation of each seed."""
    states: Mapping[int, State]
    values: Mapping[int, float]
    """The number of each seed whose evaluation is done."""
    failures: Mapping[int, str]
    is_best: bool = False
    p_value: float | None = None
    """Of a paired t-test of the difference to the best of the column; None of the best itself, and of too few
    seeds."""

    @property
    def mean(self) -> float:
        """The mean over the seeds that are done; NaN if there is none."""
        return statistics.mean(self.values.values()) if self.values else math.nan

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None with one seed."""
        number = len(self.values)
        return statistics.stdev(self.values.values()) / math.sqrt(number) if number > 1 else None

    @property
    def is_complete(self) -> bool:
        """Whether all seeds are done."""
        return len(self.values) == len(self.pieces)


@dataclass(frozen=True)
class TableResult:
    """A table with what is known of its cells."""

    table: Table
    cells: Mapping[tuple[str, str], CellResult]

    @property
    def is_complete(self) -> bool:
        """Whether all cells are."""
        return all(cell.is_complete for cell in self.cells.values())


def collect(table: Table, plan: Plan, store: Path) -> TableResult:
    """Read the results that are in the store.

    Raises:
        ConfigurationError: If an evaluation has no number of the name that the table gives.
    """
    found = {(cell.row, cell.column): _cell(cell, table, plan, store) for cell in table.cells}
    for column in table.columns:
        in_column = {row: found[row, column] for row in table.rows}
        found |= {(row, column): cell for row, cell in _compared(in_column).items()}
    return TableResult(table, found)


def _cell(cell: Cell, table: Table, plan: Plan, store: Path) -> CellResult:
    pieces = {seed: plan.of_cells[cell.row, cell.column, seed] for seed in table.seeds}
    states: dict[int, State] = {}
    values, failures = {}, {}
    for seed, piece in pieces.items():
        folder = PieceFolder.of(store, piece)
        states[seed] = folder.state()
        if result := folder.result():
            values[seed] = _number(result["results"], cell)
        elif states[seed] == "failed":
            failures[seed] = folder.failure() or ""
        elif piece.needs and (failure := PieceFolder.of(store, piece.needs).failure()):
            failures[seed] = failure
    return CellResult(cell, pieces, states, values, failures)


def _number(results: Mapping[str, Any], cell: Cell) -> float:
    if cell.metric not in results:
        raise ConfigurationError(
            f"{cell.row}, {cell.column}: metric: {cell.metric!r} is not among the results; "
            f"{nearest(cell.metric, results)}"
        )
    return float(results[cell.metric]["value"])


def _compared(cells: Mapping[str, CellResult]) -> dict[str, CellResult]:
    """The cells of a column, each with its difference to the best of those that are complete."""
    sign = {"lowest": 1, "highest": -1}
    ranked = {
        row: sign[cell.cell.best] * cell.mean
        for row, cell in cells.items()
        if cell.cell.best in sign and cell.is_complete and math.isfinite(cell.mean)
    }
    if len(ranked) < 2:
        return dict(cells)
    best = min(ranked, key=ranked.__getitem__)
    others = {row: replace(cells[row], p_value=_p_value(cells[row], cells[best])) for row in ranked}
    return {**cells, **others, best: replace(cells[best], is_best=True)}


def _p_value(cell: CellResult, best: CellResult) -> float | None:
    """Of the paired t-test: the same seeds, the same initial weights, batches and noise."""
    differences = [cell.values[seed] - best.values[seed] for seed in best.values]
    if len(differences) < 2 or not any(differences):
        return None
    return float(stats.ttest_1samp(differences, 0.0).pvalue) if len(set(differences)) > 1 else 0.0
