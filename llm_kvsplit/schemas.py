"""JSON schemas: which keywords llguidance enforces, and a check of the answer where it comes near only.

llguidance enforces a part of JSON Schema 2020-12 and its forerunners, and says what it does not (its
docs/json_schema.md). A keyword that would be ignored is an error here. ``oneOf`` is written as ``anyOf``, and the answer
checked afterwards, in a child process, since a pattern may keep Python's ``re`` busy for ever.
"""

from __future__ import annotations

import decimal
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from .errors import KvsplitError
from .grammar import Grammar, Reading, read

#: Between two parts of a document: a space, or the next line's beginning. Without a bound, a small model writes white
#: space for ever.
_LAYOUT = {"whitespace_pattern": r" |\r?\n[ \t]{0,40}", "lenient": True}
#: As Python's json writes it.
_ONE_LINE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": True}
_DRAFT_3 = "json-schema.org/draft-03/"
_DRAFT_7_CONTENT = ("contentEncoding", "contentMediaType")
#: Formats that JSON Schema defines, and llguidance does not know. Others are notes to a reader.
_DEFINED_FORMATS = frozenset(
    {
        "idn-email",
        "idn-hostname",
        "iri",
        "iri-reference",
        "json-pointer",
        "regex",
        "relative-json-pointer",
        "uri-reference",
        "uri-template",
    }
)
#: Keywords whose value is a schema or a list of them, and those whose value has schemas by name.
_SCHEMAS = frozenset(
    (
        *("additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "contentSchema", "else", "if"),
        *("items", "not", "oneOf", "prefixItems", "propertyNames", "then"),
        *("unevaluatedItems", "unevaluatedProperties"),
    )
)
_NAMED_SCHEMAS = frozenset(
    ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
)
#: Keywords that hold numbers, which llguidance keeps in 15 digits.
_NUMBERS = ("const", "enum", "exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum")
#: Keywords that count, whose value may be written as 2.0.
_COUNTS = frozenset(("maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"))
#: In JavaScript, U+FEFF is white space.
_ESCAPE_OR_CLASS, _NO_SPACE = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]", re.DOTALL), "[^\\s\ufeff]"
#: Days that there are (llguidance takes any to 29 February), minutes of 60 seconds (leap seconds are few), and names of
#: hosts without Punycode, most of which means nothing.
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DAY = (
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_CLOCK = "[0-9]{2}:[0-9]{2}:[0-5][0-9]"
_LETTER, _MIDDLE = "[A-Za-z0-9]", "[A-Za-z0-9-]"
_LABEL = (
    f"(?:{_LETTER}(?:{_MIDDLE}{{0,2}}{_LETTER})?"
    f"|{_LETTER}{_MIDDLE}(?:{_LETTER}{_MIDDLE}|-{_LETTER}){_MIDDLE}{{0,58}}{_LETTER})"
)
_EXACT = {
    "date": {"pattern": f"^{_DAY}$"},
    "date-time": {"pattern": f"^{_DAY}[Tt ]{_CLOCK}.*$"},
    "time": {"pattern": f"^{_CLOCK}.*$"},
    "hostname": {"pattern": f"^{_LABEL}(?:[.]{_LABEL})*$", "maxLength": 253},
}
_CHECK_SECONDS = 20


def grammar(schema: Any, *, one_line: bool = False) -> Grammar:
    """The grammar of the documents that a schema allows; ``one_line``: with white space as Python's json has it.

    Raises KvsplitError that names the keyword which cannot be enforced, or what is wrong with the schema.
    """
    if isinstance(schema, dict) and _DRAFT_3 in str(schema.get("$schema")):
        raise KvsplitError("The schema is of draft 3, whose keywords mean something else today: use draft 4 or later.")
    text = _text(schema, _ONE_LINE if one_line else _LAYOUT)
    reading = read(Grammar(text, "the schema"))
    if reading.error:
        raise _error(schema, reading)
    formats = tuple(w.removeprefix("Unknown format: ") for w in reading.warnings if w.startswith("Unknown format: "))
    ignored = [*_ignored(reading), *(f"format {name}" for name in formats if name in _DEFINED_FORMATS)]
    ignored += _rounded(schema)
    if isinstance(schema, dict) and "json-schema.org/draft-07/" in str(schema.get("$schema")):
        # Notes to a reader ever since.
        ignored += [name for _, part in _parts(schema) for name in part if name in _DRAFT_7_CONTENT]
    if ignored:
        raise _unenforced(schema, ignored)
    approximated = ("oneOf",) if any(w.startswith("oneOf ") for w in reading.warnings) else ()
    return Grammar(text, "the schema", schema, approximated, formats)


def _text(schema: Any, layout: dict[str, Any] = _LAYOUT) -> str:
    """The schema in llguidance's own form."""
    try:
        schema = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as ex:
        raise KvsplitError(f"The schema is not JSON: {ex}.") from ex
    if isinstance(schema, dict):
        for _, part in [*_parts(schema)]:
            _sharpen(part)
        # A person's options would override these.
        schema["x-guidance"] = layout
    return json.dumps({"grammars": [{"json_schema": schema}]})


def _sharpen(part: dict[str, Any]) -> None:
    """Write what llguidance takes more loosely than JSON Schema, or not at all, in a way that it takes."""
    for name, value in part.items():
        if name in _COUNTS and isinstance(value, float) and value.is_integer():
            part[name] = int(value)
        elif name == "pattern" and isinstance(value, str):
            part[name] = _ESCAPE_OR_CLASS.sub(lambda m: _NO_SPACE if m[0] == r"\S" else m[0], value)
    exact = _EXACT.get(part["format"]) if isinstance(part.get("format"), str) else None
    if exact and isinstance(part.get("allOf", []), list):
        part["allOf"] = [*part.get("allOf", []), exact]


def _unenforced(schema: Any, keywords: list[str]) -> KvsplitError:
    return KvsplitError(f"The schema has {_listed(schema, keywords)}, which cannot be enforced: leave it out.")


def _rounded(schema: Any) -> list[str]:
    return [f"{name} {number}" for _, part in _parts(schema) for name, number in _inexact(part)]


def _inexact(part: dict[str, Any]) -> Iterator[tuple[str, int | float]]:
    """Numbers that llguidance would round, with their keywords."""
    waiting = [(name, part[name]) for name in _NUMBERS if name in part]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, (list, dict)):
            waiting += [(name, each) for each in (value.values() if isinstance(value, dict) else value)]
        elif (isinstance(value, int) and abs(value) > 2**53) or (
            isinstance(value, float) and len(re.sub(r"e.*|\D", "", repr(value)).strip("0")) > 15
        ):
            yield name, value


