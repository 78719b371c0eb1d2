"""JSON schemas: what an answer may be, what is refused by name, and what is checked afterwards."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from llguidance import LLTokenizer

from llm_kvsplit import grammar, schemas
from llm_kvsplit.errors import KvsplitError
from tests.support.made_schemas import made_schemas

BYTES = LLTokenizer("byte")


def accepted(schema, text):
    form = schemas.grammar(schema)
    matcher = grammar.matcher(BYTES, form.text)
    tokens = list(text.encode())
    followed = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
    return followed and not (form.approximated and schemas.fault(schema, text))


DATE = {"type": "string", "format": "date"}
TREE = {"type": "object", "properties": {"v": {"type": "integer"}, "on": {"$ref": "#"}}, "required": ["v"]}
CASES = [
    ({}, '{"a": [1, null]}', True),
    (True, "[]", True),
    ({"description": "anything"}, "1", True),
    ({"enum": ["🙂"]}, '"🙂"', True),
    ({"enum": ["a\nb"]}, '"a\nb"', False),
    ({"enum": ["a\nb"]}, '"a\\nb"', True),
    ({"const": 'D:\\x "y"\0'}, '"D:\\\\x \\"y\\"\\u0000"', True),
    ({"type": "integer", "exclusiveMinimum": 5, "maximum": 9}, "5", False),
    ({"type": "integer", "exclusiveMinimum": 5, "maximum": 9}, "9", True),
    ({"type": ["array", "null"], "items": {"type": "integer"}}, '["x"]', False),
    ({"type": "array", "minItems": 2}, "[3]", False),
    ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, '["a", 4]', True),
    ({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["k"]}, '{"n": 3}', False),
    ({"type": "string", "pattern": "^[^k]+$"}, '"a\nb"', False),
    ({"type": "string", "pattern": r"^\d{3}\.x$"}, '"123.x"', True),
    ({"type": "string", "pattern": r"^\S$"}, '"\ufeff"', False),
    ({"type": "string", "maxLength": 2.0}, '"abc"', False),
    ({"type": "string", "maxLength": 100_000}, '"abc"', True),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 65_535}, "[3]", True),
    ({"type": "string", "pattern": "^(((z{0,30}){0,30}){0,30})$"}, '"zzz"', True),
    ({"type": "string", "pattern": "^(a+)+$"}, '"' + "a" * 2000 + '!"', False),
    (TREE, '{"v": 1, "on": {"v": 2}}', True),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer"}}}, "1", True),
    ({"allOf": [{"$ref": "#/$defs/x"}, {"maxLength": 1}], "$defs": {"x": {"type": "string"}}}, '"ab"', False),
    ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, '{"b": 3}', True),
    (DATE, '"2024-02-29"', True),
    (DATE, '"2023-02-29"', False),
    ({"type": "string", "format": "date-time"}, '"2023-02-28T23:58:60Z"', False),
    ({"type": "string", "format": "date-time"}, '"2023-02-28T23:58:59.5+01:00"', True),
    ({"type": "string", "format": "hostname"}, '"a-b.example.org"', True),
    ({"type": "string", "format": "hostname"}, '"xn--x"', False),
    ({"type": "string", "format": "a note"}, '"x"', True),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "3", False),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "3.5", True),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "3.0", False),
    ({"oneOf": [{"const": "a"}, {"const": "b"}]}, '"a"', True),
    ({"x-guidance": {"lenient": True, "whitespace_pattern": ".*"}, "type": "integer"}, "x1", False),
]


@pytest.mark.parametrize("schema, text, may_be", CASES)
def test_what_an_answer_may_be(schema, text, may_be):
    assert accepted(schema, text) is may_be


@pytest.mark.parametrize(
    "schema, sentence",
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems (at $)"),
        ({"properties": {"a": {"not": {}}}}, "not (at $.properties.a)"),
        ({"if": {"type": "string"}, "then": False, "propertyNames": {}}, "if (at $), propertyNames (at $) and then"),
        ({"properties": {"a": {}, "b": {}}, "minProperties": 2}, "minProperties"),
        ({"items": {"type": "string", "format": "json-pointer"}}, "format json-pointer (at $.items)"),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "draft 3"),
        ({"$ref": "https://example.org/x"}, "$ref leads to https://example.org/x"),
        ({"items": {"pattern": "(?=a)b"}}, "pattern at $.items cannot be enforced: look-around"),
        ({"type": "string", "maxLength": None}, "at $.maxLength: None is not of type 'integer'"),
        ({"type": "string", "maxLength": "é" * 200}, "at $.maxLength"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "allows nothing"),
        (False, "allows nothing"),
        ({"const": float("nan")}, "not JSON"),
        ({"type": "integer", "multipleOf": 10**9 + 7}, "fuel"),
        ({"type": "number", "maximum": 18446744073709551615}, "maximum 18446744073709551615"),
        ({"enum": [{"id": 12345678901234567}]}, "enum 12345678901234567"),
        ({"const": 8.656903113634903e-104}, "const 8.656903113634903e-104"),
    ],
)
def test_what_cannot_be_enforced_is_named_in_a_sentence(schema, sentence):
    with pytest.raises(KvsplitError) as error:
        schemas.grammar(schema)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_of_many_digits_is_checked_and_one_beyond_computing_is_named():
    schema = {"oneOf": [{"multipleOf": 0.01}, {"type": "object"}]}
    assert schemas.fault(schema, "1" * 600 + ".5") is None
    assert "oneOf at $" in schemas.fault(schema, "1." + "1" * 3000)
    with pytest.raises(KvsplitError, match="could not be checked against the schema"):
        schemas.fault(schema, "1e99999999999999999999")


def test_oneof_is_checked_after_the_answer():
    schema = {"oneOf": [{"type": "integer"}, {"type": "number"}]}
    assert schemas.grammar(schema).approximated == ("oneOf",)
    assert "oneOf at $" in schemas.fault(schema, "3")
    assert schemas.fault(schema, "3.5") is None


def test_a_check_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(schemas, "_CHECK_SECONDS", 1)
    with pytest.raises(KvsplitError, match="more than 1 s"):
        schemas.fault({"pattern": "^(a+)+$"}, json.dumps("a" * 40 + "!"))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(made_schemas())
def test_any_schema_compiles_or_is_refused_in_a_sentence(schema):
    try:
        schemas.grammar(schema)
    except KvsplitError as refusal:
        assert "\n" not in str(refusal)


@pytest.mark.parametrize(
    ("answer", "follows"),
    [
        ("1e99999999999999999999", False),
        ("-1e99999999999999999999", True),
        ("1E-99999999999999999999", True),
        (f"1e-{'9' * 5000}", True),
        ("1e+000000000000000000000", True),
        ("1e+000000000000000000001", False),
    ],
)
def test_a_number_with_an_exponent_beyond_all_decimals_is_compared(answer, follows):
    assert (schemas.fault({"type": "number", "maximum": 5}, answer) is None) == follows
