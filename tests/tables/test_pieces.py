"""Which pieces of work a table has: what cells share is there once, under a key of all that it depends on."""

import dataclasses

import pytest
from support.tables import Inputs

from scorelight.tables.pieces import as_flags, plan_pieces
from scorelight.tables.spec import Cell, Table


def cell(row, column, fit=None, evaluate=None):
    settings = {"config": "digits/quick", **(fit or {})}
    return Cell(row, column, settings, evaluate or {}, "frechet_distance", "lowest", "")


def made(cells, seeds=(0,)):
    rows, columns = (tuple(dict.fromkeys(getattr(c, axis) for c in cells)) for axis in ("row", "column"))
    return Table("t", "", "", "", "mini", seeds, rows, columns, tuple(cells))


CELLS = [cell(str(width), str(n), {"width": width}, {"n": n}) for width in (8, 16) for n in (1, 2, 3)]


def test_a_training_is_shared_and_comes_before_what_needs_it():
    plan = plan_pieces(made(CELLS, (0, 1)), Inputs())
    kinds = [piece.kind for piece in plan.pieces]
    assert kinds == ["fit"] * 4 + ["evaluate"] * 12
    assert len({piece.key for piece in plan.pieces}) == 16
    piece = plan.of_cells["16", "3", 1]
    assert piece.args == ("--n=3", "--seeds=[1]")
    assert piece.needs.args == ("--config=digits/quick", "--width=16", "--seed_everything=1")


def test_cells_with_the_same_evaluation_share_it():
    plan = plan_pieces(made([cell("a", "x"), cell("a", "y")]), Inputs())
    assert [piece.kind for piece in plan.pieces] == ["fit", "evaluate"]


def keys(table, code="1"):
    return {piece.key for piece in plan_pieces(table, Inputs(code)).pieces}


def test_order_names_and_seeds_change_no_key():
    before = keys(made(CELLS))
    renamed = [dataclasses.replace(c, row=f"row {c.row}", published="3") for c in reversed(CELLS)]
    assert keys(dataclasses.replace(made(renamed), name="other", title="other")) == before
    assert keys(made(CELLS, (1, 0))) > before


@pytest.mark.parametrize("change", [{"width": 9}, {"config": "digits/edm"}])
def test_settings_change_the_keys_of_the_training_and_of_its_evaluations(change):
    other = dataclasses.replace(CELLS[0], fit={**CELLS[0].fit, **change})
    assert len(keys(made([other])) & keys(made([CELLS[0]]))) == 0


def test_code_changes_all_keys():
    assert not keys(made(CELLS)) & keys(made(CELLS), code="2")


def test_flags_are_written_as_the_parser_reads_them():
    values = {"a": 1.5, "b": None, "c": [1, "x"], "d": "DDIM", "e": True, "f": {"k": 1}}
    assert as_flags(values) == ("--a=1.5", "--b=null", '--c=[1, "x"]', "--d=DDIM", "--e=true", '--f={"k": 1}')
