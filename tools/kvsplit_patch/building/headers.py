"""What a tree's headers define, asked of the compiler.

Nobody copies llama.h by hand: a C++ program is made that prints the layouts, signatures and values by the names that
somebody uses, compiled with the tree's headers, and run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llm_kvsplit.builds import definitions, interface
from llm_kvsplit.builds.definitions import Definitions

from ..errors import PatchError
from ..failures import build_error

#: The headers of what is used, as far as a tree has them; the first makes a folder a tree of llama.cpp.
HEADERS = (
    "include/llama.h",
    "include/llama-kvsplit.h",
    "ggml/include/ggml-backend.h",
    "ggml/include/ggml-rpc.h",
    "ggml/src/ggml-quants.h",
    "ggml/src/ggml-kv-types.h",
    "tools/mtmd/mtmd.h",
    "tools/mtmd/mtmd-helper.h",
)
_INCLUDE = ("include", "ggml/include", "ggml/src", "tools/mtmd", "common")


@dataclass(frozen=True)
class Names:
    """What to ask the headers for."""

    functions: tuple[str, ...]
    callbacks: tuple[str, ...]
    #: Name -> fields to look for, beside those that the headers name.
    structs: dict[str, tuple[str, ...]]
    constants: tuple[str, ...]
    #: Structures that are only pointed to, to be told apart.
    opaque: tuple[str, ...]


def used() -> Names:
    """What the plugin uses."""
    return Names(
        functions=(*interface.FUNCTIONS, *interface.OPTIONAL, *interface.MEDIA_FUNCTIONS),
        callbacks=tuple(interface.CALLBACKS),
        structs={name: tuple(fields) for name, fields in (interface.FIELDS | interface.MEDIA_FIELDS).items()},
        constants=(*interface.CONSTANTS, *interface.MEDIA_CONSTANTS),
        opaque=tuple(sorted(interface.opaque())),
    )


def of_tree(tree: Path, names: Names | None = None) -> Definitions:
    """What the headers of ``tree`` define of ``names``, else of what the plugin uses; what they lack is absent.

    Raises PatchError when they cannot be compiled.
    """
    names = names or used()
    compiler = os.environ.get("CXX", "c++")
    include = [f"-I{tree / folder}" for folder in _INCLUDE]
    present = [header for header in HEADERS if (tree / header).is_file()]
    if HEADERS[0] not in present:
        raise PatchError(f"{tree} holds no {HEADERS[0]}: it is no llama.cpp tree.")
    includes = "".join(f'#include "{Path(header).name}"\n' for header in present)
    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch) / "abi.cpp", Path(scratch) / "abi"
        source.write_text(includes)
        text = _compile([compiler, "-std=c++17", "-E", "-P", *include, str(source)])
        source.write_text(includes + _program(names, text))
        _compile([compiler, "-std=c++17", "-w", "-Wno-invalid-offsetof", *include, str(source), "-o", str(program)])
        answer = subprocess.run([str(program)], capture_output=True, text=True)
    try:
        return definitions.parse(json.loads(answer.stdout))
    except (ValueError, KeyError, TypeError, AttributeError) as failure:
        raise PatchError(f"The headers of {tree} define something that cannot be told ({failure}).") from None


def _compile(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PatchError(f"The headers of the tree do not compile: {build_error(done.stderr)}.")
    return done.stdout


# Types are spelt as llm_kvsplit/builds/definitions.py says; NAMED stands for the names that are asked for.
_PRELUDE = """
#include <cstddef>
#include <cstdio>
#include <string>
#include <type_traits>
template <class T> std::string word() {
    using U = std::remove_cv_t<T>;
NAMED
    if constexpr (std::is_void_v<U>) { return "void"; }
    else if constexpr (std::is_pointer_v<U>) {
        using P = std::remove_cv_t<std::remove_pointer_t<U>>;
        if constexpr (std::is_function_v<P>) { return "void*"; }
        else if constexpr (std::is_class_v<P> || std::is_union_v<P>) { return pointed<P>() + "*"; }
        else { return word<P>() + "*"; }
    }
    else if constexpr (std::is_same_v<U, bool>) { return "bool"; }
    else if constexpr (std::is_same_v<U, char>) { return "char"; }
    else if constexpr (std::is_array_v<U>) {
        return word<std::remove_extent_t<U>>() + "[" + std::to_string(std::extent_v<U>) + "]";
    }
    else if constexpr (std::is_class_v<U> || std::is_union_v<U>) {
        return "uint8[" + std::to_string(sizeof(U)) + "]";
    }
    else {
        const char * sort = std::is_floating_point_v<U> ? "float" : std::is_enum_v<U> ? "enum" :
                            std::is_unsigned_v<U> ? "uint" : "int";
        return sort + std::to_string(8 * sizeof(U));
    }
}
struct field { long offset; std::string type; };
template <class R, class... A> std::string signature(R (*)(A...)) {
    std::string arguments;
    for (const std::string & each : { std::string(), word<A>()... }) {
        arguments += (arguments.empty() || each.empty() ? "" : ", ") + each;
    }
    return word<R>() + "(" + arguments + ")";
}
template <class R, class... A> std::string signature(R (*)(A..., ...)) { return "variadic"; }
"""


def _program(names: Names, text: str) -> str:
    """C++ that prints as JSON what ``text``, the preprocessed headers, declares of ``names``."""
    callbacks = [name for name in names.callbacks if re.search(rf"\(\s*\*\s*{name}\s*\)", text)]
    structs = {name: body for name in names.structs if (body := _body(name, text)) is not None}
    functions = [name for name in names.functions if re.search(rf"\b{name}\s*\(", text)]
    lines = [f"struct {name};" for name in names.opaque]
    # A pointer to a structure that is only declared has no size to ask for, so it has a function of its own.
    lines += ["#include <string>", "#include <type_traits>", "template <class P> std::string pointed() {"]
    lines += [_if_same("P", f"struct {name}", name) for name in (*names.opaque, *structs)]
    lines += ['    return "void";', "}"]
    named = [_if_same("U", name, name) for name in callbacks] + [_if_same("U", name, name) for name in structs]
    lines.append(_PRELUDE.replace("NAMED", "\n".join(named)))
    main = [f'printf("{{\\"schema\\": {definitions.SCHEMA}");']
    main += _section("functions", [_entry(name, f"signature((decltype(&{name})) nullptr)") for name in functions])
    main += _section("callbacks", [_entry(name, f"signature(({name}) nullptr)") for name in callbacks])
    entries = []
    for name, body in structs.items():
        fields = dict.fromkeys([*_field_names(body), *names.structs[name]])
        for index, field in enumerate(fields):
            # A word that names no field must be an answer, not a compile error.
            lines.append(
                f"template <class T> auto {name}_{index}(int) -> decltype((void) sizeof(T::{field}), field())"
                f" {{ return {{(long) offsetof(T, {field}), word<decltype(T::{field})>()}}; }}\n"
                f'template <class T> field {name}_{index}(long) {{ return {{-1, ""}}; }}'
            )
        entries.append(_struct_entry(name, list(fields)))
    main += _section("structs", entries)
    # Macros are gone from the text, and asked for here.
    main += _section(
        "constants", [_constant_entry(name, bool(re.search(rf"\b{name}\b", text))) for name in names.constants]
    )
    main.append('printf("}\\n");')
    return "\n".join([*lines, "int main() {", "const char * comma;", *main, "}", ""])


def _if_same(variable: str, kind: str, word: str) -> str:
    return f'    if constexpr (std::is_same_v<{variable}, {kind}>) {{ return "{word}"; }} else'


def _section(name: str, entries: list[str]) -> list[str]:
    return [f'printf(", \\"{name}\\": {{"); comma = "";', *entries, 'printf("}");']


def _entry(name: str, value: str) -> str:
    return f'printf("%s\\"{name}\\": \\"%s\\"", comma, {value}.c_str()); comma = ", ";'


def _struct_entry(name: str, fields: list[str]) -> str:
    head = f'printf("%s\\"{name}\\": {{\\"size\\": %zu, \\"fields\\": {{", comma, sizeof({name})); comma = "";'
    each = [
        f"if (field at = {name}_{index}<{name}>(0); at.offset >= 0) {{"
        f' printf("%s\\"{field}\\": [%ld, \\"%s\\"]", comma, at.offset, at.type.c_str()); comma = ", "; }}'
        for index, field in enumerate(fields)
    ]
    return "\n".join([head, *each, 'printf("}}"); comma = ", ";'])


def _constant_entry(name: str, enumerated: bool) -> str:
    line = f'printf("%s\\"{name}\\": %lld", comma, (long long) ({name})); comma = ", ";'
    return line if enumerated else f"#ifdef {name}\n{line}\n#endif"


def _body(name: str, text: str) -> str | None:
    """What stands between the braces of a structure or union; None where it is not defined."""
    start = re.search(rf"\b(?:struct|union)\s+{name}\s*\{{", text)
    if start:
        depth, at = 1, start.end()
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        return text[start.end() : at - 1]
    nameless = re.search(rf"\b(?:struct|union)\s*\{{([^{{}}]*)\}}\s*{name}\s*;", text)
    return nameless[1] if nameless else None


def _field_names(body: str) -> list[str]:
    """The words that may name fields, those of nameless structures within included; not of bit fields."""
    names = []
    for declaration in re.split(r"[;{}]", body):
        if pointer := re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declaration):
            names.append(pointer[1])
        elif not re.search(r":\s*\w+\s*$", declaration):
            plain = re.sub(r"\[[^\]]*\]|=[^,]*", "", declaration)
            names += [word[0] for part in plain.split(",") if (word := re.search(r"[A-Za-z_]\w*(?=\s*$)", part))]
    return [name for name in names if name not in ("struct", "union", "enum")]
