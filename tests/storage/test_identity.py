"""The key of a result differs wherever what made it does, and is the same in another process."""

import functools
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scorelight import DDIM, MLP, VPSDE, ClippedDenoiser, Epsilon, Euler, NetworkDenoiser, PredictorCorrector
from scorelight.storage.component import Component
from scorelight.storage.identity import code_of, describe

SAMPLER = """
from scorelight import Sampler
from {helper} import step

class Mine(Sampler):
    strength = 1.0
    def trajectory(self, predict, x, levels, noise):
        for level in levels[1:]:
            x = step(x) * self.strength
            yield x
"""
HELPER = "def step(x):\n    return 0.5 * x\n"


class Any_(Component):
    """A component that takes anything."""

    def __init__(self, value=None):
        self.value = value


class Plain:
    """No component."""

    def __init__(self, value):
        self.value = value


def key(value):
    return json.dumps(describe(value), sort_keys=True)


def make(scale):
    return lambda x: scale * x


def closure_class(scale):
    class Enclosing(Component):
        def run(self, x):
            return scale * x

    return Enclosing


DIFFERENT = [
    (1, 1.5),
    (True, "True"),
    (None, "None"),
    (DDIM(3), DDIM(4)),
    (DDIM(3), Euler(3)),
    (PredictorCorrector(predictor=DDIM(3)), PredictorCorrector(predictor=DDIM(3, eta=1.0))),
    (torch.zeros(2), torch.zeros(3)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)),
    ([torch.zeros(2)], [torch.ones(2)]),
    ({"a": torch.zeros(2)}, {"a": torch.ones(2)}),
    (np.zeros(2), np.ones(2)),
    (functools.partial(DDIM, eta=0.0), functools.partial(DDIM, eta=1.0)),
    (functools.partial(make, torch.zeros(1)), functools.partial(make, torch.ones(1))),
    (make(1.0), make(2.0)),
    (make(torch.zeros(1)), make(torch.ones(1))),
    (lambda x: x + 1, lambda x: x + 2),
    (lambda x, k=1: x + k, lambda x, k=2: x + k),
    (lambda x: [y + 1 for y in x], lambda x: [y + 2 for y in x]),
    (torch.relu, torch.tanh),
    (math.sin, math.cos),
    (torch.float32, torch.float64),
    (Plain(1), Plain(2)),
    (Plain(Plain([torch.zeros(1)])), Plain(Plain([torch.ones(1)]))),
    (Plain(1).__init__, Plain(2).__init__),
    ({1, 2}, {1, 3}),
    (b"a", b"b"),
    (1j, 2j),
    (Path("a"), Path("b")),
    (closure_class(1), closure_class(2)),
    (nn.Linear(2, 2), nn.Linear(2, 2)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=[str(i) for i in range(len(DIFFERENT))])
def test_what_differs_has_another_key(one, other):
    assert key(one) != key(other) and key(Any_(one)) != key(Any_(other))
    assert key(one) == key(one) and key(Any_(one)) == key(Any_(one))


def test_weights_of_any_component_count_once():
    torch.manual_seed(0)
    denoisers = [NetworkDenoiser(MLP((2,), 8, 1), VPSDE(), Epsilon()) for _ in range(2)]
    assert key(denoisers[0]) != key(denoisers[1])
    assert key(ClippedDenoiser(denoisers[0])) != key(ClippedDenoiser(denoisers[1]))
    assert key(ClippedDenoiser(denoisers[0])).count('"weights"') == 1
    before = key(denoisers[0])
    denoisers[0].train()
    assert key(denoisers[0]) == before
    with torch.no_grad():
        next(denoisers[0].parameters())[0] += 1e-6
    assert key(denoisers[0]) != before


def test_objects_that_contain_themselves():
    circle, ring = Plain(None), [1]
    circle.value = circle
    ring.append(ring)
    assert key(circle) != key(Plain(1)) and key(ring) != key([1])


def test_classes_of_scorelight_are_known_by_its_version_and_have_no_code_of_their_own():
    assert code_of(DDIM) == code_of(nn.Linear) == code_of(dict) == ""
    assert describe(DDIM(3)) == {"class_path": "scorelight.DDIM", "init_args": {"num_steps": 3}}


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes a module and its helper, and imports them anew."""
    monkeypatch.syspath_prepend(tmp_path)
    number = abs(hash(request.node.name)) % 10**6
    names = f"mine_{number}", f"helper_{number}"

    def write(sampler=SAMPLER, helper=HELPER):
        for name, text in zip(names, (sampler, helper), strict=True):
            (tmp_path / f"{name}.py").write_text(text.format(helper=names[1]))
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(names[0])

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "edit",
    [
        dict(sampler=SAMPLER.replace("1.0", "2.0")),
        dict(sampler=SAMPLER.replace("step(x) *", "step(x) +")),
        dict(helper=HELPER.replace("0.5", "0.6")),
    ],
    ids=["an attribute", "the code", "a module that it imports"],
)
def test_an_edited_class_of_somebodys_own_has_another_key(module, edit):
    first = key(module().Mine(5))
    assert key(module().Mine(5)) == first
    assert key(module(**edit).Mine(5)) != first


def test_a_class_without_a_file_is_known_by_its_compiled_code():
    def defined(text):
        space = {"__name__": "a_notebook"}
        exec(text, space)
        return space["Mine"]

    text = "from scorelight import Sampler\nclass Mine(Sampler):\n    k = 1\n"
    text += "    def trajectory(self, *a): return {}"
    keys = {key(defined(text.replace("k = 1", k).format(v))(5)) for k in ("k = 1", "k = 2") for v in "12"}
    assert len(keys) == 4
    assert key(defined(text.format("1"))(5)) == key(defined(text.format("1"))(5))


@pytest.mark.slow
def test_the_key_is_the_same_in_another_process():
    script = """
import json, sys, functools, torch
from scorelight import DDIM
from scorelight.storage.identity import describe
class Plain: pass
plain = Plain(); plain.values = {"a", "b", "c", "d"}
f = lambda x: (x in {"a", "b", "c", "d"}, [y for y in x])
print(json.dumps(describe([DDIM(3), plain, f, functools.partial(f, torch.ones(2))]), sort_keys=True))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
