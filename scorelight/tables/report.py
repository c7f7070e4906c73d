"""A table as Markdown, LaTeX and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from scorelight.tables.results import CellResult, TableResult

__all__ = ["as_json", "as_latex", "as_markdown", "cell_text", "legend", "spread"]

SIGNIFICANT = 0.05


def spread(cell: CellResult) -> str:
    """Mean and standard error with matching digits, such as 12.34 ± 0.05; "" if no seed is done."""
    if not cell.values:
        return ""
    error = cell.standard_error
    if not error or not math.isfinite(error):
        return f"{cell.mean:.4g}"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{cell.mean:.{digits}f} ± {error:.{digits}f}"


def cell_text(cell: CellResult) -> str:
    """What stands in the table: the numbers, or why there are none."""
    if cell.values:
        done = "" if cell.is_complete else f", {len(cell.values)} of {len(cell.pieces)} seeds"
        return spread(cell) + ("†" * is_level(cell)) + done
    return "failed" if cell.failures else "running" if "running" in cell.states.values() else "—"


def is_level(cell: CellResult) -> bool:
    """Whether the difference to the best of the column is not significant."""
    return cell.p_value is not None and cell.p_value >= SIGNIFICANT


def legend(result: TableResult, where: str = "In brackets") -> str:
    """What the signs in the table mean, and where the numbers of the paper are."""
    table, seeds = result.table, len(result.table.seeds)
    errors = f"Means over {seeds} seeds ± standard error" if seeds > 1 else "One seed, no standard errors"
    lines = [f"{errors}; scale: {table.scale}."]
    if any(cell.is_best for cell in result.cells.values()):
        lines.append("Bold: the best of a column.")
    if any(is_level(cell) for cell in result.cells.values()):
        lines.append(f"†: not significantly different from it (paired t-test over seeds, p ≥ {SIGNIFICANT}).")
    if any(cell.cell.published for cell in result.cells.values()):
        source = f" ({table.source})" if table.source else ""
        lines.append(f"{where}: what the paper states{source}.")
    return " ".join(lines)


def as_markdown(result: TableResult) -> str:
    """The table for a README."""
    table = result.table
    lines = [f"# {table.title}", ""]
    lines += [table.note, ""] if table.note else []
    lines += [f"| | {' | '.join(map(_escaped, table.columns))} |", "| --- |" + " --- |" * len(table.columns)]
    for row in table.rows:
        cells = [_markdown_cell(result.cells[row, column]) for column in table.columns]
        lines.append(f"| {_escaped(row)} | {' | '.join(cells)} |")
    lines += ["", legend(result), *_failures(result)]
    return "\n".join([*lines, ""])


def _markdown_cell(cell: CellResult) -> str:
    text = f"**{cell_text(cell)}**" if cell.is_best else cell_text(cell)
    return _escaped(f"{text} [{cell.cell.published}]" if cell.cell.published else text)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _failures(result: TableResult) -> Iterator[str]:
    for (row, column), cell in result.cells.items():
        for seed, message in cell.failures.items():
            yield f"\nFailed: {row}, {column}, seed {seed}: {message}"


def as_latex(result: TableResult) -> str:
    """The table as a ``tabular`` of booktabs."""
    table = result.table
    lines = [
        f"% {table.title}; {table.scale}",
        f"\\begin{{tabular}}{{l{'c' * len(table.columns)}}}",
        "\\toprule",
        " & ".join(["", *map(_latex, table.columns)]) + " \\\\",
        "\\midrule",
    ]
    for row in table.rows:
        cells = [_latex_cell(result.cells[row, column]) for column in table.columns]
        lines.append(" & ".join([_latex(row), *cells]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", f"% {_latex(legend(result))}", ""]
    return "\n".join(lines)


def _latex_cell(cell: CellResult) -> str:
    text = _latex(cell_text(cell))
    text = f"\\textbf{{{text}}}" if cell.is_best else text
    return f"{text} [{_latex(cell.cell.published)}]" if cell.cell.published else text


_LATEX = {
    "\\": "\\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "†": "$^\\dagger$",
    "≤": "$\\le$",
    "≥": "$\\ge$",
    "×": "$\\times$",
    "—": "---",
    "–": "--",
    "ε": "$\\epsilon$",
    "η": "$\\eta$",
    "μ": "$\\mu$",
    "μ̃": "$\\tilde\\mu$",
    "σ": "$\\sigma$",
    "σ̂": "$\\hat\\sigma$",
    "λ": "$\\lambda$",
    "Σ": "$\\Sigma$",
    "²": "$^2$",
}


def _latex(text: str) -> str:
    """Plain text for LaTeX."""
    for pair in ("μ̃", "σ̂"):  # a letter and an accent
        text = text.replace(pair, f"\0{pair[0]}")
    text = "".join(_LATEX.get(sign, sign) for sign in text)
    return text.replace("\0$\\mu$", _LATEX["μ̃"]).replace("\0$\\sigma$", _LATEX["σ̂"])


def as_json(result: TableResult) -> dict[str, Any]:
    """All numbers, and what they were computed by."""
    table = result.table
    return {
        "table": table.name,
        "title": table.title,
        "source": table.source,
        "note": table.note,
        "scale": table.scale,
        "seeds": list(table.seeds),
        "cells": [
            {
                "row": cell.cell.row,
                "column": cell.cell.column,
                "metric": cell.cell.metric,
                "mean": cell.mean if cell.values else None,
                "standard_error": cell.standard_error,
                "values": {str(seed): value for seed, value in cell.values.items()},
                "best": cell.is_best,
                "p_value": cell.p_value,
                "published": cell.cell.published or None,
                "failures": {str(seed): text for seed, text in cell.failures.items()},
                "fit": dict(cell.cell.fit),
                "evaluate": dict(cell.cell.evaluate),
                "pieces": {
                    str(seed): [piece.needs.name if piece.needs else None, piece.name]
                    for seed, piece in cell.pieces.items()
                },
            }
            for cell in result.cells.values()
        ],
    }
