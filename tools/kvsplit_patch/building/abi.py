"""Do the installed bindings fit a llama.cpp tree? Structures field by field, functions argument by argument.

The bindings mirror llama.h in ctypes by hand. A library from another tag may have moved a field: nothing crashes,
and ``n_ctx`` is read from where ``n_batch`` lies. So both sides are asked: ctypes in a child process
(``bindings.py``), the tree's headers through the compiler.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PatchError
from ..failures import first_error, last_words
from .libraries import library

#: What the bindings' modules mirror. Headers that a tree does not have are left out, and their contents then missing.
HEADERS = ("include/llama.h", "tools/mtmd/mtmd.h", "tools/mtmd/mtmd-helper.h")
_INCLUDE = ("include", "ggml/include", "tools/mtmd", "common")


#: What the bindings get wrong about the very tree they vendor, in code that the plugin never calls.
KNOWN = frozenset(
    {
        # 0.3.36 lacks the last field, optimizer_type, of the training API.
        "struct llama_opt_params is 40 bytes in the bindings and 48 bytes in the tree",
        "llama_opt_init() is (pointer8, pointer8, struct40) -> void in the bindings "
        "and (pointer8, pointer8, struct48) -> void in the tree",
    }
)


@dataclass(frozen=True)
class Mismatch:
    #: ``llama_context_params.n_seq_max`` or ``llama_decode()``.
    what: str
    #: What the bindings have and what the tree has, in words.
    bindings: str
    tree: str

    def __str__(self) -> str:
        return f"{self.what} is {self.bindings} in the bindings and {self.tree} in the tree"


def mismatches(tree: Path, libraries: Path | None = None) -> list[Mismatch]:
    """Everything that the bindings and the headers of ``tree`` see differently, but for KNOWN; empty when they fit.

    With ``libraries``, the folder of a build, every function must be in there too.
    Raises PatchError when the bindings or the headers cannot be read.
    """
    ours = bindings()
    theirs = headers(tree, ours)
    ours = {**ours, "structs": _inline(ours["structs"], theirs["structs"])}
    found = []
    for name, struct in ours["structs"].items():
        found += _compare_struct(name, struct, theirs["structs"].get(name))
    for name, signature in ours["functions"].items():
        found += _compare_function(name, signature, theirs["functions"].get(name))
    if libraries is not None:
        found += _absent(ours["functions"], libraries)
    return [mismatch for mismatch in found if str(mismatch) not in KNOWN]


def bindings() -> dict[str, Any]:
    """The installed bindings' structures and functions, see ``bindings.py``."""
    program = Path(__file__).with_name("bindings.py")
    said = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    if said.returncode:
        raise PatchError(f"The installed llama-cpp-python cannot be imported ({last_words(said)}): reinstall it.")
    return json.loads(said.stdout)


def headers(tree: Path, ours: dict[str, Any]) -> dict[str, Any]:
    """What the C++ compiler says about the names in ``ours``: ``{"structs": …, "functions": …}`` of the same shape.

    A structure or function that the headers do not have is absent from the answer; a field is -1.
    """
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
        source.write_text(includes + _program(ours, text))
        _compile([compiler, "-std=c++17", "-w", "-Wno-invalid-offsetof", *include, str(source), "-o", str(program)])
        said = subprocess.run([str(program)], capture_output=True, text=True)
    return json.loads(said.stdout)


