"""Labels of data: what is a label, and how many classes there are."""

import numpy as np
import pytest
import torch

from scorelight import ConfigurationError
from scorelight.data.labels import as_labels, count_classes


@pytest.mark.parametrize("given", [[2, 0, 1], np.array([2, 0, 1], np.uint8), np.array([2, 0, 1], np.int64)])
def test_whole_numbers_are_labels(given):
    found = as_labels("a.npz", given, 3)
    assert found.dtype == torch.int64 and found.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 1], r"shape \(2,\).*3 whole numbers"),
        ([[0], [1], [2]], r"shape \(3, 1\)"),
        ([0, 1, 2.0], "type float64"),
        ([0, 1, float("nan")], "type float64"),
        ([0, 1, True], "type bool"),
        ([False, True, True], "type bool"),
        (["0", "1", "2"], "type <U1"),
        ([0, 1, None], "type object"),
        ([0, 1, 10**30], "type object"),
        ([0, 1, -1], "a label is -1"),
        ([0, 1, 10**9], "a label is 1000000000; number the classes from 0"),
        ([0, 1, 2**64 - 1], "3 whole numbers"),
    ],
)
def test_anything_else_is_none(given, message):
    with pytest.raises(ConfigurationError, match=f"a.npz: .*{message}"):
        as_labels("a.npz", given, 3)


def test_classes_are_counted_and_a_missing_one_is_named():
    assert count_classes(None, "a") is None
    assert count_classes(torch.tensor([2, 0, 1, 1]), "a") == 3
    with pytest.raises(ConfigurationError, match="a: labels are from 1 to 3, and no image has label 0"):
        count_classes(torch.tensor([1, 2, 3]), "a")
    with pytest.raises(ConfigurationError, match="no image has label 1"):
        count_classes(torch.tensor([0, 2]), "a")
