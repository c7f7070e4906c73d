"""Every shipped table: its flags exist, at both scales, and what its cells share is shared."""

import pytest
from support.tables import first_number

from scorelight.cli.configs import shipped_tables
from scorelight.cli.resolution import CommandInputs
from scorelight.tables.pieces import plan_pieces
from scorelight.tables.spec import read_table

TRAININGS = {
    "ddpm_1": 2,
    "ddpm_2": 6,
    "ddim_1": 1,
    "improved_ddpm_2": 6,
    "score_sde_1": 2,
    "score_sde_2": 6,
    "score_sde_3": 6,
    "likelihood_weighting": 6,
    "ncsnv2_1": 2,
    "edm_2": {"mini": 18, "full": 20},
    "fast_solvers": 1,
    "classifier_free_guidance_1": 3,
    "sliced_score_matching": 3,
}
"""Of one seed."""


@pytest.fixture
def inputs(monkeypatch):
    """Flags are parsed; the data need not be there."""
    monkeypatch.setattr(CommandInputs, "_data_of", lambda self, config: config["class_path"])
    return CommandInputs()


@pytest.mark.parametrize("name", sorted(shipped_tables()))
@pytest.mark.parametrize("scale", ["mini", "full"])
def test_its_flags_exist_and_trainings_are_shared(name, scale, inputs):
    table = read_table(shipped_tables()[name], scale, seeds=[0])
    plan = plan_pieces(table, inputs)
    expected = TRAININGS[name]
    expected = expected[scale] if isinstance(expected, dict) else expected
    assert [piece.kind for piece in plan.pieces].count("fit") == expected
    assert table.title != table.name and table.source
    for cell in table.cells:
        assert cell.published in ("", "unstable") or first_number(cell.published) is not None


@pytest.mark.parametrize("name", sorted(shipped_tables()))
def test_it_has_seeds_to_compare_and_no_limit_of_time(name):
    table = read_table(shipped_tables()[name], "mini")
    assert len(table.seeds) >= 3
    assert all(cell.fit.get("trainer.max_time", None) is None for cell in table.cells)
