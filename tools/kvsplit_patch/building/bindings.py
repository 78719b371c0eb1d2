"""Run as a program: print what the installed llama-cpp-python mirrors of llama.cpp, as definitions in JSON.

Its modules are read without any library, since it may be installed without one. A program of its own, because modules
imported so are of no other use.
"""

import ast
import ctypes
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from llm_kvsplit.builds import definitions
from llm_kvsplit.engine.bindings import mirrored

MODULES = ("llama_cpp.llama_cpp", "llama_cpp.mtmd_cpp")


def symbols(module: ModuleType) -> dict[str, str]:
    """Python name -> C name of the bound functions: the decorator ``@ctypes_function("symbol", …)`` renames them."""
    names = {}
    for node in ast.parse(Path(module.__file__ or "").read_text()).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).startswith("ctypes_function"):
                names[node.name] = ast.literal_eval(decorator.args[0])
    return names


class NoLibrary:
    """Stands in for a shared library: each name is a harmless function, since the modules call a few of theirs."""

    def __getattr__(self, name: str):
        function = ctypes.pythonapi["Py_IsInitialized"]  # an item, unlike an attribute, is made anew each time
        function.__name__ = name
        return function


def without_library() -> None:
    """Let its modules be imported one by one, the package itself unread, each with no library."""
    spec = find_spec("llama_cpp")
    if spec is None:
        raise ImportError("there is no llama_cpp")
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["llama_cpp"] = package
    vars(import_module("llama_cpp._ctypes_extensions"))["load_shared_library"] = lambda *_: NoLibrary()


def main() -> None:
    without_library()
    modules = [import_module(name) for name in MODULES]
    parts = [mirrored(module, symbols(module)) for module in modules]
    whole = definitions.Definitions(
        functions={name: each for part in parts for name, each in part.functions.items()},
        callbacks={},
        structs={name: each for part in parts for name, each in part.structs.items()},
        constants={name: each for part in parts for name, each in part.constants.items()},
    )
    print(definitions.text(whole))


if __name__ == "__main__":
    main()
