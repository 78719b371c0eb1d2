"""Run as a program: print what the installed llama-cpp-python mirrors of llama.cpp, as JSON.

``{"structs": {name: {"size": bytes, "fields": {field: [offset, kind, name of its structure or ""]}}},
"functions": {symbol: [kinds]}}`` where a kind is a C type's sort and size (``int4``, ``pointer8``), and a function's
first kind is what it returns.
Their definitions are read without any library, since the bindings may be installed without one. A program of its own,
because modules imported so are of no other use.
"""

import ast
import ctypes
import json
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

MODULES = ("llama_cpp.llama_cpp", "llama_cpp.mtmd_cpp")
_POINTERS = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_wchar_p, ctypes.py_object)


def kind(ctype) -> str:
    if ctype is None:
        return "void"
    if issubclass(ctype, (*_POINTERS, ctypes._Pointer, ctypes._CFuncPtr)):
        name = "pointer"
    elif issubclass(ctype, (ctypes.Structure, ctypes.Union)):
        name = "struct"
    elif issubclass(ctype, ctypes.Array):
        name = "array"
    else:
        name = "float" if ctype._type_ in "fdg" else "int"
    return f"{name}{ctypes.sizeof(ctype)}"


def argument(ctype) -> str:
    # An array parameter is a pointer in C.
    spelt = kind(ctype)
    return f"pointer{ctypes.sizeof(ctypes.c_void_p)}" if spelt.startswith("array") else spelt


def symbols(module) -> dict[str, str]:
    """Python name -> C name of the bound functions: the decorator ``@ctypes_function("symbol", …)`` renames them."""
    names = {}
    for node in ast.parse(Path(module.__file__).read_text()).body:
        for decorator in getattr(node, "decorator_list", ()):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).startswith("ctypes_function"):
                names[node.name] = ast.literal_eval(decorator.args[0])
    return names


def layout(struct) -> dict:
    fields = {}
    for name, ctype, *_ in struct._fields_:
        nested = ctype.__name__ if issubclass(ctype, (ctypes.Structure, ctypes.Union)) else ""
        fields[name] = [getattr(struct, name).offset, kind(ctype), nested]
    return {"size": ctypes.sizeof(struct), "fields": fields}


class NoLibrary:
    """Stands in for a shared library: each name is a harmless function, since the modules call a few of theirs."""

    def __getattr__(self, name: str):
        function = ctypes.pythonapi["Py_IsInitialized"]  # an item, unlike an attribute, is made anew each time
        function.__name__ = name
        return function


def without_library() -> None:
    """Let the bindings' modules be imported one by one, the package itself unread, each with no library."""
    spec = find_spec("llama_cpp")
    if spec is None:
        raise ImportError("there is no llama_cpp")
    package = ModuleType("llama_cpp")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["llama_cpp"] = package
    import_module("llama_cpp._ctypes_extensions").load_shared_library = lambda *_: NoLibrary()


def main() -> None:
    without_library()
    structs, functions = {}, {}
    for name in MODULES:
        module = import_module(name)
        symbol = symbols(module)
        for value in vars(module).values():
            if isinstance(value, ctypes._CFuncPtr) and value.__name__ in symbol:
                functions[symbol[value.__name__]] = [argument(ctype) for ctype in (value.restype, *value.argtypes)]
            elif (
                isinstance(value, type)
                and issubclass(value, (ctypes.Structure, ctypes.Union))
                and getattr(value, "_fields_", ())  # an opaque one has no layout to be wrong about
            ):
                structs[value.__name__] = layout(value)
    print(json.dumps({"structs": structs, "functions": functions}))


if __name__ == "__main__":
    main()
