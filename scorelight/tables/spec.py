"""A published table as a YAML file: rows and columns are settings of one experiment.

A cell has the settings of the table, of its column, of its row, and its own, and of each of these what its
scale adds, in this order: a later setting replaces an earlier one, and another class comes without the
options of the earlier one. Settings are flags of ``scorelight fit`` and ``scorelight evaluate``, by their
names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scorelight.errors import ConfigurationError, nearest

__all__ = ["Cell", "Table", "merged", "read_table"]

_BEST = ("lowest", "highest", "none")
_SETTINGS = ("fit", "evaluate", "metric", "best")
_OWN = ("scales", *_SETTINGS)
_TABLE = ("title", "source", "note", "seeds", "scales", "rows", "columns", "cells", "published", *_SETTINGS)


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    row: str
    column: str
    fit: Mapping[str, Any]
    """Flags of the training, of which ``config`` is one."""
    evaluate: Mapping[str, Any]
    """Flags of the evaluation."""
    metric: str
    """Name of the number among the results of the evaluation."""
    best: str
    """Which is the best of a column: lowest, highest or none."""
    published: str
    """The number of the paper as it is written there; "" if it has not been checked."""


@dataclass(frozen=True)
class Table:
    """A table at one scale."""

    name: str
    title: str
    source: str
    note: str
    scale: str
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[Cell, ...]
    """All cells, row by row."""

    def cell(self, row: str, column: str) -> Cell:
        """The cell of a row and a column."""
        return self.cells[self.rows.index(row) * len(self.columns) + self.columns.index(column)]


def read_table(
    file: Path,
    scale: str,
    seeds: Sequence[int] | None = None,
    fit: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
) -> Table:
    """The table of a file.

    Args:
        file: The YAML file; its name is the table's.
        scale: One of the scales that the file has, such as mini or full.
        seeds: Instead of those of the file.
        fit: Further flags of every training.
        evaluate: Further flags of every evaluation.

    Raises:
        ConfigurationError: If the file is not such a table, or has no such scale.
    """
    where = str(file)
    top = _checked(_yaml(file), _TABLE, where)
    scales = top.get("scales") or {}
    if scale not in scales:
        raise ConfigurationError(f"{where}: has no scale {scale!r}; {nearest(scale, scales)}")
    chosen = _checked(scales[scale], ("seeds", "note", *_SETTINGS), f"{where}: scales.{scale}")
    numbers = _checked_seeds(seeds or chosen.get("seeds") or top.get("seeds") or [0], where)
    rows, columns = (_axis(top.get(key), f"{where}: {key}", scales) for key in ("rows", "columns"))
    published = _by_cell(top, "published", rows, columns, where)
    own = {
        place: _entry({"name": ", ".join(place), **_checked(settings, _OWN, where)}, where, scales)
        for place, settings in _by_cell(top, "cells", rows, columns, where).items()
    }
    cells = []
    for row, column in itertools.product(rows, columns):
        entries = [*columns[column], *rows[row], own.get((row, column), {})]
        layers = [top, chosen, *_layers(entries, scale), {"fit": fit, "evaluate": evaluate}]
        cells.append(_cell(row, column, layers, str(published.get((row, column), "")), where))
    notes = [text for text in (top.get("note"), chosen.get("note")) if text]
    return Table(
        file.stem,
        str(top.get("title") or file.stem),
        str(top.get("source") or ""),
        " ".join(str(note).strip() for note in notes),
        scale,
        numbers,
        tuple(rows),
        tuple(columns),
        tuple(cells),
    )


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: not valid YAML: {error}") from error


def _checked_seeds(seeds: Sequence[Any], where: str) -> tuple[int, ...]:
    if not all(isinstance(n, int) and n >= 0 for n in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"{where}: seeds: {seeds}: different numbers from 0 on are expected")
    return tuple(seeds)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Flags, later ones over earlier ones; a flag replaces the options of its own value, such as of a class.

    Sorted by name, so that a class comes before its options.
    """
    found: dict[str, Any] = {}
    for layer in layers:
        for name in layer:
            found = {k: v for k, v in found.items() if not k.startswith(f"{name}.")}
        found |= layer
    return dict(sorted(found.items()))


def _cell(row: str, column: str, layers: Sequence[Mapping[str, Any]], published: str, where: str) -> Cell:
    fit, evaluate = (merged(*(layer.get(key) or {} for layer in layers)) for key in ("fit", "evaluate"))
    metric, best = (
        next((layer[key] for layer in reversed(layers) if layer.get(key)), None) for key in ("metric", "best")
    )
    for key, value, example in (
        ("fit.config", fit.get("config"), "digits/quick"),
        ("metric", metric, "bits_per_dim"),
    ):
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: {row}, {column}: {key}: is missing; {example}, for example")
    best = best or "lowest"
    if best not in _BEST:
        raise ConfigurationError(f"{where}: best: {best!r}; {nearest(str(best), _BEST)}")
    return Cell(row, column, fit, evaluate, str(metric), best, published)


def _layers(entry: Sequence[Mapping[str, Any]], scale: str) -> list[Mapping[str, Any]]:
    """The settings of entries, each followed by what the scale adds."""
    return [layer for part in entry for layer in (part, (part.get("scales") or {}).get(scale) or {})]


def _axis(content: Any, where: str, scales: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows or columns by name. A list of lists is the product of these lists."""
    if not isinstance(content, list) or not content:
        raise ConfigurationError(f"{where}: a list of entries with names is expected, got {content!r:.60}")
    nested = [isinstance(part, list) for part in content]
    if any(nested) and not all(nested):
        raise ConfigurationError(f"{where}: either entries or lists of entries are expected, got both")
    found: dict[str, list[Mapping[str, Any]]] = {}
    for combination in itertools.product(*(content if any(nested) else [content])):
        entries = [_entry(entry, where, scales) for entry in combination]
        name = ", ".join(str(entry["name"]) for entry in entries)
        if name in found:
            raise ConfigurationError(f"{where}: {name!r} is there twice")
        found[name] = entries
    return found


def _entry(content: Any, where: str, scales: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = _checked(content, ("name", "scales", *_SETTINGS), where)
    if entry.get("name") in (None, ""):
        raise ConfigurationError(f"{where}: {content!r:.60}: a name is missing")
    for scale, settings in (entry.get("scales") or {}).items():
        place = f"{where}: {entry['name']}: scales.{scale}"
        if scale not in scales:
            raise ConfigurationError(f"{place}: the table has no such scale; {nearest(scale, scales)}")
        _checked(settings, _SETTINGS, place)
    return entry


def _by_cell(
    top: Mapping[str, Any], key: str, rows: Mapping[str, Any], columns: Mapping[str, Any], where: str
) -> dict[tuple[str, str], Any]:
    """What a key of the table has for some cells, by row and column."""
    return {
        (row, column): value
        for row, values in _checked(top.get(key) or {}, rows, f"{where}: {key}").items()
        for column, value in _checked(values, columns, f"{where}: {key}: {row}").items()
    }


def _checked(content: Any, known: Sequence[str] | Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A mapping whose keys are known, and whose flags are mappings."""
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where}: keys and values are expected, got {content!r:.60}")
    found = {str(key): value for key, value in content.items()}
    for key, value in found.items():
        if key not in known:
            raise ConfigurationError(f"{where}: {key}: is not a key there; {nearest(key, known)}")
        if key in ("fit", "evaluate") and not isinstance(value or {}, dict):
            raise ConfigurationError(f"{where}: {key}: flags with values are expected, got {value!r:.60}")
    return found
