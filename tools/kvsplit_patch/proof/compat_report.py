"""A compatibility table as JSON, as Markdown to paste, and as an HTML page without anything to load."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape

from ..series import replay
from . import compat
from .compat import Cell, CompatTable

_SIGNS = {
    replay.CLEAN: "✓",
    replay.RESOLVED: "✓ kept",
    compat.OUTSIDE: "–",
    replay.CONFLICT: "✗",
    replay.UPSTREAM: "upstream",
    replay.PARTLY: "partly",
    replay.DELETES: "deletes",
}
_MEANINGS = {
    replay.CLEAN: "clean",
    replay.RESOLVED: "as a person resolved it there",
    replay.CONFLICT: "conflict",
    compat.OUTSIDE: "outside the range: what it changes is not there",
    replay.UPSTREAM: "all of it is there already",
    replay.PARTLY: "some of it is there already",
    replay.DELETES: "would remove lines of upstream's",
}
_COLOURS = {
    replay.CLEAN: "#9c9",
    replay.RESOLVED: "#bd9",
    compat.OUTSIDE: "#ddd",
    replay.CONFLICT: "#e77",
    replay.UPSTREAM: "#8be",
    replay.PARTLY: "#ec6",
    replay.DELETES: "#e96",
}


def as_json(table: CompatTable) -> str:
    return json.dumps(asdict(table), indent=1)


def as_markdown(table: CompatTable) -> str:
    notes = [
        f"- {row.tag} {patch}: {note}" for row in table.rows for patch, cell in row.cells.items() for note in cell.notes
    ]
    return "\n".join([small(table), *(["", *notes] if notes else [])]) + "\n"


def small(table: CompatTable) -> str:
    """The table in Markdown with what its signs mean, and without the reasons."""
    lines = [f"Series on `{table.base[:12]}`. {_legend(table)}", ""]
    rows = [["llama.cpp of", *table.patches]]
    rows += [[row.tag, *(_short(row.cells[patch]) for patch in table.patches)] for row in table.rows]
    if len(table.rows) < len(table.patches):  # a page is longer than it is wide
        rows = [list(column) for column in zip(*rows)]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    lines.insert(3, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def _short(cell: Cell) -> str:
    return _SIGNS[cell.state] + (" •" if cell.watched else "")


def _legend(table: CompatTable) -> str:
    """What the signs mean that the table has."""
    cells = [cell for row in table.rows for cell in row.cells.values()]
    states = {cell.state for cell in cells}
    meanings = [f"{_SIGNS[state]} {meaning}" for state, meaning in _MEANINGS.items() if state in states]
    if any(cell.watched for cell in cells):
        meanings.append("• upstream changed a file it touches or watches since the tag above")
    return f"{'; '.join(meanings)}."


def as_html(table: CompatTable) -> str:
    """One row a tag; what a cell knows more shows under the pointer."""
    head = "".join(f"<th>{escape(patch)}</th>" for patch in table.patches)
    rows = []
    for row in table.rows:
        cells = "".join(_cell(row.cells[patch]) for patch in table.patches)
        rows.append(f'<tr><th title="{row.commit}">{escape(row.tag)}</th>{cells}</tr>')
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>llm-kvsplit: compatibility</title>\n'
        "<style>body{font:14px sans-serif}table{border-collapse:collapse}td,th{padding:2px 8px;border:1px solid #ccc}"
        "td{text-align:center}thead th{position:sticky;top:0;background:#fff}"
        + "".join(f".{_class(state)}{{background:{colour}}}" for state, colour in _COLOURS.items())
        + f"</style>\n<p>Series on {escape(table.base)}. {escape(_legend(table))}</p>\n"
        f"<table><thead><tr><th>tag</th>{head}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table></html>\n"
    )


def _cell(cell: Cell) -> str:
    title = "\n".join([cell.state, *cell.notes, *(f"changed: {path}" for path in cell.watched)])
    return f'<td class="{_class(cell.state)}" title="{escape(title)}">{escape(_short(cell))}</td>'


def _class(state: str) -> str:
    return state.replace(" ", "-")
