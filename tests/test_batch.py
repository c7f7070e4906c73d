"""What data loaders may return."""

import pytest
import torch

from scorelight import ConfigurationError
from scorelight.batch import Batch, as_batch

X, Y = torch.zeros(3, 2), torch.arange(3)


@pytest.mark.parametrize(
    ("batch", "cond"),
    [
        (X, {}),
        ([X], {}),
        ((X, Y), {"label": Y}),
        ([X, {"angle": Y}], {"angle": Y}),
        (Batch(X, {"label": Y}, Y), {"label": Y}),
    ],
)
def test_tensors_pairs_and_batches_are_understood(batch, cond):
    found = as_batch(batch)
    assert found.x0 is X and found.cond.keys() == cond.keys()
    assert all(found.cond[name] is value for name, value in cond.items())


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ({"image": X}, "a dict"),
        ("words", "a str"),
        ([], "a list"),
        (None, "a NoneType"),
    ],
)
def test_anything_else_is_refused_by_its_kind(batch, named):
    with pytest.raises(ConfigurationError, match=f"starts with {named}; return a tensor x0"):
        as_batch(batch)
