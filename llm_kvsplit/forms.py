"""The form that a person asked an answer to have: a JSON schema, a regular expression or a Lark grammar.

It is checked here, before a model is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import schemas
from .errors import KvsplitError
from .grammar import Grammar, Reading, read, require

#: A Lark file's bytes: as deep as its rules nest, llguidance recurses.
_LARK_BYTES = 256 << 10


def wanted(schema: Any, regex: str | None, lark_file: str | None) -> Grammar | None:
    """The grammar that was asked for; None where the answer is free. Raises KvsplitError, naming what is wrong."""
    asked = [
        name
        for name, value in (("a schema", schema), ("-o regex", regex), ("-o grammar", lark_file))
        if value is not None
    ]
    if len(asked) > 1:
        raise KvsplitError(f"The answer can follow one of these, not both: {' and '.join(asked)}.")
    if asked:
        require()
    if schema is not None:
        return schemas.grammar(schema)
    if regex is not None:
        return _from_regex(regex)
    return _from_lark(Path(lark_file).expanduser()) if lark_file is not None else None


def _from_regex(regex: str) -> Grammar:
    from llguidance import LLMatcher

    grammar = Grammar(LLMatcher.grammar_from_regex(regex), "-o regex")
    _refuse(read(grammar), "-o regex is not understood")
    return grammar


def _from_lark(file: Path) -> Grammar:
    try:
        data = file.read_bytes()[: _LARK_BYTES + 1]
        text = data.decode("utf-8")
    except (OSError, ValueError) as ex:
        reason = ex.strerror if isinstance(ex, OSError) else "it is not UTF-8 text"
        raise KvsplitError(f"-o grammar needs a file with a Lark grammar, and {file} cannot be read: {reason}.") from ex
    if len(data) > _LARK_BYTES:
        raise KvsplitError(f"{file} has more than {_LARK_BYTES >> 10} KiB: give -o grammar a smaller grammar.")
    if re.search(r"^\s*[\w-]+\s*::=", text, re.MULTILINE):
        raise KvsplitError(
            f"{file} is a GBNF grammar, and -o grammar reads Lark: 'python -m llguidance.gbnf_to_lark {file}' turns "
            "one into the other."
        )
    # llguidance takes a text that begins with a brace for its own JSON form.
    grammar = Grammar(f"%llguidance {{}}\n{text}", "-o grammar")
    _refuse(read(grammar), f"{file} is not understood")
    return grammar


def _refuse(reading: Reading, sentence: str) -> None:
    if reading.error:
        raise KvsplitError(f"{sentence}: {reading.error}.")
