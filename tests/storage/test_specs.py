"""What a file may describe, by the annotation of what is wanted."""

import enum
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from scorelight import (
    DDIM,
    EDM,
    MLP,
    VESDE,
    VPSDE,
    ConfigurationError,
    DenoisingScoreMatching,
    Energy,
    ForwardProcess,
    Sampler,
    Score,
    ScoreNetwork,
    SigmaSquaredWeighting,
)
from scorelight.denoisers.base import MakeWrapper
from scorelight.samplers.restart import Restart
from scorelight.storage.component import Component, spec
from scorelight.storage.specs import arguments_of, build, described, plain


class Colour(enum.Enum):
    RED = 1


class Base(Component):
    def __init__(self, sampler: Sampler | None = None, where: Path | str = ".") -> None:
        self.sampler, self.where = sampler, where


class PassesOn(Base):
    def __init__(self, extra: int, anything=None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra, self.anything = extra, anything


def read(value, hint):
    return described(value, hint, "key", "file.ckpt")


ACCEPTED = [
    (3, int, 3),
    (3, float, 3.0),
    ("1e-3", float, 0.001),
    (True, bool | None, True),
    (None, bool | None, None),
    ("os.system", str, "os.system"),
    ('{"class_path": "os.system"}', str | Path, '{"class_path": "os.system"}'),
    ("photos.zip", Path, Path("photos.zip")),
    ("RED", Colour, Colour.RED),
    ("small", Literal["small", "large"], "small"),
    (2, Literal[1, 2], 2),
    ([1, 2], Sequence[int], [1, 2]),
    ((1, 2), Sequence[int], [1, 2]),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, "a"], tuple[int, str], (1, "a")),
    ([1, 2], set[int], {1, 2}),
    ([[1], [2]], Iterable[Sequence[int]], [[1], [2]]),
    ({"a": [1]}, Mapping[str, list[int]], {"a": [1]}),
    ({"a": 1, "b": [None, "word"]}, Any, {"a": 1, "b": [None, "word"]}),
]


@pytest.mark.parametrize(("value", "hint", "expected"), ACCEPTED, ids=str)
def test_plain_data_are_what_the_annotation_asks_for(value, hint, expected):
    found = read(value, hint)
    assert found == expected and type(found) is type(expected)
    assert read(plain(found), hint) == expected, "what is written again is read again"


REFUSED = [
    (True, int),
    (1.5, int),
    ("3", int),
    ("1e-3; 2", float),
    (None, int),
    (1, bool),
    (1, Literal[True]),
    ("medium", Literal["small", "large"]),
    ("BLUE", Colour),
    ([1, "a"], Sequence[int]),
    ("ab", Sequence[str]),
    ({"a": "b"}, Mapping[str, int]),
    ("scorelight.VPSDE", ForwardProcess),
    ("VPSDE", ForwardProcess),
    ('{"class_path": "scorelight.VPSDE"}', ForwardProcess),
    ({}, ForwardProcess),
    (5, ForwardProcess),
    ("scorelight.MLP", Callable[[Sequence[int]], ScoreNetwork]),
    ("os.system", Callable[[str], int]),
    ('{"class_path": "os.system"}', Any),
    ("class_path: os.system", Any),
    ("os.system", Any),
    ("-", Any),
    ("os.system", str | Callable[[], None]),
    ("w" * 300, str | Callable[[], None]),
    ({"class_path": "scorelight.DDIM"}, ForwardProcess),
    ({"class_path": "scorelight.DDIM"}, float),
    ({"class_path": "scorelight.VPSDE", "init_args": {"beta": 1}}, ForwardProcess),
    ({"class_path": "scorelight.VPSDE", "init_args": {"beta_min": "os.system"}}, ForwardProcess),
    ({"class_path": "scorelight.VPSDE", "init_args": [1]}, ForwardProcess),
    ({"class_path": "scorelight.VPSDE", "other": 1}, ForwardProcess),
    ({"class_path": "scorelight.ForwardProcess"}, ForwardProcess),
    ({"class_path": "scorelight.MLP"}, ScoreNetwork),  # its shape is missing
    ({"class_path": "torch.optim.Adam", "init_args": {"params": []}}, OptimizerCallable),
    ({"class_path": "torch.optim.SGD"}, LRSchedulerCallable),
    ({"class_path": "torch.nn.Linear"}, Any),
    (torch.zeros(2), Any),
    (b"bytes", Any),
    ({"a": {3 + 0j}}, Any),
]


