"""Labels of image files: those in ``dataset.json``, or the folders that the images are in."""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scorelight.data.image_sources import Source, clean_name, is_image, is_label_list
from scorelight.data.labels import as_labels
from scorelight.data.reading import reading
from scorelight.errors import ConfigurationError

__all__ = ["class_folders", "labels_of"]

_FORM = 'it should be {"labels": [["NAME", LABEL], ...]}, {"labels": null} or left out'


def labels_of(source: Source, files: Sequence[str]) -> Tensor | None:
    """Labels of the images of a source, shape (N,), in the order of their names; None if they have none.

    Folders around all images say nothing and are passed over. In the folder that is left, or around it, there
    may be a ``dataset.json`` as StyleGAN and EDM have it (Karras et al., 2022):
    ``{"labels": [[name, label], ...]}``, with names relative to its folder or to the top. Otherwise the
    folders in it are the classes, counted from 0 in sorted order.

    Args:
        source: Where the images are.
        files: Names of its images and of its lists of labels.

    Raises:
        ConfigurationError: If some images have no label, or labels are not whole numbers from 0.
    """
    names = [name for name in files if is_image(name)]
    base = _common_folder(names)
    lists = [name for name in files if is_label_list(name)]
    for name in lists:
        if not base.startswith(_folder(name)):
            raise ConfigurationError(
                f"{source.where(name)}: not all images are below its folder; move it to {source.where(base)}"
            )
    if len(lists) > 1:
        raise ConfigurationError(f"{source.where(lists[1])}: a second one beside {lists[0]}; remove one")
    return _listed_labels(source, names, lists[0]) if lists else _labels_by_folder(source, names, base)


def class_folders(source: Source, files: Sequence[str]) -> list[str] | None:
    """Names of the classes, in the order of their labels, where these are the folders of the images.

    Args:
        source: Where the images are.
        files: Names of its images and of its lists of labels.
    """
    names = [name for name in files if is_image(name)]
    base = _common_folder(names)
    if any(is_label_list(name) for name in files) or all(_folder(name) == base for name in names):
        return None
    return source.folders(base)


def _folder(name: str) -> str:
    """The folder that a file is in, with a ``/`` at its end; "" at the top."""
    return name[: name.rfind("/") + 1]


def _common_folder(names: Sequence[str]) -> str:
    """The deepest folder that holds all of the files."""
    common = posixpath.commonpath([_folder(min(names)), _folder(max(names))])
    return f"{common}/" if common else ""


def _listed_labels(source: Source, names: Sequence[str], file: str) -> Tensor | None:
    where = source.where(file)
    with reading(where, _FORM):
        content = json.loads(source.read(file), object_pairs_hook=_without_repetition)
        if not isinstance(content, dict) or "labels" not in content:
            raise ConfigurationError(f"{where}: has no labels; {_FORM}")
        if content["labels"] is None:
            return None
        pairs = [(clean_name(str(name)), label) for name, label in content["labels"]]
    base, known = _folder(file), set(names)
    pairs = [(base + name if base + name in known else name, label) for name, label in pairs]
    labels = dict(pairs)
    if len(labels) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ConfigurationError(f"{where}: lists {twice} twice; remove one")
    if odd := sorted(labels.keys() ^ known):
        lacks = f"has no label for {odd[0]}" if odd[0] in known else f"lists {odd[0]}, which is not there"
        raise ConfigurationError(f"{where}: {lacks}; add it, or remove it there")
    with reading(where, "labels are whole numbers"):
        return as_labels(where, [labels[name] for name in names], len(names))


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _labels_by_folder(source: Source, names: Sequence[str], base: str) -> Tensor | None:
    folders = [_folder(name[len(base) :]).partition("/")[0] for name in names]
    used = set(folders)
    if used == {""}:
        return None
    if "" in used:
        raise ConfigurationError(
            f"{source.where(names[folders.index('')])}: images beside the folders of classes; move them into "
            "one of these, or remove them"
        )
    classes = source.folders(base)
    if empty := sorted(set(classes) - used):
        raise ConfigurationError(
            f"{source.where(base + empty[0])}: a class without images; remove it, or fill it"
        )
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[folder] for folder in folders])
