import copy
import functools
import importlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import scorelight
from scorelight import (
    DDIM,
    EDM,
    MLP,
    VESDE,
    VPSDE,
    DenoisingScoreMatching,
    LogSNRGrid,
    Score,
    SigmaSquaredWeighting,
    UNet,
)
from scorelight.storage.component import Component, class_path, spec


class Wrapped(Component):
    def __init__(self, inner, **options):
        self.inner, self.options = inner, options


def build(entry):
    # what a reader of the checkpoint does: import the class, build its arguments, call it
    if not isinstance(entry, dict) or "class_path" not in entry:
        return entry
    module, name = entry["class_path"].rsplit(".", 1)
    arguments = {key: build(value) for key, value in entry.get("init_args", {}).items()}
    return getattr(importlib.import_module(module), name)(**arguments)


PUBLIC = [name for name in scorelight.__all__ if isinstance(getattr(scorelight, name), type)]
EXAMPLES = {
    "no arguments": VPSDE(),
    "positional": VESDE(0.02, 30.0),
    "nested": DDIM(num_steps=7, grid=LogSNRGrid(), eta=0.5),
    "nested modules": DenoisingScoreMatching(Score(), SigmaSquaredWeighting()),
    "network": UNet((1, 8, 8), base_channels=8, multipliers=(1, 2), attention_stages=()),
}


def test_spec_of_nested_components_is_class_path_and_init_args():
    grid = {"class_path": "scorelight.LogSNRGrid"}
    expected = {
        "class_path": "scorelight.DDIM",
        "init_args": {"num_steps": 7, "grid": grid, "eta": 0.5},
    }
    assert spec(EXAMPLES["nested"]) == expected


def test_positional_and_keyword_arguments_are_recorded_alike():
    assert spec(VESDE(0.02, 30.0)) == spec(VESDE(sigma_max=30.0, sigma_min=0.02))


@pytest.mark.parametrize("value", EXAMPLES.values(), ids=EXAMPLES)
def test_what_is_built_from_the_spec_has_the_same_spec(value):
    rebuilt = build(spec(value))
    assert type(rebuilt) is type(value)
    assert spec(rebuilt) == spec(value)


def test_what_is_built_from_the_spec_computes_the_same():
    t = torch.linspace(0, 1, 5)
    assert torch.equal(build(spec(VESDE(0.02, 30.0))).sigma(t), VESDE(0.02, 30.0).sigma(t))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_classes_have_the_short_class_path(name):
    assert class_path(getattr(scorelight, name)) == f"scorelight.{name}"


def test_class_paths_of_other_packages_are_the_public_ones():
    assert class_path(torch.optim.Adam) == "torch.optim.Adam"


def test_record_of_a_network_holds_its_shape_as_a_list():
    shape = torch.zeros(2, 3).shape
    assert spec(MLP(shape))["init_args"]["shape"] == [2, 3]
    assert type(spec(MLP(shape))["init_args"]["shape"]) is list


def test_spec_of_a_partial_is_its_class_and_keywords():
    partial = functools.partial(torch.optim.Adam, lr=1e-3)
    assert spec(partial) == {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}}


def test_spec_of_a_class_is_its_path():
    assert spec(torch.optim.SGD) == {"class_path": "torch.optim.SGD"}


@pytest.mark.parametrize(
    "value",
    [lambda x: x, functools.partial(lambda x: x, 1), torch.zeros(2), object(), VPSDE().sigma],
    ids=["lambda", "partial of a lambda", "tensor", "object", "method"],
)
def test_what_cannot_be_stored_raises(value):
    with pytest.raises(TypeError, match="cannot be written to a checkpoint"):
        spec(value)


def test_what_cannot_be_stored_raises_inside_a_component_too():
    with pytest.raises(TypeError, match="lambda"):
        spec(Wrapped([lambda x: x]))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (Path("a/b"), "a/b"),
        ((1, (2.5, "x")), [1, [2.5, "x"]]),
        ({1: ()}, {"1": []}),
    ],
)
def test_plain_data_becomes_lists_and_dicts(value, plain):
    assert spec(value) == plain
    assert type(spec(value)) is type(plain)


@pytest.mark.parametrize("number", [np.float64(0.25), np.float32(0.25), np.int64(3), np.bool_(True)])
def test_numpy_numbers_become_python_numbers(number):
    plain = spec(EDM(sigma_data=number))["init_args"]["sigma_data"]
    assert plain == number.item()
    assert type(plain) is type(number.item())


def test_arguments_taken_by_double_star_keep_their_own_names():
    assert spec(Wrapped(1, depth=2, name="a"))["init_args"] == {"inner": 1, "depth": 2, "name": "a"}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("value", EXAMPLES.values(), ids=EXAMPLES)
def test_copies_keep_the_record(copied, value):
    assert spec(copied(value)) == spec(value)


def test_spec_can_be_loaded_with_weights_only(tmp_path):
    torch.save([spec(value) for value in EXAMPLES.values()], tmp_path / "spec.pt")
    loaded = torch.load(tmp_path / "spec.pt", weights_only=True)
    assert loaded == [spec(value) for value in EXAMPLES.values()]


def test_wrong_arguments_raise_as_for_any_class():
    with pytest.raises(TypeError, match="sigma_mini"):
        VESDE(sigma_mini=1.0)
