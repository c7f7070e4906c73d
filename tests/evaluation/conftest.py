"""What the tests of evaluation have in common."""

import pytest
from support.contexts import one_process

from scorelight import DDIM, UNet


@pytest.fixture
def context():
    return one_process()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Statistics of real data are not kept from one test to the next."""
    monkeypatch.setenv("SCORELIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def digits(make_module):
    """A small random network for digits."""
    return make_module(network=UNet((1, 8, 8), 8, (1, 1), 1, ()), sampler=DDIM(4))
