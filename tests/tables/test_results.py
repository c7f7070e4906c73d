"""Means, standard errors, the best of a column, and the table in three formats."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import stats
from support.tables import Inputs, TableFolder, first_number, made_up

from scorelight.errors import ConfigurationError
from scorelight.tables.pieces import plan_pieces
from scorelight.tables.report import as_json, as_latex, as_markdown
from scorelight.tables.results import collect

VALUES = {"A": [3.0, 3.2, 3.1], "B": [3.05, 3.18, 3.2], "C": [7.0, 7.4, 7.3]}


@pytest.fixture
def collected(tmp_path):
    def collected(**options):
        return TableFolder(tmp_path).collect(VALUES, {"B": "3.17"}, **options)

    return collected


def test_means_errors_and_paired_tests_are_scipys(collected):
    result = collected()
    for row, values in VALUES.items():
        cell = result.cells[row, "10"]
        assert cell.mean == pytest.approx(np.mean(values))
        assert cell.standard_error == pytest.approx(stats.sem(values))
        assert cell.is_best == (row == "A")
        if row != "A":
            assert cell.p_value == pytest.approx(stats.ttest_rel(values, VALUES["A"]).pvalue)
    assert math.isnan(result.cells["A", "20"].mean) and not result.is_complete


def test_the_highest_can_be_the_best_or_none(collected):
    assert collected(best="highest").cells["C", "10"].is_best
    assert not any(cell.is_best for cell in collected(best="none").cells.values())


def test_markdown_says_what_is_best_what_is_level_and_what_is_missing(collected):
    text = as_markdown(collected(fail=[("C", "20", 1)]))
    lines = text.splitlines()
    assert lines[0] == "# A title"
    assert "| A | **3.100 ± 0.058** | — |" in lines
    assert "| B | 3.143 ± 0.047† [3.17] | — [3.17] |" in lines
    assert "| C | 7.23 ± 0.12 | failed |" in lines
    assert "Failed: C, 20, seed 1: reason" in lines
    assert "Means over 3 seeds ± standard error; scale: mini." in text
    assert "what the paper states (A paper)" in text
    partial = as_markdown(collected(fail=[]))
    assert "of 3 seeds" not in partial


def test_a_cell_with_some_of_its_seeds_says_so_and_is_not_compared(tmp_path, collected):
    result = collected(done=2)
    assert not any(cell.is_best for cell in result.cells.values())
    assert "| A | 3.10 ± 0.10, 2 of 3 seeds | — |" in as_markdown(result)


def test_latex_has_a_line_for_each_row_and_no_sign_that_is_not_ascii(collected):
    text = as_latex(collected())
    assert text.isascii()
    assert "A & \\textbf{3.100 $\\pm$ 0.058} & --- \\\\" in text.splitlines()
    assert text.count("\\\\") == 4


def test_json_has_the_values_of_each_seed(collected):
    found = as_json(collected())
    cell = next(c for c in found["cells"] if (c["row"], c["column"]) == ("A", "10"))
    assert cell["values"] == {"0": 3.0, "1": 3.2, "2": 3.1}
    assert json.loads(json.dumps(found)) == found


def test_a_number_that_is_not_among_the_results_is_an_error(tmp_path):
    TableFolder(tmp_path).collect(VALUES)
    table = made_up(tuple(VALUES), ("10",), 3, {})
    wrong = dataclasses.replace(table, cells=tuple(dataclasses.replace(c, metric="fid") for c in table.cells))
    with pytest.raises(ConfigurationError, match="metric: 'fid' is not among the results"):
        collect(wrong, plan_pieces(table, Inputs()), tmp_path)


@pytest.mark.parametrize(
    ("text", "number"),
    [("≤ 3.75", 3.75), ("3.24 ± 0.02", 3.24), ("13", 13), ("–", None), ("unstable", None)],
)
def test_the_first_number_of_what_a_paper_states(text, number):
    assert first_number(text) == number
