"""Values as models write them: JSON, Python's literals, bare words, and Gemma's quotation marks."""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = re.compile(r"\s*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^\W\d][\w.-]*|\$[\w.-]+")
_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
#: Quotation marks, with the one that closes each.
_QUOTES = ('<|"|>', '"""', "'''", '"', "'")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_DEPTH = 64


class NoValue(ValueError):
    """Something else stands there."""


def read(text: str, at: int = 0) -> tuple[Any, int]:
    """The value at ``at``, and where it ends. Raises NoValue."""
    at = _skip(text, at)
    try:
        return json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return _value(text, at, 0)


def whole(text: str) -> Any:
    """The value that ``text`` is. Raises NoValue for anything behind it."""
    value, end = read(text)
    if text[end:].strip():
        raise NoValue(text)
    return value


def arguments(text: str, at: int) -> tuple[dict[str, Any], int]:
    """Python's ``(name=value, …)`` at ``at``, and where it ends. Raises NoValue."""
    return _pairs(text, at, "()", "=", 0)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    at = _skip(text, at)
    if depth > _DEPTH:
        raise NoValue("nested too deeply")
    if text.startswith("{", at):
        return _pairs(text, at, "{}", ":", depth)
    if text.startswith(("[", "("), at):
        return _list(text, at, depth)
    for quote in _QUOTES:
        if text.startswith(quote, at):
            return _string(text, at, quote)
    if number := _NUMBER.match(text, at):
        return json.loads(number[0]) if not re.match(r"-?0\d", number[0]) else number[0], number.end()
    if word := _WORD.match(text, at):
        return _CONSTANTS.get(word[0], word[0]), word.end()
    raise NoValue(text[at : at + 20])


def _string(text: str, at: int, quote: str) -> tuple[str, int]:
    at += len(quote)
    end = at
    while True:
        end = text.find(quote, end)
        if end < 0:
            raise NoValue("a text without an end")
        backslashes = end - len(text[at:end].rstrip("\\")) - at
        if quote == '<|"|>':
            return text[at:end], end + len(quote)
        if backslashes % 2 == 0:
            return _ESCAPE.sub(_unescaped, text[at:end]), end + len(quote)
        end += 1


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code if code in "\\'\"/" else match[0])


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    closing = "]" if text[at] == "[" else ")"
    items: list[Any] = []
    at = _skip(text, at + 1)
    while not text.startswith(closing, at):
        item, at = _value(text, at, depth + 1)
        items.append(item)
        at = _behind_comma(text, at)
    return items, at + 1


def _pairs(text: str, at: int, brackets: str, separator: str, depth: int) -> tuple[dict[str, Any], int]:
    if not text.startswith(brackets[0], at):
        raise NoValue(text[at : at + 20])
    pairs: dict[str, Any] = {}
    at = _skip(text, at + 1)
    while not text.startswith(brackets[1], at):
        key, at = _value(text, at, depth + 1)
        at = _skip(text, at)
        if not isinstance(key, str) or not text.startswith(separator, at):
            raise NoValue(text[at : at + 20])
        pairs[key], at = _value(text, at + 1, depth + 1)
        at = _behind_comma(text, at)
    return pairs, at + 1


def _behind_comma(text: str, at: int) -> int:
    # Missing commas are read over: a template of Gemma 3 teaches to leave them out.
    at = _skip(text, at)
    return _skip(text, at + 1) if text.startswith(",", at) else at
