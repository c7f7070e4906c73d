"""Pieces of a table's work, each with a key of all that its result depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scorelight.tables.spec import Cell, Table

__all__ = ["Piece", "Plan", "Resolve", "as_flags", "plan_pieces"]


@dataclass(frozen=True)
class Piece:
    """A training, or an evaluation of one."""

    kind: Literal["fit", "evaluate"]
    args: tuple[str, ...]
    """Of ``scorelight fit`` or ``scorelight evaluate``, without folders."""
    key: str
    inputs: Mapping[str, Any]
    """What the result depends on; the key is its digest."""
    needs: Piece | None = None
    """The training that is evaluated."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.kind}-{self.key}"


class Resolve(Protocol):
    """Finds what the result of a command depends on: its complete configuration, code and data."""

    def fit(self, args: Sequence[str]) -> Mapping[str, Any]:
        """Of ``scorelight fit``."""

    def evaluate(self, args: Sequence[str], fit: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of ``scorelight evaluate``, for a model that ``scorelight fit`` has trained."""


@dataclass(frozen=True)
class Plan:
    """The pieces of a table: each once, trainings before what needs them."""

    pieces: tuple[Piece, ...]
    of_cells: Mapping[tuple[str, str, int], Piece]
    """The evaluation of each row, column and seed."""


def plan_pieces(table: Table, resolve: Resolve) -> Plan:
    """What has to be computed for a table. Cells with the same training or evaluation share it.

    The seed is that of the training, of the samples and of the noise of likelihoods.
    """
    known: dict[tuple[str, ...], Piece] = {}
    of_cells: dict[tuple[str, str, int], Piece] = {}

    def piece(kind: Literal["fit", "evaluate"], args: tuple[str, ...], needs: Piece | None = None) -> Piece:
        place = (kind, *args, needs.key if needs else "")
        if place not in known:
            inputs = dict(resolve.evaluate(args, needs.inputs) if needs else resolve.fit(args))
            inputs |= {"kind": kind, "training": needs.key if needs else None}
            text = json.dumps(inputs, sort_keys=True, default=str)
            known[place] = Piece(kind, args, hashlib.sha256(text.encode()).hexdigest()[:16], inputs, needs)
        return known[place]

    for cell in table.cells:
        for seed in table.seeds:
            training = piece("fit", _fit_args(cell, seed))
            evaluation = piece("evaluate", as_flags({**cell.evaluate, "seeds": [seed]}), training)
            of_cells[cell.row, cell.column, seed] = evaluation
    pieces = {piece.key: piece for piece in known.values()}
    return Plan(tuple(sorted(pieces.values(), key=lambda p: p.kind == "evaluate")), of_cells)


def _fit_args(cell: Cell, seed: int) -> tuple[str, ...]:
    flags = {name: value for name, value in cell.fit.items() if name != "config"}
    return (f"--config={cell.fit['config']}", *as_flags({**flags, "seed_everything": seed}))


def as_flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Flags for the command line: ``--name=value``."""
    return tuple(
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    )
