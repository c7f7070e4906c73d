"""Classes in modules of the working folder, which a command may name."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from scorelight.storage.trust import trusted_packages

__all__ = ["WorkingFolder", "find_modules_in", "has_checkpoints"]


class WorkingFolder(MetaPathFinder):
    """Puts a folder on the path of imports when a module in it is imported that the user has named.

    The working folder may be a stranger's, with a model in it. Libraries import optional packages where they
    find them, such as rich; in a folder that is on the path all the time, they would find the stranger's.

    Args:
        folder: The folder.
        texts: What the user has written: arguments, and the content of configurations. A module is named by
            an import path that begins with it.
        packages: Further modules that the user has named.
    """

    def __init__(self, folder: str, texts: Sequence[str], packages: Sequence[str] = ()) -> None:
        self.folder = folder
        first_words = {word for text in texts for word in _FIRST_WORD.findall(text)}
        self.named = first_words | {package.partition(".")[0] for package in packages}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module, if the user has named it and it is in the folder; from then on all that is there."""
        if fullname not in self.named:
            return None
        spec = PathFinder.find_spec(fullname, [self.folder])
        if spec is not None and self in sys.meta_path:
            sys.meta_path.remove(self)
            sys.path.append(self.folder)
        return spec


def find_modules_in(folder: str, args: Sequence[str]) -> None:
    """Find modules in the folder that are named in the arguments or their configurations, or trusted.

    The configuration of a run folder is not the user's own words: a stranger may have written it.
    """
    files = [Path(arg.partition("=")[2]) for arg in args if arg.startswith("--config=")]
    texts = [*args, *(file.read_text() for file in files if not has_checkpoints(file))]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, WorkingFolder)]
    sys.meta_path.append(WorkingFolder(folder, texts, trusted_packages()))


_FIRST_WORD = re.compile(r"(?<![\w./])([^\W\d]\w*)(?=\.\w)")


def has_checkpoints(config: Path) -> bool:
    """Whether a configuration is in a run folder: whoever wrote the checkpoint may have written it."""
    folder = config.resolve().parent
    return (folder / "checkpoints").is_dir() or any(folder.glob("*.ckpt"))