@pytest.mark.parametrize(("value", "hint"), REFUSED, ids=str)
def test_anything_else_is_refused_with_its_key_and_file(value, hint):
    with pytest.raises(ConfigurationError, match=r"file\.ckpt"):
        read(value, hint)


def test_a_word_is_refused_where_a_file_of_that_name_could_be_read_instead(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hint = str | Sampler
    assert read("auto", hint) == "auto"
    (tmp_path / "auto").write_text("class_path: os.system")
    with pytest.raises(ConfigurationError, match="'auto'"):
        read("auto", hint)
    monkeypatch.chdir("/")
    with pytest.raises(ConfigurationError, match="'auto'"):
        described("auto", hint, "key", tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "component",
    [
        VESDE(0.02, 30.0),
        DDIM(num_steps=7, eta=0.5),
        Restart(sampler=DDIM(num_steps=3)),
        DenoisingScoreMatching(Score(), SigmaSquaredWeighting()),
        Energy((2,), functools.partial(MLP, width=8)),
        EDM(sigma_data=0.3),
    ],
    ids=lambda component: type(component).__name__,
)
def test_a_component_is_built_again(component):
    entry = spec(component)
    assert spec(build(read(entry, Component))) == entry


def test_a_callable_becomes_a_partial_of_its_class():
    adam = read({"class_path": "torch.optim.Adam", "init_args": {"lr": 0.5}}, OptimizerCallable)
    optimizer = build(adam)([torch.zeros(1, requires_grad=True)])
    assert type(optimizer) is torch.optim.Adam and optimizer.defaults["lr"] == 0.5
    clipped = {"class_path": "scorelight.ClippedDenoiser", "init_args": {"low": -2.0}}
    assert spec(build(read(clipped, MakeWrapper | None))) == clipped
    with pytest.raises(ConfigurationError, match="'denoiser'"):
        read({"class_path": "scorelight.ClippedDenoiser", "init_args": {"denoiser": None}}, MakeWrapper)


def test_arguments_that_a_constructor_passes_on_have_the_annotation_of_its_base():
    values = {"extra": 1, "where": "a.b", "sampler": {"class_path": "scorelight.DDIM"}, "anything": [1]}
    found = {name: build(value) for name, value in arguments_of(PassesOn, values, "key", "a.ckpt").items()}
    assert isinstance(found["sampler"], DDIM) and found["where"] == "a.b"
    assert PassesOn(**found).extra == 1
    with pytest.raises(ConfigurationError, match=r"key\.sampler: .*VPSDE is not Sampler or None"):
        arguments_of(PassesOn, values | {"sampler": {"class_path": "scorelight.VPSDE"}}, "key", "a.ckpt")
    with pytest.raises(ConfigurationError, match="PassesOn needs extra"):
        arguments_of(PassesOn, {}, "key", "a.ckpt")
    assert arguments_of(PassesOn, {}, "key", "a.ckpt", complete=False) == {}
    assert arguments_of(PassesOn, {}, "key", "a.ckpt", elsewhere=["extra"]) == {}


def test_what_a_constructor_refuses_is_a_message_that_names_the_file():
    with pytest.raises(ConfigurationError, match=r"num_steps"):
        build(read({"class_path": "scorelight.DDIM", "init_args": {"num_steps": 0}}, Sampler))
    with pytest.raises(ConfigurationError, match=r"file\.ckpt: MLP: "):
        build(read({"class_path": "scorelight.MLP", "init_args": {"shape": [2, -3]}}, ScoreNetwork))


def test_endless_and_enormous_data_are_refused_at_once():
    endless: list[Any] = []
    endless.append(endless)
    enormous: Any = 1
    for _ in range(40):
        enormous = [enormous, enormous]
    for value in (endless, enormous, [0] * 1_000_000):
        with pytest.raises(ConfigurationError, match="nested too deeply, or has too many values"):
            read(value, Any)
    assert read([0.5] * 10_000, Sequence[float]) == [0.5] * 10_000


def test_a_path_under_which_a_class_is_found_is_written_as_the_shortest_one():
    entry = {"class_path": "scorelight.processes.sde.VPSDE", "init_args": {"beta_max": 5.0}}
    assert plain(read(entry, ForwardProcess)) == spec(VPSDE(beta_max=5.0))
