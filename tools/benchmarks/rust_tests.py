"""Schemas and instances out of llguidance's own tests: those that stand there as JSON.

``json_schema_check(schema, instance, valid)`` and ``json_test_many(schema, [valid …], [invalid …])``, where a schema is
``json!(…)``, the name of one, or a parameter that ``#[case(…)]`` fills.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STRING = re.compile(r'r(#*)"(.*?)"\1|"(?:[^"\\]|\\.)*"|//[^\n]*|\'(?:[^\'\\]|\\.)\'', re.DOTALL)
_NAMED = re.compile(r"(?:static ref|let|const|static)\s+(\w+)(?:\s*:\s*&?[\w:]+)?\s*=\s*(?=&?\s*json!\()")
_CHECK = re.compile(r"\bjson_(schema_check|test_many)\(")
_FUNCTION = re.compile(r"\bfn (\w+)\s*\(")


class NoJson(Exception):
    """An expression of Rust that says something else."""


def checks(file: Path) -> Iterator[tuple[str, Any, list[tuple[Any, bool]]]]:
    """(name, schema, instances with whether they are valid) of each check that can be read."""
    code = file.read_text(encoding="utf-8")
    shared = _names(code)
    start = 0
    for match in _FUNCTION.finditer(code):
        parameters, at = _arguments(code, match.end() - 1)
        if match.start() < start or "{" not in code[at:]:
            continue
        body_start = code.index("{", at)
        end = _closed(code, body_start)
        attributes, body = code[start : match.start()], code[body_start:end]
        start = end
        names = [p.partition(":")[0].split()[-1] for p in parameters if "#[case]" in p]
        cases = [_arguments(attributes, m.end() - 1)[0] for m in re.finditer(r"#\[case(?:::\w+)?\(", attributes)]
        for n, values in enumerate(cases or [[]]):
            known = {**shared, **_names(body), **dict(zip(names, values))}
            for m in _CHECK.finditer(body):
                try:
                    yield (
                        f"{file.stem} {match[1]} {n} {m.start()}",
                        *_check(m[1], _arguments(body, m.end() - 1)[0], known),
                    )
                except NoJson:
                    continue


def _check(kind: str, given: list[str], known: dict[str, str]) -> tuple[Any, list[tuple[Any, bool]]]:
    schema = _value(given[0], known)
    if kind == "schema_check":
        verdict = known.get(given[2], given[2])
        if verdict not in ("true", "false"):
            raise NoJson
        return schema, [(_value(given[1], known), verdict == "true")]
    instances = []
    for listed, valid in zip(given[1:3], (True, False)):
        text = known.get(listed, listed).lstrip("&").removeprefix("vec!")
        if not text.startswith("["):
            raise NoJson
        instances += [(_value(each, known), valid) for each in _arguments(text, 0)[0]]
    return schema, instances


def _value(expression: str, known: dict[str, str]) -> Any:
    text = expression.strip()
    for _ in range(4):
        text = text.lstrip("&").strip()
        text = known.get(text, text)
    if not text.startswith("json!("):
        raise NoJson
    inner = text[len("json!(") : _closed(text, len("json!")) - 1]
    plain = re.sub(_STRING, _json_string, inner)
    plain = re.sub(r",(\s*[}\]])", r"\1", plain)
    try:
        return json.loads(plain)
    except ValueError as ex:
        raise NoJson from ex


def _json_string(match: re.Match[str]) -> str:
    if match[2] is not None:
        return json.dumps(match[2])
    if match[0].startswith("//"):
        return ""
    return re.sub(r"\\u\{(\w+)\}", lambda m: json.dumps(chr(int(m[1], 16)))[1:-1], match[0]).replace("\\0", "\\u0000")


def _names(code: str) -> dict[str, str]:
    """The expressions that names stand for."""
    return {m[1]: code[m.end() : _closed(code, code.index("(", m.end()))] for m in _NAMED.finditer(code)}


def _arguments(code: str, at: int) -> tuple[list[str], int]:
    """What stands between the bracket at ``at`` and its end, divided at commas; and where that is."""
    end = _closed(code, at)
    parts, depth, begin, i = [], 0, at + 1, at + 1
    while i < end - 1:
        if literal := _STRING.match(code, i):
            i = literal.end()
            continue
        depth += (code[i] in "([{") - (code[i] in ")]}")
        if code[i] == "," and depth == 0:
            parts.append(code[begin:i].strip())
            begin = i + 1
        i += 1
    return [part for part in (*parts, code[begin : end - 1].strip()) if part], end


def _closed(code: str, at: int) -> int:
    """Behind the bracket that closes the one at ``at``."""
    depth = 0
    while at < len(code):
        if literal := _STRING.match(code, at):
            at = literal.end()
            continue
        depth += (code[at] in "([{") - (code[at] in ")]}")
        at += 1
        if depth == 0:
            break
    return at
