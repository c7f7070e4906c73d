"""Sources of image files: a folder or a zip; names contain `/` and have the same order on every machine."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import IO, Any
from zipfile import ZipFile, ZipInfo

from torchvision.datasets.folder import IMG_EXTENSIONS as IMAGE_ENDINGS

from scorelight.data.reading import reading
from scorelight.errors import ConfigurationError
from scorelight.storage.memory import LARGEST_FILE, check_file_size

__all__ = ["IMAGE_ENDINGS", "Folder", "Source", "Zip", "clean_name", "is_image", "is_label_list"]

_LABELS = "dataset.json"


def clean_name(name: str) -> str:
    """The name of a file in a data set, as a folder, a zip and ``dataset.json`` all spell it.

    Folders are separated by ``/``, backslashes count as that, and ``./``, ``//`` and a leading ``/`` are left
    out; accents are composed (NFC). Upper and lower case differ.
    """
    path = posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    return path.lstrip("/")


def is_image(name: str) -> bool:
    """Whether a file has a name of an image."""
    return name.lower().endswith(IMAGE_ENDINGS)


def is_label_list(name: str) -> bool:
    """Whether a file is a list of labels."""
    return posixpath.basename(name).lower() == _LABELS


class Source(ABC):
    """Images and lists of labels below a path, by their clean names; hidden ones are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def files(self) -> Iterator[str]:
        """Names of the images and of the lists of labels, those at the top first.

        Raises:
            ConfigurationError: If two of them have the same clean name, or one is no regular file.
        """

    @abstractmethod
    def folders(self, base: str) -> list[str]:
        """Names of the folders in a folder, which is named by "" or with a ``/`` at its end; sorted."""

    @abstractmethod
    def open(self, name: str) -> Any:
        """A context in which a file is open; other threads have their own, or wait for it.

        Raises:
            ConfigurationError: If it is too large.
        """

    @abstractmethod
    def ends_with(self, name: str, mark: bytes) -> bool:
        """Whether the mark is among the last bytes of a file; True where that is slow to find out."""

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ConfigurationError: If it is too large.
        """
        with self.open(name) as file:
            content: bytes = file.read(LARGEST_FILE + 1)
        check_file_size(self.where(name), len(content))
        return content

    def where(self, name: str) -> str:
        """The path of the file, for messages."""
        return str(self.path / name)

    def _refuse_second(self, name: str) -> None:
        raise ConfigurationError(f"{self.where(name)}: is there twice; remove one of them, or rename it")


class Folder(Source):
    """Files below a folder. Links are followed, and each folder is read once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._paths: dict[str, str] = {}

    def files(self) -> Iterator[str]:
        """Names of the images and of the lists of labels; only as many folders are read as needed."""
        self._paths, seen = {}, set()
        waiting = [("", str(self.path))]
        while waiting:
            base, folder = waiting.pop()
            with reading(folder, "check its permissions"):
                status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            below = []
            for name, entry in _entries(folder):
                if _is_folder(entry):
                    below += [] if self._leads_back(entry) else [(f"{base}{name}/", entry.path)]
                elif is_image(name) or is_label_list(name):
                    self._add(base + name, entry)
                    yield base + name
            waiting += reversed(below)

    def folders(self, base: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        return [name for name, entry in _entries(str(self.path / base)) if _is_folder(entry)]

    def open(self, name: str) -> IO[bytes]:
        """Open a file."""
        return self._path(name).open("rb")

    def read(self, name: str) -> bytes:
        """The content of a file; one that is too large is not read."""
        check_file_size(self.where(name), self._path(name).stat().st_size)
        return super().read(name)

    def ends_with(self, name: str, mark: bytes) -> bool:
        """Whether the mark is among the last 64 bytes."""
        with self.open(name) as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 64, 0))
            return mark in file.read()

    def _path(self, name: str) -> Path:
        return Path(self._paths[name])

    def _add(self, name: str, entry: os.DirEntry[str]) -> None:
        if name in self._paths:
            self._refuse_second(name)
        if not (entry.is_file(follow_symlinks=False) or os.path.isfile(entry)):
            raise ConfigurationError(
                f"{entry.path}: is no file, but a broken link, a pipe, a socket or a device; remove it"
            )
        self._paths[name] = entry.path

    def _leads_back(self, entry: os.DirEntry[str]) -> bool:
        """Whether a link to a folder leads into the data set itself, or to a folder around it."""
        if not entry.is_symlink():
            return False
        root, target = os.path.realpath(self.path), os.path.realpath(entry.path)
        return os.path.commonpath([root, target]) in (root, target)


class Zip(Source):
    """Files in a zip: one handle a process, one thread at a time. The archive is not unpacked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = Lock()
        self._process = 0
        self._infos: dict[str, ZipInfo] = {}

    def files(self) -> Iterator[str]:
        """Names of the images and of the lists of labels, sorted."""
        with self._lock:
            self._archive()
        yield from self._infos

    def folders(self, base: str) -> list[str]:
        """Names of the folders in a folder that hold images or lists of labels, sorted."""
        inner = {name[len(base) :].partition("/") for name in self.files() if name.startswith(base)}
        return sorted({folder for folder, slash, _ in inner if slash})

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file; others wait."""
        with self._lock:
            archive = self._archive()
            info = self._infos[name]
            check_file_size(self.where(name), info.file_size)
            with archive.open(info) as file:
                yield file

    def ends_with(self, name: str, mark: bytes) -> bool:
        """True: a truncated archive has lost its end, which holds the names, and cannot be opened at all."""
        return True

    def _archive(self) -> ZipFile:
        """A handle of this process: after a fork parent and child would move each other's position."""
        if self._process != os.getpid():
            with reading(self.path, "make the archive again"):
                self._zip = ZipFile(self.path)
                self._infos = self._listed(self._zip)
            self._process = os.getpid()
        return self._zip

    def _listed(self, archive: ZipFile) -> dict[str, ZipInfo]:
        found: dict[str, ZipInfo] = {}
        for info in archive.infolist():
            name = clean_name(info.filename)
            wanted = is_image(name) or is_label_list(name)
            if info.is_dir() or not wanted or not all(map(_shown, name.split("/"))):
                continue
            if name in found:
                self._refuse_second(name)
            found[name] = info
        return {name: found[name] for name in sorted(found, key=lambda name: ("/" in name, name))}


def _entries(folder: str) -> list[tuple[str, os.DirEntry[str]]]:
    """What is in a folder and not hidden, with its clean name and sorted by it."""
    try:
        with os.scandir(folder) as entries:
            found = [(clean_name(entry.name), entry) for entry in entries if _shown(entry.name)]
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be read: {error.strerror}") from error
    return sorted(found, key=lambda pair: pair[0])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link to itself is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry))


def _shown(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))
