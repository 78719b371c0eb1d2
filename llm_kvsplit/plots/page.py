"""The results as one HTML file: tables, and charts that answer to the mouse, with nothing from the network."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..bench import summary

if TYPE_CHECKING:
    from ..bench.results import Results

_TEMPLATE = Path(__file__).with_name("page.html")


def page(results: Results) -> str:
    """The whole page. Its charts are drawn by a script in it; the tables are there without."""
    tables = [
        f"<h2>{html.escape(each.title)}</h2>\n{_table(each.rows)}\n<p>{html.escape(each.note)}</p>"
        for each in summary.tables(results)
    ]
    # "</script>" in a model's name must not end the script.
    data = json.dumps({"pairs": results.pairs(), "cells": results.cells()}).replace("<", "\\u003c")
    about = results.about
    title = f"{about['model']['name']}: KV cache by bits"
    facts = [
        ("measured", summary.caption(results)),
        ("model", f"SHA-256 {about['model']['sha256']}, trained for {about['model']['n_ctx_train']} tokens"),
        ("text", f"{about['text']['name']}, SHA-256 {about['text']['sha256']}"),
        ("made by", about["made_by"]),
    ]
    parts = {
        "TITLE": html.escape(title),
        "FACTS": "\n".join(f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts),
        "LEGEND": html.escape(summary.LEGEND),
        "TABLES": "\n".join(tables),
        "DATA": data,
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = rows
    lines = ["<table>", "<tr>" + "".join(f"<th>{html.escape(each)}</th>" for each in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(each)}</td>" for each in row) + "</tr>" for row in body]
    return "\n".join([*lines, "</table>"])
