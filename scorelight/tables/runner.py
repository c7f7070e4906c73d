"""Runs the pieces that are missing, some of them side by side, each in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorelight.errors import ConfigurationError
from scorelight.tables.pieces import Piece
from scorelight.tables.store import PieceFolder

__all__ = ["RUNNER", "Outcome", "PieceError", "run_pieces", "work_on"]

RUNNER = "SCORELIGHT_RUNNER"
"""Environment variable with the process that a piece ends with."""

COMMAND = (sys.executable, "-m", "scorelight", "piece")

_POLL = 0.2


@dataclass(frozen=True)
class Outcome:
    """A piece that has ended."""

    piece: Piece
    failure: str | None
    """Why it has failed; None if it is done."""
    seconds: float


def run_pieces(
    pieces: Sequence[Piece],
    store: Path,
    jobs: int,
    threads: int,
    devices: Sequence[str],
    ended: Callable[[Outcome], None],
    started: Callable[[Piece], None],
    command: Sequence[str] = COMMAND,
) -> None:
    """Run what is not done yet. A piece that fails does not keep those from running that do not need it.

    Evaluations of one training run one after the other in one process, which imports everything once. When
    this function ends, by a signal too, so do the processes, which keep what resumes their work.

    Args:
        pieces: All pieces, each after the one that it needs.
        store: Folder of the folders of pieces.
        jobs: How many processes run at the same time.
        threads: Threads of each.
        devices: Devices of CUDA to divide among them.
        ended: Called for each piece that ends, and for those that need one that has failed.
        started: Called for the first piece of each process that starts.
        command: What works on the folders that follow it.
    """
    left = [piece for piece in pieces if not _is_done(store, piece)]
    running: dict[int, _Process] = {}
    try:
        while left or running:
            for slot, process in [*running.items()]:
                over = process.popen.poll() is not None  # before looking: what it has written is there
                for outcome in process.ended(over):
                    ended(outcome)
                    for piece in _blocked(left, outcome):
                        left.remove(piece)
                        ended(Outcome(piece, f"its training {outcome.piece.name} has failed", 0.0))
                if over:
                    left = [*process.pieces, *left]  # what it has not begun
                    del running[slot]
            for slot in {*range(jobs)} - {*running}:
                if group := _group(left, store, jobs - len(running)):
                    left = [piece for piece in left if piece not in group]
                    environment = _environment(threads, devices[slot % max(len(devices), 1) :: jobs])
                    running[slot] = _Process(group, store, command, environment)
                    started(group[0])
            time.sleep(_POLL)
    finally:
        for process in running.values():
            process.popen.terminate()
        for process in running.values():
            process.popen.wait()


def _is_done(store: Path, piece: Piece) -> bool:
    return PieceFolder.of(store, piece).result() is not None


def _blocked(left: Sequence[Piece], outcome: Outcome) -> list[Piece]:
    """The pieces that need one that has failed."""
    return [p for p in left if outcome.failure and p.needs and p.needs.key == outcome.piece.key]


def _group(left: Sequence[Piece], store: Path, idle: int) -> list[Piece]:
    """What one process is to do, of so many that are idle: a training, or some evaluations of one."""
    ready = [piece for piece in left if not piece.needs or _is_done(store, piece.needs)]
    if not ready or not ready[0].needs:
        return ready[:1]
    same = [piece for piece in ready if piece.needs and piece.needs.key == ready[0].needs.key]
    return same[: math.ceil(len(ready) / idle)]


class _Process:
    """A process, and those of its pieces that have not ended."""

    def __init__(
        self, pieces: list[Piece], store: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.pieces, self.store, self.since = pieces, store, time.time()
        folders = [PieceFolder.of(store, piece) for piece in pieces]
        for folder, piece in zip(folders, pieces, strict=True):
            folder.prepare(piece)
        with folders[0].log.open("ab") as log:
            self.popen = subprocess.Popen(
                [*command, *(str(folder.path) for folder in folders)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the runner, which stops its pieces
            )

    def ended(self, over: bool) -> Iterator[Outcome]:
        """The pieces that have ended since the last call.

        Args:
            over: Whether the process has ended: the piece in work then, too.
        """
        while self.pieces:
            folder = PieceFolder.of(self.store, self.pieces[0])
            done, failure = folder.result() is not None, folder.failure()
            if not done and failure is None and not over:
                return
            reason = None if done else failure or self._reason(folder)
            yield Outcome(self.pieces.pop(0), reason, time.time() - self.since)
            self.since = time.time()
            if reason and not failure:
                return

    def _reason(self, folder: PieceFolder) -> str:
        """Why a process has ended without a word about the piece in work."""
        code = self.popen.returncode
        if code >= 128 or code < 0:
            return f"stopped by signal {code - 128 if code >= 128 else -code}"
        return _last_line(folder.log) or f"exit code {code}"


def work_on(folder: PieceFolder, command: Callable[[Sequence[str]], int], is_main: bool) -> None:
    """Do the work of one piece, in a process of `run_pieces` or in a job of a cluster.

    Args:
        folder: The folder of the piece.
        command: Runs a command of scorelight; its exit code.
        is_main: Whether this is the first of the processes that work on it together.

    Raises:
        ConfigurationError: If the training that is to be evaluated is not done.
        PieceError: If the command fails.
        SystemExit: If a signal has stopped it.
    """
    content = folder.content()
    if content["kind"] == "fit":
        args, result = _training(folder, content["args"]), _trained
    else:
        args, result = _evaluation(folder, content), _evaluated

    def do() -> Mapping[str, Any]:
        if args:
            code = command(args)
            if code >= 128:
                raise SystemExit(code)
            if code:
                raise PieceError(_last_line(folder.log) or f"exit code {code}")
        return result(folder) if is_main else {}

    if is_main:
        folder.work(do)
    else:
        do()


class PieceError(RuntimeError):
    """The command of a piece has failed; the message is its last line."""


def _training(folder: PieceFolder, args: Sequence[str]) -> list[str]:
    """The command, unless the training was finished by a process that was killed then."""
    done = list(folder.run.glob("version_*/finished"))
    return [] if done else ["fit", *args, f"--trainer.default_root_dir={folder.run}"]


def _trained(folder: PieceFolder) -> dict[str, Any]:
    finished = max(folder.run.glob("version_*/finished"), key=lambda path: path.stat().st_mtime)
    return {"run": str(finished.parent.relative_to(folder.path))}


def _evaluation(folder: PieceFolder, content: Mapping[str, Any]) -> list[str]:
    training = PieceFolder(folder.path.parent / content["needs"])
    result = training.result()
    if result is None:
        raise ConfigurationError(f"{training.path}: the training has no result; run the table first")
    run = training.path / result["run"]
    return ["evaluate", str(run), *content["args"], f"--out={folder.evaluation}"]


def _evaluated(folder: PieceFolder) -> dict[str, Any]:
    file = max(folder.evaluation.glob("results-*.json"), key=lambda path: path.stat().st_mtime)
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _environment(threads: int, devices: Sequence[str]) -> dict[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": str(threads), RUNNER: str(os.getpid())}
    return found | ({"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {})


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
