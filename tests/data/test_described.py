"""Digits with what a caption can say of them."""

import pytest
import torch

from scorelight import ConfigurationError, DescribedDigitsDataModule, DigitsDataModule, ToyDataModule
from scorelight.data.access import examples_of
from scorelight.image_text import slant, stroke_width


def test_conditions_are_thirds_of_what_is_measured_by_the_bounds_of_the_training_set():
    data = DescribedDigitsDataModule(DigitsDataModule())
    train, val = (examples_of(data, split).all() for split in ("train", "val"))
    for name, measure in (("width", stroke_width), ("slant", slant)):
        for c in range(10):
            mine = train.cond["label"] == c
            values, third = measure(train.x0[mine]), train.cond[name][mine]
            bounds = [(values[third == i].max(), values[third == i + 1].min()) for i in (0, 1)]
            assert all(low < high for low, high in bounds)
            found = measure(val.x0[val.cond["label"] == c])
            of_val = val.cond[name][val.cond["label"] == c]
            assert (found[of_val == 0] < bounds[0][1]).all() and (found[of_val == 2] > bounds[1][0]).all()


def test_the_examples_are_those_of_the_other_module():
    data, described = DigitsDataModule(), DescribedDigitsDataModule(DigitsDataModule(), batch_size=7)
    mine, theirs = (examples_of(d, "val").all() for d in (described, data))
    assert torch.equal(mine.x0, theirs.x0) and torch.equal(mine.cond["label"], theirs.cond["label"])
    assert (described.batch_size, described.shape, described.class_names) == (7, data.shape, data.class_names)


@pytest.mark.parametrize("options", [{}, {"classes": True, "density": "eight_gaussians"}])
def test_other_data_are_refused(options):
    data = ToyDataModule(num_train=9, num_val=9, **options)
    with pytest.raises(ConfigurationError, match="grey images of the ten digits are needed"):
        DescribedDigitsDataModule(data)
