"""A table as one HTML page that needs nothing else: numbers, curves, samples and commands.

The page asks for no file and no address; it has no script. Cells can be reached by the keyboard, as `details`
with what they were computed by.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from scorelight.tables.report import cell_text, legend
from scorelight.tables.results import TableResult

__all__ = ["as_page"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8b4513")
"""Told apart by the colour-blind (Okabe & Ito, 2008); curves also differ in their dashes."""
_DASHES = ("", "6 3", "2 2", "8 3 2 3")


def as_page(
    result: TableResult,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    samples: Mapping[str, Path],
    commands: Mapping[tuple[str, str], Sequence[str]],
    provenance: Mapping[str, str],
) -> str:
    """The page.

    Args:
        result: The table.
        curves: Of each training by its name, steps and validation losses.
        samples: Pictures of samples by their names, PNG.
        commands: What reproduces a cell, by row and column.
        provenance: Versions, machine and duration.
    """
    table = result.table
    body = [
        f"<h1>{_text(table.title)}</h1>",
        f"<p>{_text(table.note)}</p>" if table.note else "",
        *_table(result),
        f"<p>{_text(legend(result, 'Below a number'))}</p>",
        *_failures(result),
        *_curves(curves),
        *_samples(samples),
        *_details(result, commands),
        "<h2>Computed with</h2>",
        _definitions(provenance),
    ]
    return _PAGE.format(title=_text(f"{table.title}, {table.scale}"), style=_STYLE, body="\n".join(body))


def _table(result: TableResult) -> Iterator[str]:
    table = result.table
    yield '<div class="wide" role="region" aria-label="The table" tabindex="0"><table>'
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in table.columns)
    yield f"<caption>{_text(table.title)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>"
    for row in table.rows:
        cells = "".join(_cell(result, row, column) for column in table.columns)
        yield f'<tr><th scope="row">{_text(row)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _cell(result: TableResult, row: str, column: str) -> str:
    cell = result.cells[row, column]
    number = _text(cell_text(cell))
    number = f'<strong title="the best of the column">{number}</strong>' if cell.is_best else number
    paper = _text(cell.cell.published)
    beside = f'<span class="paper"><span class="hidden">paper: </span>{paper}</span>' if paper else ""
    return f'<td><a href="#{_anchor(result, row, column)}">{number}</a>{beside}</td>'


def _anchor(result: TableResult, row: str, column: str) -> str:
    table = result.table
    return f"cell-{table.rows.index(row)}-{table.columns.index(column)}"


def _failures(result: TableResult) -> Iterator[str]:
    failed = [
        f"<li>{_text(f'{row}, {column}, seed {seed}: {message}')}</li>"
        for (row, column), cell in result.cells.items()
        for seed, message in cell.failures.items()
    ]
    if failed:
        yield f"<h2>Failed</h2><ul>{''.join(failed)}</ul>"


def _samples(samples: Mapping[str, Path]) -> Iterator[str]:
    if samples:
        yield '<h2>Samples</h2><div class="pictures">'
        for name, path in samples.items():
            content = base64.b64encode(path.read_bytes()).decode()
            yield (
                f'<figure><img src="data:image/png;base64,{content}" alt="samples of {_text(name)}">'
                f"<figcaption>{_text(name)}</figcaption></figure>"
            )
        yield "</div>"


def _details(result: TableResult, commands: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[str]:
    yield "<h2>Cells</h2>"
    for (row, column), cell in result.cells.items():
        values = "; ".join(f"seed {seed}: {value:.6g}" for seed, value in cell.values.items())
        lines = [f"{cell.cell.metric}. {values or 'No seed is done'}"]
        if cell.p_value is not None:
            lines.append(f"p = {cell.p_value:.2g} against the best of the column")
        yield f'<details id="{_anchor(result, row, column)}">'
        yield f"<summary>{_text(f'{row}, {column}: {cell_text(cell)}')}</summary>"
        yield from (f"<p>{_text(line)}</p>" for line in lines)
        yield f'<pre tabindex="0">{_text(chr(10).join(commands.get((row, column), ())))}</pre></details>'


def _curves(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Iterator[str]:
    """Validation losses over steps, as an SVG with axes."""
    shown = {name: points for name, points in curves.items() if len(points) > 1}
    if not shown:
        return
    yield "<h2>Validation loss</h2><figure>"
    yield _plot(shown)
    yield '<figcaption><ul class="key">'
    for i, name in enumerate(shown):
        line = f'<svg width="28" height="8" aria-hidden="true"><path d="M0 4H28" {_stroke(i)}/></svg>'
        yield f"<li>{line} {_text(name)}</li>"
    yield "</ul></figcaption></figure>"


def _plot(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    width, height, left, bottom = 640, 320, 56, 32
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points]
    (x_low, x_high), (y_low, y_high) = _range(xs), _range(ys)

    def place(x: float, y: float) -> str:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - 8)
        return f"{across:.1f} {8 + (y_high - y) / (y_high - y_low) * (height - bottom - 8):.1f}"

    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="validation loss over training steps">',
        f'<path d="M{place(x_low, y_high)}L{place(x_low, y_low)}L{place(x_high, y_low)}" class="axis"/>',
    ]
    for x, anchor in ((x_low, "start"), (x_high, "end")):
        across = place(x, y_low).split()[0]
        parts.append(f'<text x="{across}" y="{height - 12}" text-anchor="{anchor}">{x:.6g}</text>')
    for y in (y_low, y_high):
        down = float(place(x_low, y).split()[1]) + 4
        parts.append(f'<text x="{left - 6}" y="{down:.1f}" text-anchor="end">{y:.3g}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 12}" text-anchor="middle">step</text>')
    for i, points in enumerate(curves.values()):
        path = "L".join(place(x, y) for x, y in points)
        parts.append(f'<path d="M{path}" {_stroke(i)}/>')
    return "".join([*parts, "</svg>"])


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _stroke(i: int) -> str:
    dash = _DASHES[i // len(_COLOURS) % len(_DASHES)]
    return f'fill="none" stroke="{_COLOURS[i % len(_COLOURS)]}" stroke-width="2" stroke-dasharray="{dash}"'


def _definitions(entries: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{_text(k)}</dt><dd>{_text(v)}</dd>' for k, v in entries.items())}</dl>"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f24; --page: #fff; --line: #d0d7de; --paper: #57606a; --link: #0550ae;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --page: #0d1117; --line: #30363d; --paper: #9da7b1; --link: #79c0ff; }
}
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); }
main { max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .4rem .8rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: nowrap; }
tbody th { position: sticky; left: 0; background: var(--page); text-align: left; }
td a { color: inherit; text-decoration: none; }
td a:hover, td a:focus-visible { text-decoration: underline; }
a, summary { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.paper { display: block; color: var(--paper); font-size: .85rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
figure { margin: 0; }
figure svg { width: 100%; max-width: 44rem; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
.axis { fill: none; stroke: var(--paper); }
.key { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
.key svg { width: 28px; vertical-align: middle; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1rem; }
.pictures img { width: 100%; image-rendering: pixelated; }
figcaption { color: var(--paper); font-size: .9rem; }
summary { cursor: pointer; padding: .5rem 0; }
pre { overflow-x: auto; padding: .75rem; font-size: .85rem; }
pre { border: 1px solid var(--line); border-radius: 6px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
"""
