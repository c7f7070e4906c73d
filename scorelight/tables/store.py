"""Where pieces lie: a folder for each, with its inputs, its log and, when it is done, its result."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from scorelight import __version__
from scorelight.errors import ConfigurationError
from scorelight.storage.atomic import atomic_write
from scorelight.storage.lock import exclusive, is_busy
from scorelight.tables.pieces import Piece

__all__ = ["PieceFolder", "State"]

State = Literal["done", "running", "failed", "waiting"]
_INPUTS, _RESULT, _FAILURE, _LOG = "piece.json", "result.json", "failure.txt", "log.txt"


@dataclass(frozen=True)
class PieceFolder:
    """The folder of one piece.

    A result is written at once, when the work has succeeded; whoever finds one need not work. What has failed
    leaves a message, and is tried again.
    """

    path: Path

    @classmethod
    def of(cls, store: Path, piece: Piece) -> PieceFolder:
        """The folder of a piece in a store."""
        return cls(store / piece.name)

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.path / _LOG

    @property
    def run(self) -> Path:
        """The folder of the run folder of a training."""
        return self.path / "run"

    @property
    def evaluation(self) -> Path:
        """Where an evaluation stores samples and results."""
        return self.path / "evaluation"

    def prepare(self, piece: Piece) -> None:
        """Create the folder, and write what is to be done there; an earlier failure is forgotten."""
        content = {
            "kind": piece.kind,
            "args": list(piece.args),
            "needs": piece.needs.name if piece.needs else None,
            "inputs": piece.inputs,
        }
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _FAILURE).unlink(missing_ok=True)
        if self._read(_INPUTS) is None:
            self._write(_INPUTS, content)

    def content(self) -> dict[str, Any]:
        """What `prepare` has written.

        Raises:
            ConfigurationError: If nothing is there.
        """
        found = self._read(_INPUTS)
        if found is None:
            raise ConfigurationError(f"{self.path}: no piece of a table is there")
        return found

    def result(self) -> dict[str, Any] | None:
        """The result, if the piece is done."""
        found = self._read(_RESULT)
        return found if isinstance(found, dict) and "provenance" in found else None

    def failure(self) -> str | None:
        """Why the last attempt has failed; None if it has not, or there was none."""
        try:
            return (self.path / _FAILURE).read_text()
        except FileNotFoundError:
            return None

    def state(self) -> State:
        """What is known of it, whichever process works on it."""
        if self.result() is not None:
            return "done"
        if not self.path.is_dir():
            return "waiting"
        if is_busy(self._work):
            return "running"
        return "waiting" if self.failure() is None else "failed"

    def work(self, do: Callable[[], Mapping[str, Any]]) -> None:
        """Do the work and write its result, unless it is there; one process at a time, others wait.

        Args:
            do: Returns the result. What it raises is the failure, and is raised again; a signal is none.
        """
        with exclusive(self._work, wait=True):
            if self.result() is not None:
                return
            (self.path / _FAILURE).unlink(missing_ok=True)
            begin, cpu = time.time(), time.process_time()
            try:
                found = do()
            except Exception as error:
                self.fail(f"{type(error).__name__}: {error}")
                raise
            used = {
                "seconds": round(time.time() - begin, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
            }
            self._write(_RESULT, {**found, "provenance": {**used, **_circumstances(begin)}})

    def fail(self, message: str) -> None:
        """Note that the work has failed."""
        with atomic_write(self.path / _FAILURE) as file:
            file.write(message.encode())

    @property
    def _work(self) -> Path:
        """What one process at a time does."""
        return self.path / "work"

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self.path / name).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return found

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_write(self.path / name) as file:
            file.write((json.dumps(content, indent=1, default=str) + "\n").encode())


def _circumstances(begin: float) -> dict[str, Any]:
    """With what and where a result was computed."""
    return {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)),
        "scorelight": __version__,
        **{name: version(name) for name in ("torch", "lightning")},
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or torch.get_num_threads(),
    }
