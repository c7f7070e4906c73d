"""The glossary names what exists."""

import re
from pathlib import Path

import pytest

import scorelight
from scorelight import (
    conditions,
    data,
    denoisers,
    evaluation,
    likelihood,
    metrics,
    objectives,
    samplers,
    storage,
    training,
)
from scorelight.storage import checkpoint, component, identity, lock, locked_folder, shards, specs
from scorelight.storage import trust as trusted
from scorelight.training import checkpointing, numerics_monitor, shutdown

GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"
HOMES = [
    scorelight,
    data,
    denoisers,
    evaluation,
    likelihood,
    metrics,
    objectives,
    samplers,
    storage,
    training,
]
HOMES += [conditions, identity, lock, locked_folder, specs, trusted]
HOMES += [checkpoint, component, shards, checkpointing, numerics_monitor, shutdown, objectives.base]


def named():
    """What stands in backticks and is the name of a class or a function of ours."""
    for cell in re.findall(r"`([^`]+)`", GLOSSARY.read_text()):
        if re.fullmatch(r"[A-Z]\w+(\.\w+)?", cell):
            yield cell


@pytest.mark.skipif(not GLOSSARY.exists(), reason="an installed package has no docs")
def test_every_class_in_the_glossary_exists():
    names = set(named())
    assert len(names) > 80
    missing = []
    for name in names:
        owner, _, attribute = name.partition(".")
        home = next((home for home in HOMES if hasattr(home, owner)), None)
        known = home is not None and (not attribute or has(getattr(home, owner), attribute))
        missing += [] if known else [name]
    assert not missing


def has(owner, attribute):
    """Whether instances have the attribute: of the class, or an argument that is kept under its name."""
    import inspect

    return hasattr(owner, attribute) or attribute in inspect.signature(owner.__init__).parameters
