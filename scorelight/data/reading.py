"""Reading files of the user: one message for whatever is wrong with them, and progress on long work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from scorelight.errors import ConfigurationError

__all__ = ["as_path", "progress", "reading"]


@contextmanager
def reading(what: object, remedy: str) -> Iterator[None]:
    """A block that reads a file. What readers raise for damaged files is of any type."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigurationError(f"{what}: cannot be read: {reason}; {remedy}") from error


def as_path(key: str, value: str | Path) -> Path:
    """An existing file or folder, `~` expanded."""
    path = Path(value).expanduser()
    if not path.exists():
        raise ConfigurationError(f"{key}={value}: no such file or folder")
    return path


def progress(items: Iterable[Any], total: int, what: str) -> Iterable[Any]:
    """A progress bar, on the terminal of one process, if it takes more than a second or so."""
    hidden = True if getattr(rank_zero_only, "rank", 0) else None  # None: where there is no terminal
    return tqdm(items, desc=what, total=total, leave=False, delay=1, disable=hidden)
