"""Which labels are classes, and what dropped conditions are."""

import pytest
import torch

from scorelight import ConfigurationError
from scorelight.conditions import NO_CLASS, check_labels, class_rows, drop_conditions

X = torch.zeros(4, 2)
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
WRONG = {
    "as many as there are classes": (torch.tensor([0, 1, 2, 3]), "label 3 is no class .* num_classes=3"),
    "below zero": (torch.tensor([0, 1, -1, 2]), "label -1 is no class"),
    "of no class there is": (torch.tensor([10**9, 1, 0, 2]), "label 1000000000 is no class"),
    "floating-point": (torch.tensor([0.0, 1, 2, 2]), "type torch.float32"),
    "not a number": (torch.full((4,), torch.nan), "type torch.float32"),
    "true and false": (torch.ones(4, dtype=torch.bool), "type torch.bool"),
    "complex": (torch.ones(4, dtype=torch.complex64), "type torch.complex64"),
    "in a column": (torch.tensor([[0], [1], [2], [2]]), r"shape \(4, 1\)"),
    "too few": (torch.tensor([0, 1]), r"shape \(2,\)"),
    "one-hot": (torch.eye(4, dtype=torch.long), r"shape \(4, 4\)"),
    "words": (["a", "b", "c", "d"], "no tensor of numbers"),
}


@pytest.mark.parametrize("dtype", INTEGERS)
def test_classes_are_their_own_rows_in_every_integer_type(dtype):
    label = torch.tensor([2, 0, 1, 2], dtype=dtype)
    assert class_rows(label, 3, X).tolist() == check_labels(label, 3, "label").tolist() == [2, 0, 1, 2]
    assert class_rows(label, 3, X).dtype == torch.int64


@pytest.mark.parametrize("label", [1, torch.tensor(1), [1, 1, 1, 1]])
def test_one_class_for_all_and_a_list_are_labels(label):
    assert class_rows(label, 3, X).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("which", WRONG)
def test_what_is_no_class_is_refused(which):
    label, message = WRONG[which]
    with pytest.raises(ConfigurationError, match=message):
        class_rows(label, 3, X)


@pytest.mark.parametrize(
    "which", sorted(WRONG.keys() - {"too few"})
)  # of data this check knows no other number
def test_data_without_classes_are_refused_by_name(which):
    label, message = WRONG[which]
    with pytest.raises(ConfigurationError, match=f"the training set: label.*{message.removeprefix('label')}"):
        check_labels(label, 3, "the training set: label")


def test_no_class_is_the_last_row_and_is_none_of_the_labels_of_data():
    label = torch.tensor([0, NO_CLASS, 2, NO_CLASS])
    assert class_rows(label, 3, X).tolist() == [0, 3, 2, 3]
    with pytest.raises(ConfigurationError, match="is no class"):
        check_labels(label, 3, "label")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_type_are_dropped(dtype):
    drop = torch.tensor([True, False, False, True])
    found = drop_conditions({"label": torch.tensor([0, 1, 2, 0], dtype=dtype)}, drop)["label"]
    assert found.tolist() == [NO_CLASS, 1, 2, NO_CLASS]


def test_one_label_for_all_is_dropped_for_some_and_none_stays_none():
    found = drop_conditions({"label": 2, "image": None}, torch.tensor([True, False]))
    assert found["label"].tolist() == [NO_CLASS, 2] and found["image"] is None


def test_dropping_hides_no_label_that_is_no_number_of_a_class():
    drop = torch.tensor([True, False, True, False])
    for label in (torch.ones(4), torch.ones(4, dtype=torch.bool)):
        with pytest.raises(ConfigurationError, match="one whole number"):
            class_rows(drop_conditions({"label": label}, drop)["label"], 3, X)
