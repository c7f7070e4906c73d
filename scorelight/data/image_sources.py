"""Sources of image files: a folder or a zip; names contain `/` and have the same order on every machine."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any
from zipfile import ZipFile

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS as IMAGE_ENDINGS

from scorelight.data.npz import as_labels
from scorelight.data.reading import reading
from scorelight.errors import ConfigurationError

__all__ = ["IMAGE_ENDINGS", "Folder", "Source", "Zip", "labels_of"]

_LABELS = "dataset.json"


class Source(ABC):
    """Named files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Names of the images."""

    @abstractmethod
    def classes(self) -> list[str]:
        """Names of the folders at the top, sorted."""

    @abstractmethod
    def open(self, name: str) -> Any:
        """A context in which a file is open; other threads have their own, or wait for it."""

    @abstractmethod
    def version_tag(self, name: str) -> str:
        """A tag that changes when the file of that name changes."""

    @abstractmethod
    def ends_with(self, name: str, mark: bytes) -> bool:
        """Whether the mark is among the last bytes of a file; True where that is slow to find out."""

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self.open(name) as file:
            content: bytes = file.read()
        return content

    def where(self, name: str) -> str:
        """The path of the file, for messages."""
        return str(self.path / name)


class Folder(Source):
    """Files below a folder, following links, without hidden files."""

    def names(self) -> Iterator[str]:
        """Names of the images, those in the folder itself first; only as many folders are read as needed."""
        for base, folders, files in os.walk(self.path, onerror=_raise, followlinks=True):
            folders[:] = sorted(filter(_shown, folders))
            for file in sorted(filter(_is_image, files)):
                yield (Path(base) / file).relative_to(self.path).as_posix()

    def classes(self) -> list[str]:
        """Names of the folders in it, sorted."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_dir() and _shown(entry.name))

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        return (self.path / name).open("rb")

    def ends_with(self, name: str, mark: bytes) -> bool:
        """Whether the mark is among the last 64 bytes."""
        with self.open(name) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 64, 0))
            return mark in file.read()

    def version_tag(self, name: str) -> str:
        """Size and time of the last change."""
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


class Zip(Source):
    """Files in a zip: one handle a process, one thread at a time. The archive is not unpacked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = Lock()
        self._process = 0

    def names(self) -> Iterator[str]:
        """Names of the images, sorted."""
        shown = (name for name in self._archive().namelist() if all(map(_shown, name.split("/"))))
        yield from sorted(filter(_is_image, shown), key=lambda name: ("/" in name, name))

    def classes(self) -> list[str]:
        """Names of the folders at the top that hold images, sorted."""
        return sorted({name.partition("/")[0] for name in self.names() if "/" in name})

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file; others wait."""
        with self._lock, self._archive().open(name) as file:
            yield file

    def ends_with(self, name: str, mark: bytes) -> bool:
        """True: a truncated archive has lost its end, which holds the names, and cannot be opened at all."""
        return True

    def version_tag(self, name: str) -> str:
        """Size and checksum."""
        info = self._archive().getinfo(name)
        return f"{info.file_size} {info.CRC}"

    def _archive(self) -> ZipFile:
        """A handle of this process: after a fork parent and child would move each other's position."""
        if self._process != os.getpid():
            with reading(self.path, "make the archive again"):
                self._zip = ZipFile(self.path)
            self._process = os.getpid()
        return self._zip


def _raise(error: OSError) -> None:
    raise ConfigurationError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _shown(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS) and _shown(name.rpartition("/")[2])


def labels_of(source: Source, names: Sequence[str]) -> Tensor | None:
    """Labels, shape (N,): those in ``dataset.json``, or the folders at the top in sorted order; None if flat.

    The file is that of StyleGAN and EDM (Karras et al., 2022): ``{"labels": [[name, label], ...]}``.
    """
    with reading(source.where(_LABELS), 'it should be {"labels": [["NAME", LABEL], ...]} or left out'):
        try:
            text = source.read(_LABELS)
        except (KeyError, FileNotFoundError):
            return _labels_by_folder(source, names)
        listed = {**json.loads(text)}.get("labels")
        labels = None if listed is None else {str(name).replace("\\", "/"): label for name, label in listed}
    if labels is None:
        return None
    if odd := sorted(labels.keys() ^ set(names)):
        lacks = f"has no label for {odd[0]}" if odd[0] in names else f"lists {odd[0]}, which is not there"
        raise ConfigurationError(f"{source.where(_LABELS)}: {lacks}; add it, or remove it there")
    with reading(source.where(_LABELS), "labels are whole numbers"):
        return as_labels(Path(source.where(_LABELS)), [labels[name] for name in names], len(names))


def _labels_by_folder(source: Source, names: Sequence[str]) -> Tensor | None:
    folders = [name.rpartition("/")[0].partition("/")[0] for name in names]
    used = set(folders)
    if used == {""}:
        return None
    if "" in used:
        raise ConfigurationError(
            f"{source.where(names[0])}: images beside the folders of classes; move them into one of "
            "these, or remove them"
        )
    classes = source.classes()
    if empty := sorted(set(classes) - used):
        raise ConfigurationError(f"{source.where(empty[0])}: a class without images; remove it, or fill it")
    number = {name: i for i, name in enumerate(classes)}
    return torch.tensor([number[folder] for folder in folders])