def _ignored(reading: Reading) -> Iterator[str]:
    for warning in reading.warnings:
        if warning.startswith("Unimplemented keys: "):
            yield from json.loads(warning.removeprefix("Unimplemented keys: "))
        elif warning.startswith("min/maxProperties"):
            yield "minProperties or maxProperties beside optional properties"
        elif not warning.startswith(("Unknown format: ", "oneOf ")):
            yield warning


def _error(schema: Any, reading: Reading) -> KvsplitError:
    """Why llguidance cannot read the schema: it is none, or asks for too much."""
    import jsonschema

    try:
        validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        fault = jsonschema.exceptions.best_match(validator(validator.META_SCHEMA).iter_errors(schema))
    except Exception:  # too deep, or its $schema is no text
        fault = None
    if fault is not None:
        words = fault.message if len(fault.message) <= 200 else fault.message[:200] + "…"
        return KvsplitError(f"The schema is not a valid JSON schema at {fault.json_path}: {words}.")
    if reading.error.startswith("Unsatisfiable schema: "):
        return KvsplitError(f"The schema allows nothing: {reading.error.removeprefix('Unsatisfiable schema: ')}.")
    if rounded := _rounded(schema):  # llguidance fails on some without a word of where they stand
        return _unenforced(schema, rounded)
    for place, part in _parts(schema):
        if "pattern" in part and (error := read(Grammar(_text({"pattern": part["pattern"]}), "")).error):
            return KvsplitError(f"The schema's pattern at {place} cannot be enforced: {error}.")
    return KvsplitError(f"The schema cannot be enforced: {reading.error}.")


