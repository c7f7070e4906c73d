"""The table of an evaluation with its protocol: printed, and written as JSON and Markdown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scorelight.metrics import MetricResult
from scorelight.storage.atomic import atomic_write

__all__ = ["changes", "markdown_table", "write_report"]


def changes(
    results: Mapping[str, MetricResult], float32: Mapping[str, MetricResult]
) -> dict[str, MetricResult]:
    """Numbers of samples in float32, and how much those in another precision are larger.

    The noise of a seed is the same in both, so that the standard error is that of the change itself, over the
    seeds, and smaller than that of the numbers.

    Args:
        results: Numbers in another precision, or of compiled networks.
        float32: Those in float32.
    """
    found = {}
    for name, result in results.items():
        if result.over == "seeds":
            pairs = zip(result.each, float32[name].each, strict=True)
            found[f"{name}_float32"] = float32[name]
            found[f"{name}_change"] = MetricResult.over_seeds([a - b for a, b in pairs])
    return found


def write_report(results: Mapping[str, MetricResult], protocol: Mapping[str, Any], folder: Path) -> Path:
    """Write ``results-DIGEST.json`` and ``.md``, where the digest is that of the metrics and the protocol.

    Returns:
        The path of both without its ending.
    """
    numbers = {name: asdict(result) for name, result in results.items()}
    digest = hashlib.sha256(json.dumps([list(numbers), protocol]).encode()).hexdigest()[:8]
    path = folder / f"results-{digest}"
    with atomic_write(path.with_suffix(".json")) as file:
        file.write((json.dumps({"results": numbers, "protocol": protocol}, indent=2) + "\n").encode())
    with atomic_write(path.with_suffix(".md")) as file:
        file.write(markdown_table(results, protocol).encode())
    return path


def markdown_table(results: Mapping[str, MetricResult], protocol: Mapping[str, Any]) -> str:
    """Markdown, aligned so that it can be read as plain text."""
    rows = [("metric", "mean", "standard error", "over")]
    for name, result in results.items():
        error = result.standard_error
        spread = ("", "") if error is None else (f"{error:.2g}", result.over)
        rows.append((name, f"{result.value:.5g}", *spread))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
    return "\n".join([*lines, "", *(f"* {key}: {_readable(value)}" for key, value in protocol.items()), ""])


def _readable(value: Any) -> str:
    """An entry of the protocol as a person would write it: Class(option=value)."""
    if isinstance(value, dict) and "class_path" in value:
        options = ", ".join(f"{k}={_readable(v)}" for k, v in value.get("init_args", {}).items())
        return f"{value['class_path'].rpartition('.')[2]}({options})"
    return ", ".join(map(_readable, value)) if isinstance(value, list) else str(value)
