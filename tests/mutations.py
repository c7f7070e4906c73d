"""A generator of mistakes: configurations that are nearly right.

`mistakes(config)` is a strategy of `Mistake`s. Some must be refused, since nothing can be meant by them:
a misspelt key or class. Others may be refused or not (a value that is out of range here
and not there, a key left out that has a default), but never with a traceback.
"""

import copy
import math
from dataclasses import dataclass, field

from hypothesis import strategies as st

ELSEWHERE = (
    "torch.nn.Linear",
    "scorelight.Foo",
    "no.such.Module",
    "VPSDEE",
    "",
    "DDIM",
    "UNet",
    "VPSDE",
    "Adam",
)
NUMBERS = (-1, 0, -0.5, 1e30, -1e30, math.nan, math.inf, 2**70, 1e-30, 0.5, 3)
OTHER_TYPES = ("words", [], {}, [1, "x"], {"a": 1}, True, None, "1e", "-", 1.5)
KINDS = ("key", "class", "elsewhere", "missing", "type", "list", "number", "twice")


@dataclass
class Mistake:
    """A configuration with one thing wrong."""

    kind: str
    key: str
    given: str
    config: dict = field(repr=False)
    certain: bool
    """Whether it must be refused."""


def paths(value, path=()):
    """Every key path of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


def at(config, path):
    for key in path:
        config = config[key]
    return config


def changed(config, path, value):
    """A copy with another value there."""
    config = copy.deepcopy(config)
    at(config, path[:-1])[path[-1]] = value
    return config


def dotted(path):
    return ".".join(str(key) for key in path if key != "init_args")


@st.composite
def misspelt(draw, word):
    """One letter left out, doubled or exchanged."""
    i = draw(st.integers(1, len(word) - 1))
    return draw(
        st.sampled_from(
            [word[:i] + word[i + 1 :], word[:i] + word[i - 1] + word[i:], word[:i] + "q" + word[i:]]
        )
    )


@st.composite
def mistakes(draw, config, kinds=KINDS):
    """One mistake in a configuration.

    Numbers of the kinds "number" and "twice" may ask for more memory than there is.
    """
    places = [*paths(config)]
    named = [
        path for path in places if isinstance(path[-1], str) and path[-1] not in ("class_path", "init_args")
    ]
    classes = [path for path in places if path[-1] == "class_path"]
    numbers = [p for p in places if isinstance(at(config, p), int | float) and p[-1] != "seed_everything"]
    kind = draw(st.sampled_from(kinds))
    if kind == "key":
        path = draw(st.sampled_from(named))
        wrong = draw(misspelt(path[-1]))
        mistaken = copy.deepcopy(config)
        parent = at(mistaken, path[:-1])
        siblings = set(parent)
        parent[wrong] = parent.pop(path[-1])
        return Mistake(kind, dotted(path), wrong, mistaken, wrong not in siblings)
    if kind == "class" and classes:
        path = draw(st.sampled_from(classes))
        wrong = draw(misspelt(at(config, path)))
        return Mistake(kind, dotted(path[:-1]), wrong, changed(config, path, wrong), True)
    if kind == "elsewhere" and classes:
        path = draw(st.sampled_from(classes))
        wrong = draw(st.sampled_from(ELSEWHERE))
        return Mistake(kind, dotted(path[:-1]), wrong, changed(config, path, wrong), False)
    if kind == "missing":
        path = draw(st.sampled_from(named))
        mistaken = copy.deepcopy(config)
        del at(mistaken, path[:-1])[path[-1]]
        return Mistake(kind, dotted(path), "", mistaken, False)
    if kind == "list" and (lists := [p for p in places if isinstance(at(config, p), list)]):
        path = draw(st.sampled_from(lists))
        wrong = draw(st.sampled_from([[], [0], [-1], [1] * 9, [1.5], ["a"], [[1]], [3, 5, 7]]))
        return Mistake(kind, dotted(path), str(wrong), changed(config, path, wrong), False)
    if kind in ("number", "twice") and numbers:
        path = draw(st.sampled_from(numbers))
        value = at(config, path)
        wrong = (
            draw(st.sampled_from(NUMBERS))
            if kind == "number"
            else value * draw(st.sampled_from([2, 7, 1000]))
        )
        return Mistake(kind, dotted(path), str(wrong), changed(config, path, wrong), False)
    path = draw(st.sampled_from(named))
    wrong = draw(st.sampled_from(OTHER_TYPES))
    return Mistake("type", dotted(path), str(wrong), changed(config, path, wrong), False)