def _listed(schema: Any, keywords: list[str]) -> str:
    """The keywords, each with the place where it stands first."""
    places: dict[str, str] = {}
    for place, part in _parts(schema):
        for name, value in part.items():
            places.setdefault(name, place)
            if name == "format" and isinstance(value, str):
                places.setdefault(f"format {value}", place)
    texts = [f"{name} (at {places[name]})" if name in places else name for name in dict.fromkeys(keywords)]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _parts(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and those within it, each with its place as a JSON path."""
    waiting = [("$", schema)]
    while waiting:
        place, part = waiting.pop(0)
        if not isinstance(part, dict):
            continue
        yield place, part
        for name, value in part.items():
            if name in _NAMED_SCHEMAS and isinstance(value, dict):
                waiting += [(f"{place}.{name}.{key}", each) for key, each in value.items()]
            elif name in _SCHEMAS and isinstance(value, list):
                waiting += [(f"{place}.{name}[{i}]", each) for i, each in enumerate(value)]
            elif name in _SCHEMAS:
                waiting.append((f"{place}.{name}", value))


def fault(schema: Any, answer: str) -> str | None:
    """What of ``schema`` an answer does not follow, in a few words; None if it does.

    Raises KvsplitError where it cannot be checked.
    """
    order = json.dumps({"schema": schema, "answer": answer})
    try:
        child = subprocess.run(
            [sys.executable, "-m", "llm_kvsplit.schemas"],
            input=order,
            capture_output=True,
            encoding="utf-8",
            timeout=_CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired as ex:
        raise KvsplitError(f"Checking the answer against the schema takes more than {_CHECK_SECONDS} s.") from ex
    if child.returncode:
        words = child.stderr.strip().splitlines()
        raise KvsplitError(
            f"The answer could not be checked against the schema: {words[-1] if words else 'no reason'}."
        )
    return json.loads(child.stdout)


def _fault(schema: Any, answer: str) -> str | None:
    import jsonschema
    from referencing import Registry

    Validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    schema, instance = exactly(schema, answer)
    # An empty registry fetches nothing.
    errors = Validator(schema, registry=Registry()).iter_errors(instance)
    first = jsonschema.exceptions.best_match(errors)
    if first is None:
        return None
    words = first.message if len(first.message) <= 200 else first.message[:200] + "…"
    return f"{words} ({first.validator} at {first.json_path})"


def exactly(schema: Any, answer: str) -> tuple[Any, Any]:
    """Both with the numbers as they are written, and a precision of decimals that divides them.

    Raises ValueError for an answer that is no JSON.
    """
    decimal.getcontext().prec = len(answer) + 500  # a quotient has no more digits
    return json.loads(json.dumps(schema), parse_float=exact), json.loads(answer, parse_float=exact)


#: An exponent that no Decimal has.
_EXPONENT = re.compile(r"(?<=[eE])([+-]?)0*[1-9]\d{15,}")


def _within(exponent: re.Match[str]) -> str:
    """One that a Decimal has, and that lies as far beyond all numbers of a schema."""
    return f"{exponent[1]}{10**15}"


def exact(number: str) -> int | Decimal:
    """A JSON number with a point or an exponent. In binary fractions, 1.6091 is no multiple of 0.0001; 3.0 is an integer."""
    value = Decimal(_EXPONENT.sub(_within, number))
    return int(value) if value.adjusted() < 400 and value == value.to_integral_value() else value


if __name__ == "__main__":
    json.dump(_fault(**json.load(sys.stdin)), sys.stdout)