def _compile(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        raise PatchError(f"The headers of the tree do not compile: {first_error(said.stderr)}.")
    return said.stdout


# A type as its sort and size, spelt as bindings.py spells them: "int4", "float8", "pointer8", "struct56".
_PRELUDE = """
#include <cstddef>
#include <cstdio>
#include <type_traits>
struct kind { const char * name; size_t size; };
template <class T> constexpr kind kind_of() {
    if constexpr (std::is_void_v<T>) { return {"void", 0}; }
    else if constexpr (std::is_floating_point_v<T>) { return {"float", sizeof(T)}; }
    else if constexpr (std::is_pointer_v<T>) { return {"pointer", sizeof(T)}; }
    else if constexpr (std::is_class_v<T> || std::is_union_v<T>) { return {"struct", sizeof(T)}; }
    else if constexpr (std::is_array_v<T>) { return {"array", sizeof(T)}; }
    else { return {"int", sizeof(T)}; }
}
struct field { long offset; kind type; };
static void print(kind k) { if (k.size) printf("\\"%s%zu\\"", k.name, k.size); else printf("\\"%s\\"", k.name); }
static void print(const char * before, const char * name, field f) {
    printf("%s\\"%s\\": [%ld, ", before, name, f.offset); print(f.type); printf("]");
}
static void print(const char * before, const char * name, const kind * kinds, size_t count) {
    printf("%s\\"%s\\": [", before, name);
    for (size_t i = 0; i < count; i++) { printf(i ? ", " : ""); print(kinds[i]); }
    printf("]");
}
template <class R, class... A> void print(const char * before, const char * name, R (*)(A...)) {
    static constexpr kind kinds[] = { kind_of<R>(), kind_of<A>()... };
    print(before, name, kinds, 1 + sizeof...(A));
}
"""


def _program(ours: dict[str, Any], text: str) -> str:
    """C++ that prints the layout of every structure and the signature of every function that ``text`` declares."""
    probes, main = [], []
    before = '{"structs": {'
    for name, struct in ours["structs"].items():
        if not re.search(rf"\b(struct|union)\s+{name}\s*\{{|\}}\s*{name}\s*;", text):
            continue
        main.append(
            f'printf("%s\\"{name}\\": {{\\"size\\": %zu, \\"fields\\": {{", {_quoted(before)}, sizeof({name}));'
        )
        before = "}}, "
        for index, field in enumerate(_with_nested(struct, ours["structs"])):
            # A field that is not there must be an answer, not a compile error.
            probe = f"{name}_{index}"
            probes.append(
                f"template <class T> auto {probe}(int) -> decltype((void) sizeof(T::{field}), field())"
                f" {{ return {{(long) offsetof(T, {field}), kind_of<decltype(T::{field})>()}}; }}\n"
                f'template <class T> field {probe}(long) {{ return {{-1, {{"", 0}}}}; }}\n'
            )
            main.append(f'print("{", " if index else ""}", "{field}", {probe}<{name}>(0));')
    before = '}}}, "functions": {'
    for name in ours["functions"]:
        if re.search(rf"\b{name}\s*\(", text):
            main.append(f'print({_quoted(before)}, "{name}", (decltype(&{name})) nullptr);')
            before = ", "
    main.append('printf("}}\\n");')
    return _PRELUDE + "".join(probes) + "int main() {\n    " + "\n    ".join(main) + "\n}\n"


def _quoted(text: str) -> str:
    return json.dumps(text)  # C and JSON agree on these


def _with_nested(struct: dict[str, Any], structs: dict[str, Any]) -> list[str]:
    """The fields' names, and those of structures in it: C has some without a name, ``union { … };``."""
    names = list(struct["fields"])
    for _, _, nested in struct["fields"].values():
        names += structs[nested]["fields"] if nested in structs else []
    return names


def _inline(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """``ours`` with the structures that C has no name for written out where they lie."""
    nameless = {
        nested
        for name, struct in ours.items()
        for field, (_, _, nested) in struct["fields"].items()
        if nested in ours and nested not in theirs and name in theirs and theirs[name]["fields"][field][0] == -1
    }
    inlined = {}
    for name, struct in ours.items():
        if name in nameless:
            continue
        fields = {}
        for field, (offset, kind, nested) in struct["fields"].items():
            if nested in nameless:
                for inner, (inner_offset, inner_kind, _) in ours[nested]["fields"].items():
                    fields[inner] = [offset + inner_offset, inner_kind, ""]
            else:
                fields[field] = [offset, kind, nested]
        inlined[name] = {**struct, "fields": fields}
    return inlined


def _compare_struct(name: str, ours: dict[str, Any], theirs: dict[str, Any] | None) -> list[Mismatch]:
    if theirs is None:
        return [Mismatch(f"struct {name}", f"{ours['size']} bytes", "absent")]
    found = []
    for field, (offset, kind, _) in ours["fields"].items():
        their_offset, their_kind = theirs["fields"][field]
        if their_offset == -1:
            found.append(Mismatch(f"{name}.{field}", f"at offset {offset}", "absent"))
        elif their_offset != offset:
            found.append(Mismatch(f"{name}.{field}", f"at offset {offset}", f"at offset {their_offset}"))
        elif their_kind != kind:
            found.append(
                Mismatch(f"{name}.{field}", f"{_spell(kind)} at offset {offset}", f"{_spell(their_kind)} there")
            )
    if ours["size"] != theirs["size"]:
        found.append(Mismatch(f"struct {name}", f"{ours['size']} bytes", f"{theirs['size']} bytes"))
    return found


def _compare_function(name: str, ours: list[str], theirs: list[str] | None) -> list[Mismatch]:
    if theirs is None:
        return [Mismatch(f"{name}()", "bound", "absent")]
    if ours != theirs:
        return [Mismatch(f"{name}()", _spell_signature(ours), _spell_signature(theirs))]
    return []


def _absent(functions: dict[str, Any], folder: Path) -> list[Mismatch]:
    """Functions that neither library of the build exports, asked of the loader in a child process."""
    code = (
        "import ctypes, json, sys; libs = [ctypes.CDLL(p) for p in sys.argv[1:]]\n"
        "print(json.dumps([n for n in json.load(sys.stdin) if not any(hasattr(lib, n) for lib in libs)]))"
    )
    files = [str(library(folder, "llama")), str(library(folder, "mtmd"))]
    said = subprocess.run(
        [sys.executable, "-c", code, *files], input=json.dumps(list(functions)), capture_output=True, text=True
    )
    if said.returncode:
        raise PatchError(f"The libraries in {folder} do not load: {last_words(said)}; build them anew.")
    return [Mismatch(f"{name}()", "bound", "missing from the built library") for name in json.loads(said.stdout)]


def _spell(kind: str) -> str:
    """``int4`` -> "a 4-byte int"."""
    name, size = re.fullmatch(r"([a-z]+)(\d*)", kind).groups()
    return f"a {size}-byte {name}" if size else name


def _spell_signature(kinds: list[str]) -> str:
    return f"({', '.join(kinds[1:])}) -> {kinds[0]}"
