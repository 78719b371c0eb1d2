"""Whether a tree has what somebody uses of it: the plugin, by its list, and llama-cpp-python, by its own definitions.

Those are written by hand, and held against the headers where a wheel of a tree is made for it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llm_kvsplit.builds import definitions, interface
from llm_kvsplit.builds.definitions import Definitions, Field

from ..errors import PatchError
from ..failures import last_words
from .headers import Names, of_tree
from .libraries import library

#: What llama-cpp-python gets wrong about the very tree it vendors, in code that the plugin never calls: 0.3.36 lacks
#: the last field, optimizer_type, of the training API.
KNOWN = frozenset({"struct llama_opt_params", "llama_opt_init()"})


def faults(tree: Path) -> list[str]:
    """Why the plugin cannot use a build of ``tree``, a clause for each reason. Raises PatchError as ``of_tree``."""
    return interface.faults(of_tree(tree))


def not_exported(folder: Path) -> list[str]:
    """The functions that the plugin uses and the libraries in ``folder`` lack. Raises PatchError: they do not load."""
    # In a child process: a library stays loaded, and one that dies on this machine must not take us along.
    code = (
        "import ctypes, json, sys; lib = ctypes.CDLL(sys.argv[1])\n"
        "print(json.dumps([name for name in json.load(sys.stdin) if not hasattr(lib, name)]))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(library(folder))],
        input=json.dumps(list(interface.FUNCTIONS)),
        capture_output=True,
        text=True,
    )
    if child.returncode:
        raise PatchError(f"The library that was built does not load: {last_words(child)}; please report it.")
    return json.loads(child.stdout)


def of_llama_cpp_python() -> Definitions:
    """What the installed llama-cpp-python defines by hand, see ``bindings.py``."""
    program = Path(__file__).with_name("bindings.py")
    child = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    if child.returncode:
        raise PatchError(f"The installed llama-cpp-python cannot be imported ({last_words(child)}): reinstall it.")
    return definitions.parse(json.loads(child.stdout))


@dataclass(frozen=True)
class Mismatch:
    #: ``llama_context_params.n_seq_max`` or ``llama_decode()``.
    what: str
    #: What llama-cpp-python has and what the tree has, in words.
    bindings: str
    tree: str

    def __str__(self) -> str:
        return f"{self.what} is {self.bindings} in llama-cpp-python and {self.tree} in the tree"


def mismatches(tree: Path) -> list[Mismatch]:
    """Everything that the installed llama-cpp-python and the headers of ``tree`` see differently, but for KNOWN.

    For whoever puts a library of this tree under llama-cpp-python itself; the plugin goes by ``faults``.
    """
    theirs = of_llama_cpp_python()
    fields = {name: tuple(struct.fields) for name, struct in theirs.structs.items()}
    headers = of_tree(tree, Names(tuple(theirs.functions), (), fields, (), ()))
    differing = [*_structs(theirs, headers), *_functions(theirs, headers)]
    return [mismatch for mismatch in differing if mismatch.what not in KNOWN]


def _structs(theirs: Definitions, headers: Definitions) -> Iterable[Mismatch]:
    # C has structures without a name, ``union { … };``, for which they had to make one up.
    members = {name: tuple(struct.fields) for name, struct in theirs.structs.items()}
    for name, struct in theirs.structs.items():
        there = headers.structs.get(name)
        if there is None:
            made_up = any(at.type == name for other in theirs.structs.values() for at in other.fields.values())
            if not made_up:
                yield Mismatch(f"struct {name}", f"{struct.size} bytes", "absent")
            continue
        for field, at in struct.fields.items():
            if field not in there.fields and at.type in members:
                inner = {**theirs.structs[at.type].fields}
            else:
                inner = {field: at}
            for each, inside in inner.items():
                offset = at.offset + (inside.offset if inside is not at else 0)
                yield from _field(f"{name}.{each}", offset, inside.type, there.fields.get(each), theirs, headers)
        if struct.size != there.size:
            yield Mismatch(f"struct {name}", f"{struct.size} bytes", f"{there.size} bytes")


def _field(
    what: str, offset: int, kind: str, there: Field | None, theirs: Definitions, headers: Definitions
) -> Iterable[Mismatch]:
    if there is None:
        yield Mismatch(what, f"at offset {offset}", "absent")
    elif there.offset != offset:
        yield Mismatch(what, f"at offset {offset}", f"at offset {there.offset}")
    elif _room(kind, theirs) != _room(there.type, headers):
        yield Mismatch(what, f"{kind} at offset {offset}", f"{there.type} there")


def _functions(theirs: Definitions, headers: Definitions) -> Iterable[Mismatch]:
    for name, signature in theirs.functions.items():
        there = headers.functions.get(name)
        if there is None:
            yield Mismatch(f"{name}()", "bound", "absent")
            continue
        (result, arguments), (their_result, their_arguments) = definitions.split(signature), definitions.split(there)
        pairs = zip([result, *arguments], [their_result, *their_arguments])
        if len(arguments) != len(their_arguments) or any(
            _room(one, theirs) != _room(other, headers) for one, other in pairs
        ):
            yield Mismatch(f"{name}()", signature, there)


def _room(kind: str, defined: Definitions) -> str:
    """What a type takes, and how it is passed: types written by hand say no more than that."""
    if kind.endswith("*"):
        return "pointer"
    if kind in defined.structs:
        return f"uint8[{defined.structs[kind].size}]"
    bits = re.fullmatch(r"(?:int|uint|enum)(\d+)", kind)
    return f"{bits[1]} bits" if bits else {"bool": "8 bits", "char": "8 bits"}.get(kind, kind)
