"""Tables without configurations, code and data."""

import json
import re

from scorelight.tables.pieces import plan_pieces
from scorelight.tables.results import collect
from scorelight.tables.spec import Cell, Table
from scorelight.tables.store import PieceFolder


class Inputs:
    """Arguments are all that a result depends on, and one version of the code."""

    def __init__(self, code="1"):
        self.code = code

    def fit(self, args):
        return {"args": sorted(args), "code": self.code}

    def evaluate(self, args, fit):
        return {"args": sorted(args)}


class TableFolder:
    """A store with made-up results."""

    def __init__(self, path):
        self.path = path

    def collect(self, values, published=None, best="lowest", columns=("10", "20"), done=None, fail=()):
        """A table with a row for each key; the values of its seeds are in the first column."""
        number = len(next(iter(values.values())))
        table = made_up(tuple(values), columns, number, published or {}, best)
        plan = plan_pieces(table, Inputs())
        for (row, column, seed), piece in plan.of_cells.items():
            folder = PieceFolder.of(self.path, piece)
            folder.prepare(piece)
            if (row, column, seed) in fail:
                folder.fail("reason")
            elif column == columns[0] and seed < (number if done is None else done):
                content = {"results": {"fd": {"value": values[row][seed]}}, "provenance": {}}
                (folder.path / "result.json").write_text(json.dumps(content))
        return collect(table, plan, self.path)


def made_up(rows, columns, seeds, published, best="lowest"):
    """A table whose rows are trainings and whose columns are evaluations."""
    cells = tuple(
        Cell(row, column, {"config": "c", "row": row}, {"n": column}, "fd", best, published.get(row, ""))
        for row in rows
        for column in columns
    )
    return Table("t", "A title", "A paper", "", "mini", tuple(range(seeds)), rows, columns, cells)


def first_number(text: str) -> float | None:
    """The first number in what a paper states, such as 3.75 of "≤ 3.75"; None if there is none."""
    found = re.search(r"-?\d+(\.\d+)?", text)
    return float(found[0]) if found else None
