"""A table as a file: what its cells are, and what is wrong with it."""

import pytest
import yaml

from scorelight.errors import ConfigurationError
from scorelight.tables.spec import merged, read_table

TABLE = {
    "metric": "frechet_distance",
    "evaluate": {"metrics": ["FrechetDistance"], "num_samples": 9},
    "scales": {
        "mini": {"fit": {"config": "digits/quick"}, "seeds": [3, 1]},
        "full": {"fit": {"config": "cifar10/ddpm"}, "evaluate": {"num_samples": 50_000}},
    },
    "rows": [
        {"name": "few", "evaluate": {"sampler.num_steps": 5}},
        {"name": "many", "evaluate": {"sampler.num_steps": 9}, "scales": {"full": {"best": "none"}}},
    ],
    "columns": [
        {"name": "DDIM", "evaluate": {"sampler": "DDIM", "sampler.eta": 1.0}},
        {"name": "Heun", "evaluate": {"sampler": "Heun"}, "metric": "kernel_distance"},
    ],
    "published": {"few": {"DDIM": 3.17}, "many": {"DDIM": "≤ 3.75"}},
}


@pytest.fixture
def read(tmp_path):
    def read(content=TABLE, scale="mini", **options):
        file = tmp_path / "made_up.yaml"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return read_table(file, scale, **options)

    return read


def test_cells_have_the_settings_of_table_scale_column_and_row(read):
    table = read()
    assert (table.name, table.rows, table.columns) == ("made_up", ("few", "many"), ("DDIM", "Heun"))
    assert table.seeds == (3, 1)
    cell = table.cell("few", "DDIM")
    assert cell.fit == {"config": "digits/quick"}
    assert cell.evaluate == {
        "metrics": ["FrechetDistance"],
        "num_samples": 9,
        "sampler": "DDIM",
        "sampler.eta": 1.0,
        "sampler.num_steps": 5,
    }
    assert (cell.metric, cell.best, cell.published) == ("frechet_distance", "lowest", "3.17")
    assert table.cell("many", "DDIM").published == "≤ 3.75"
    other = table.cell("many", "Heun")
    assert (other.metric, other.published) == ("kernel_distance", "")
    assert other.evaluate["sampler"] == "Heun" and other.evaluate["sampler.num_steps"] == 9


def test_a_scale_changes_the_table_and_its_entries(read):
    table = read(scale="full")
    assert table.seeds == (0,)
    assert {cell.evaluate["num_samples"] for cell in table.cells} == {50_000}
    assert [cell.best for cell in table.cells] == ["lowest", "lowest", "none", "none"]


def test_flags_of_the_command_line_come_last(read):
    options = {"seeds": [7], "fit": {"data.root": "/data"}, "evaluate": {"sampler.num_steps": 1}}
    table = read(**options)
    assert table.seeds == (7,)
    assert {cell.fit["data.root"] for cell in table.cells} == {"/data"}
    assert {cell.evaluate["sampler.num_steps"] for cell in table.cells} == {1}


def test_a_cell_can_have_settings_of_its_own(read):
    own = {"evaluate": {"sampler.eta": 0.5}, "metric": "precision", "scales": {"full": {"best": "highest"}}}
    content = TABLE | {"cells": {"few": {"DDIM": own}}}
    table, full = read(content), read(content, "full")
    assert table.cell("few", "DDIM").evaluate["sampler.eta"] == 0.5
    assert (table.cell("few", "DDIM").metric, table.cell("few", "DDIM").best) == ("precision", "lowest")
    assert table.cell("many", "DDIM").evaluate["sampler.eta"] == 1.0
    assert full.cell("few", "DDIM").best == "highest"


def test_lists_of_lists_are_products(read):
    lists = [
        [{"name": "a", "fit": {"x": 1, "y": 1}}, {"name": "b", "fit": {"x": 2}}],
        [{"name": "c", "fit": {"y": 3}}, {"name": "d", "fit": {"y": 4}}],
    ]
    table = read(TABLE | {"rows": lists, "published": {}})
    assert table.rows == ("a, c", "a, d", "b, c", "b, d")
    assert [(c.fit["x"], c.fit["y"]) for c in table.cells[::2]] == [(1, 3), (1, 4), (2, 3), (2, 4)]


def test_another_class_comes_without_the_options_of_the_one_before():
    first = {"sampler": "DDIM", "sampler.eta": 1.0, "sampler.num_steps": 5, "samples": 3}
    assert merged(first, {"sampler.eta": 0.5})["sampler.num_steps"] == 5
    assert merged(first, {"sampler": "Heun", "sampler.order": 2}) == {
        "sampler": "Heun",
        "sampler.order": 2,
        "samples": 3,
    }
    assert list(merged({"a.b": 1}, {"a.b.c": 1})) == ["a.b", "a.b.c"]


def changed(**changes):
    return TABLE | changes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rows: [", "not valid YAML"),
        ("- a", "keys and values are expected"),
        (changed(row=[]), "row: is not a key there; did you mean 'rows'"),
        (changed(rows=[]), "rows: a list of entries with names is expected"),
        (changed(rows=[{"fit": {}}]), "a name is missing"),
        (changed(rows=[{"name": "few"}, {"name": "few"}]), "'few' is there twice"),
        (changed(rows=[[{"name": "few"}], {"name": "few"}]), "either entries or lists of entries"),
        (changed(rows=[{"name": "few", "fits": {}}]), "fits: is not a key there; did you mean 'fit'"),
        (changed(rows=[{"name": "few", "fit": ["a"]}]), "fit: flags with values are expected"),
        (changed(rows=[{"name": "few", "scales": {"midi": {}}}]), "no such scale; did you mean 'mini'"),
        (changed(published={"fewer": {}}), "published: fewer: is not a key there; did you mean 'few'"),
        (changed(published={"few": {"DDPM": 1}}), "published: few: DDPM: is not a key there"),
        (changed(cells={"few": {"DDPM": {}}}), "cells: few: DDPM: is not a key there"),
        (changed(cells={"few": {"DDIM": {"fits": {}}}}), "fits: is not a key there; did you mean 'fit'"),
        (changed(metric=None), "few, DDIM: metric: is missing"),
        (changed(best="smallest"), "best: 'smallest'"),
        (changed(scales={"mini": {}, "full": {}}), "fit.config: is missing"),
        (changed(scales={"full": {}}), "has no scale 'mini'"),
        (changed(scales={"mini": {"seeds": [1, 1]}}), "different numbers from 0 on"),
    ],
)
def test_mistakes_are_named(content, message, read):
    with pytest.raises(ConfigurationError) as error:
        read(content)
    assert message in str(error.value)
