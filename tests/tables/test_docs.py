"""The example of the page on tables is a table."""

import re
from pathlib import Path

import pytest

from scorelight.cli.resolution import CommandInputs
from scorelight.tables.pieces import plan_pieces
from scorelight.tables.spec import read_table

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"


@pytest.mark.skipif(not PAGE.exists(), reason="an installed package has no docs")
def test_the_example_is_a_table_with_correct_flags(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.S)
    file = tmp_path / "example.yaml"
    file.write_text(text)
    table = read_table(file, "mini")
    assert table.rows == ("narrow, η = 0", "narrow, η = 1", "wide, η = 0", "wide, η = 1")
    assert table.cell("wide, η = 0", "50 steps").published == "4.67"
    plan = plan_pieces(table, CommandInputs())
    assert [piece.kind for piece in plan.pieces].count("fit") == 2 * 3
    assert len(plan.pieces) == 2 * 3 + 4 * 2 * 3
