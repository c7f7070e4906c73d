"""What the result of a command depends on: its complete configuration, the code of its classes, its data."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule

import scorelight.cli.plugins  # noqa: F401  so that classes are found by their short names
from scorelight.cli.common import run_command
from scorelight.cli.configs import resolve_configs
from scorelight.cli.construction import ComponentParser
from scorelight.cli.evaluate import evaluate
from scorelight.cli.fit import run
from scorelight.cli.kinds import KINDS
from scorelight.cli.lists import join_words
from scorelight.data.access import examples_of
from scorelight.errors import ConfigurationError
from scorelight.evaluation.evaluator import Evaluator
from scorelight.evaluation.stores import data_key
from scorelight.storage.identity import describe
from scorelight.storage.runs import find_checkpoint
from scorelight.storage.source import code_digest

__all__ = ["CommandInputs"]

_WHERE = ("default_root_dir", "logger", "enable_progress_bar", "resume", "dry_run")
"""Settings of a training that change no number."""
_HOW = ("checkpoint", "out", "batch_size", "accelerator", "devices", "num_nodes")
"""And of an evaluation."""


class CommandInputs:
    """Inputs of ``fit`` and ``evaluate`` as plain data; data is read once for each of its configurations."""

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}

    def fit(self, args: Sequence[str]) -> dict[str, Any]:
        """Configuration, code and data of a training.

        Raises:
            ConfigurationError: If the arguments are wrong.
        """
        words = resolve_configs(join_words(list(args)))
        with _printed() as text:
            run(["fit", *words, "--print_config"])
        config = yaml.safe_load(text.getvalue())
        for section in (config, config["trainer"]):
            for key in _WHERE:
                section.pop(key, None)
        return {
            "configuration": {
                **_strings_mapped(config, _with_content),
                "data": _strings_mapped(config["data"], _without_path),
            },
            "code": code_digest([KINDS[config["module"]].module, *_classes_in(config)]),
            "data": self._data_of(config["data"]),
        }

    def evaluate(self, args: Sequence[str], fit: Mapping[str, Any]) -> dict[str, Any]:
        """Configuration, code and data of an evaluation; what it does not set is that of the training.

        Args:
            args: Its arguments, without the checkpoint and folders.
            fit: What `fit` has returned of the training.

        Raises:
            ConfigurationError: If the arguments are wrong.
        """
        words = join_words(list(args))
        given = {word.partition("=")[0] for word in words}
        model = fit["configuration"]["model"]
        stored = [key for key in ("sampler", "guidance") if model[key] and f"--{key}" not in given]
        defaults = {key: model[key] for key in stored}
        with _printed() as text:
            run_command(evaluate, ["", *words, "--print_config"], set_defaults=defaults or None)
        config = yaml.safe_load(text.getvalue())
        data = {"data": self._data_of(config["data"])} if config["data"] else {}
        code = code_digest([Evaluator, *_classes_in(config)])
        kept = {key: value for key, value in config.items() if key not in (*_HOW, "data")}
        return {"configuration": _strings_mapped(kept, _with_content), "code": code, **data}

    def _data_of(self, config: Mapping[str, Any]) -> Any:
        """What the examples are, from their content."""
        key = json.dumps(config, sort_keys=True)
        if key not in self._data:
            parser = ComponentParser(exit_on_error=False)
            parser.add_subclass_arguments(LightningDataModule, "data")
            data = parser.instantiate_classes(parser.parse_object({"data": config})).data
            data.prepare_data()
            found = [data_key(data, examples_of(data, split)) for split in ("train", "val")]
            self._data[key] = [
                [fingerprint.rpartition("-")[2], *describe(rest)] for fingerprint, *rest in found
            ]  # without the name of the folder
        return self._data[key]


@contextlib.contextmanager
def _printed() -> Iterator[io.StringIO]:
    """What is printed in the block, before it exits."""
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        yield text


def _classes_in(config: Any) -> list[type]:
    """The classes that a configuration names, wherever in it."""
    if isinstance(config, Mapping):
        below = [cls for value in config.values() for cls in _classes_in(value)]
        path = config.get("class_path")
        return [*below, *([_class(path)] if isinstance(path, str) else [])]
    if isinstance(config, Sequence) and not isinstance(config, str):
        return [cls for value in config for cls in _classes_in(value)]
    return []


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _strings_mapped(config: Any, change: Callable[[str], str]) -> Any:
    """The configuration with each string in it changed."""
    if isinstance(config, Mapping):
        return {key: _strings_mapped(value, change) for key, value in config.items()}
    if isinstance(config, list):
        return [_strings_mapped(value, change) for value in config]
    return change(config) if isinstance(config, str) else config


def _with_content(text: str) -> str:
    """A digest of the weights in a run folder or of the content of a file, if the text is its path."""
    path = Path(text)
    if os.sep in text and path.exists():
        with contextlib.suppress(ConfigurationError):
            return hashlib.sha256(find_checkpoint(path).read_bytes()).hexdigest()[:16]
    return text


def _without_path(text: str) -> str:
    """Nothing of the path of data, whose content is described."""
    return "a path" if Path(text).exists() else text
