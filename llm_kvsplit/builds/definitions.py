"""What a C library's headers say, as data: ``bindings.json`` of a build, made of the very tree that it was built from.

A type is a word: ``void``, ``bool``, ``char``, ``int32``, ``uint64``, ``float32``, ``enum32`` (an enumeration of 32 bits),
the name of a structure or of a callback, and any of these with ``*`` behind it for a pointer. Structures that nobody
looks into are named only where the plugin names them; other pointers to structures are ``void*``. ``uint8[24]`` is an
array, and also a structure that is not described. A signature is ``int32(llama_context*, llama_batch)``.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import KvsplitError

SCHEMA = 1
_TYPE = re.compile(r"[A-Za-z_]\w*(\*{0,3}|\[\d{1,6}\])")
_SIGNATURE = re.compile(r"([^(),]+)\(([^()]*)\)")
#: No structure that is passed by value comes near it, in bytes.
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Field:
    #: Bytes from the structure's beginning.
    offset: int
    type: str


@dataclass(frozen=True)
class Struct:
    #: Bytes, padding included.
    size: int
    fields: dict[str, Field]


@dataclass(frozen=True)
class Definitions:
    """All by name: signatures of functions and of callbacks, layouts of structures, values of constants."""

    functions: dict[str, str]
    callbacks: dict[str, str]
    structs: dict[str, Struct]
    constants: dict[str, int]


def split(signature: str) -> tuple[str, list[str]]:
    """``int32(llama_context*, llama_batch)`` -> the type of the result, and those of the arguments."""
    result, arguments = _SIGNATURE.fullmatch(signature).groups()  # type: ignore[union-attr]  # read() has looked
    return result, [each.strip() for each in arguments.split(",")] if arguments else []


def text(definitions: Definitions) -> str:
    """As JSON, a line for each thing defined, so that two files can be compared with diff."""
    parts = {"schema": SCHEMA, **asdict(definitions)}
    parts["structs"] = {
        name: {"size": struct.size, "fields": {field: [at.offset, at.type] for field, at in struct.fields.items()}}
        for name, struct in definitions.structs.items()
    }
    return json.dumps(parts, indent=1) + "\n"


def read(file: Path) -> Definitions:
    """Raises KvsplitError for a file that is not what ``text()`` writes: it may have come from elsewhere."""
    try:
        return parse(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
        raise KvsplitError(f"{file} cannot be read as the definitions of a library ({failure}).") from None


def parse(parts: dict[str, Any]) -> Definitions:
    """From what ``text()`` wrote. Raises ValueError, KeyError, TypeError or AttributeError."""
    if parts["schema"] != SCHEMA:
        raise ValueError(f"its schema is {parts['schema']!r}, not {SCHEMA}")
    return Definitions(
        functions={_name(name): _signature(each) for name, each in parts["functions"].items()},
        callbacks={_name(name): _signature(each) for name, each in parts["callbacks"].items()},
        structs={_name(name): _struct(each) for name, each in parts["structs"].items()},
        constants={_name(name): _number(each) for name, each in parts["constants"].items()},
    )


def _struct(parts: dict[str, Any]) -> Struct:
    size = _number(parts["size"])
    fields = {_name(name): Field(_number(at), _type(kind)) for name, (at, kind) in parts["fields"].items()}
    if not 0 < size <= _LARGEST or any(not 0 <= field.offset < size for field in fields.values()):
        raise ValueError("a structure has an impossible size")
    return Struct(size, fields)


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w{0,100}", name):
        raise ValueError(f"{name!r} is no name")
    return name


def _number(number: Any) -> int:
    if type(number) is not int:
        raise ValueError(f"{number!r} is no whole number")
    return number


def _type(kind: str) -> str:
    if not _TYPE.fullmatch(kind):
        raise ValueError(f"{kind!r} is no type")
    return kind


def _signature(signature: str) -> str:
    if not _SIGNATURE.fullmatch(signature):
        raise ValueError(f"{signature!r} is no signature")
    result, arguments = split(signature)
    for kind in (result, *arguments):
        _type(kind)
    return signature
