"""JSON schemas that nobody thought of, by hypothesis-jsonschema."""

from typing import Any

from hypothesis.strategies import SearchStrategy
from hypothesis_jsonschema import from_schema
from jsonschema import Draft7Validator

_SMALL = {
    "anyOf": [
        {"type": "boolean"},
        {"type": "object", "additionalProperties": False, "properties": {"type": {"enum": ["string", "integer"]}}},
    ]
}


def made_schemas() -> SearchStrategy[dict[str, Any]]:
    """Schemas of draft 7 whose keywords have any value that the meta-schema allows."""
    return from_schema(_schema_of_schemas(_SMALL))


def _schema_of_schemas(within: dict[str, Any]) -> dict[str, Any]:
    """The meta-schema of draft 7 without recursion, which hypothesis-jsonschema cannot follow."""
    meta = Draft7Validator.META_SCHEMA

    def expanded(part):
        if isinstance(part, list):
            return [expanded(each) for each in part]
        if not isinstance(part, dict):
            return part
        if part.get("$ref") == "#":
            return within
        if "$ref" in part and isinstance(part["$ref"], str):
            return expanded(meta["definitions"][part["$ref"].rpartition("/")[2]])
        return {name: expanded(each) for name, each in part.items() if name not in ("default", "definitions")}

    named = {name: part for name, part in meta["properties"].items() if name not in ("$ref", "$id", "$schema")}
    return {"type": "object", "additionalProperties": False, "properties": expanded(named)}
