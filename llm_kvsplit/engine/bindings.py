"""llama.cpp's functions, structures and constants as Python objects, made of a library's definitions by ctypes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from types import ModuleType, SimpleNamespace
from typing import Any

from ..builds import interface
from ..builds.definitions import Definitions, Field, Struct, split

_Function: Any = ctypes._CFuncPtr  # type: ignore[attr-defined]  # what every foreign function is an instance of
_PLAIN: dict[str, Any] = {
    "void": None,
    "bool": ctypes.c_bool,
    "char": ctypes.c_char,
    "float32": ctypes.c_float,
    "float64": ctypes.c_double,
    "enum32": ctypes.c_int32,
    **{f"{sign}int{bits}": getattr(ctypes, f"c_{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def bind(definitions: Definitions, library: ctypes.CDLL, *, media: bool = False) -> SimpleNamespace:
    """All that ``interface`` lists, under its C names, and the ``library`` itself.

    ``media``: what it lists of libmtmd, which ``library`` is then. Raises AttributeError for a function that the library lacks, ValueError for a structure that ctypes cannot hold.
    """
    types = {**_PLAIN}
    for name, signature in definitions.callbacks.items():
        result, arguments = split(signature)
        types[name] = ctypes.CFUNCTYPE(_type(result, types), *[_type(each, types) for each in arguments])
    described = interface.MEDIA_FIELDS if media else interface.FIELDS
    functions = interface.MEDIA_FUNCTIONS if media else {**interface.OPTIONAL, **interface.FUNCTIONS}
    for name, fields in described.items():
        types[name] = _structure(name, definitions.structs[name], types, fields)
    names: dict[str, Any] = {"library": library, **definitions.constants}
    names |= {name: types[name] for name in (*interface.CALLBACKS, *described)}
    for name, signature in functions.items():
        if name in interface.OPTIONAL and not hasattr(library, name):
            continue
        # An item and not an attribute, which others share who have loaded the same library (llama-cpp-python does).
        function = library[name]
        result, arguments = split(signature)
        function.restype, function.argtypes = _type(result, types), [_type(each, types) for each in arguments]
        names[name] = function
    return SimpleNamespace(**names)


def _type(word: str, types: dict[str, Any]) -> Any:
    """The ctypes type of a word; a pointer to what nobody looks into is an address."""
    if word in types:
        return types[word]
    if word == "char*":
        return ctypes.c_char_p
    if word.endswith("*"):
        pointed = word[:-1]
        known = pointed.endswith("*") or pointed in types
        return ctypes.POINTER(_type(pointed, types)) if known and pointed != "void" else ctypes.c_void_p
    if array := re.fullmatch(r"(\w+)\[(\d+)\]", word):
        return _type(array[1], types) * int(array[2])
    raise ValueError(f"{word} is not defined")


def _structure(name: str, struct: Struct, types: dict[str, Any], used: Iterable[str]) -> type[ctypes.Structure]:
    """A structure whose fields lie where the compiler put them; bytes that no field covers are left as they are."""
    members: list[tuple[str, Any]] = []
    end = 0
    for field, at in sorted(struct.fields.items(), key=lambda item: item[1].offset):
        if at.offset < end:
            continue  # the other side of a union
        kind = _type(at.type, types)
        if at.offset >= end + ctypes.alignment(kind):
            members.append((f"_before_{field}", ctypes.c_uint8 * (at.offset - end)))
        members.append((field, kind))
        end = at.offset + ctypes.sizeof(kind)
    members += [("_end", ctypes.c_uint8 * (struct.size - end))] if struct.size >= end + 8 else []
    made = type(name, (ctypes.Structure,), {"__slots__": (), "_fields_": members})  # slots: no attribute by mistake
    wrong = [
        field for field, _ in members if field[0] != "_" and getattr(made, field).offset != struct.fields[field].offset
    ]
    lost = [field for field in used if not hasattr(made, field)]
    # A small one travels in registers that its fields' types choose, so none may be missing.
    patched = struct.size <= 32 and any(field.startswith("_") for field, _ in members)
    if wrong or lost or patched or ctypes.sizeof(made) != struct.size:
        raise ValueError(f"struct {name} cannot be laid out as its library has it")
    return made


def mirrored(module: ModuleType, symbols: dict[str, str] | None = None) -> Definitions:
    """What a module of llama-cpp-python defines by hand, in the same words; pointers are often ``void*`` there.

    ``symbols``: Python name -> C name of its functions; without them each is taken to have its C name.
    """
    functions, structs, constants = {}, {}, {}
    for name, value in vars(module).items():
        if isinstance(value, _Function):
            symbol = value.__name__ if symbols is None else symbols.get(value.__name__)
            if symbol:
                arguments = ", ".join(_argument(each) for each in value.argtypes or ())
                functions[symbol] = f"{_word(value.restype)}({arguments})"
        elif isinstance(value, type) and issubclass(value, (ctypes.Structure, ctypes.Union)):
            if getattr(value, "_fields_", ()):  # an opaque one has no layout to be wrong about
                structs[value.__name__] = _layout(value)
        elif type(value) is int and name.startswith(("LLAMA_", "GGML_", "MTMD_")):
            constants[name] = value
    return Definitions(functions, {}, structs, constants)


def _layout(struct: Any) -> Struct:
    fields = {name: Field(getattr(struct, name).offset, _word(kind)) for name, kind, *_ in struct._fields_}
    return Struct(ctypes.sizeof(struct), fields)


def _argument(kind: Any) -> str:
    # An array parameter is a pointer in C.
    return f"{_word(kind._type_)}*" if isinstance(kind, type) and issubclass(kind, ctypes.Array) else _word(kind)


def _word(kind: Any) -> str:
    if kind is None:
        return "void"
    if issubclass(kind, ctypes._Pointer):
        return f"{_word(kind._type_)}*"
    if issubclass(kind, ctypes.c_char_p):
        return "char*"
    if issubclass(kind, (ctypes.c_void_p, _Function, ctypes.py_object)):
        return "void*"
    if issubclass(kind, ctypes.Array):
        return f"{_word(kind._type_)}[{kind._length_}]"
    if issubclass(kind, (ctypes.Structure, ctypes.Union)):
        return kind.__name__
    if issubclass(kind, (ctypes.c_bool, ctypes.c_char)):
        return kind.__name__.removeprefix("c_")
    bits = 8 * ctypes.sizeof(kind)
    if kind._type_ in "fdg":
        return f"float{bits}"
    return f"{'int' if kind(-1).value < 0 else 'uint'}{bits}"
