"""The list of what the plugin uses of llama.cpp is the source's own: nothing more, nothing less."""

import ast
import json
from pathlib import Path

import pytest

from llm_kvsplit.builds import definitions, interface
from llm_kvsplit.builds.definitions import Field, Struct
from llm_kvsplit.errors import KvsplitError
from tests.support.defined import whole, without

PACKAGE = Path(interface.__file__).parents[1]
#: Looks at structures whole, whatever is in them, by names that it puts together.
LOOKS = PACKAGE / "engine" / "unbound.py"
PREFIXES = ("llama_", "ggml_", "mtmd_", "LLAMA_", "GGML_", "MTMD_")
#: Where a structure comes from.
MADE_BY = {
    "llama_batch_init": "llama_batch",
    **{f"{name}_default_params": f"{name}_params" for name in ("llama_context", "llama_model", "llama_model_quantize")},
}


def sources():
    return [ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py") if file != LOOKS]


def is_library(node) -> bool:
    """``lib``, ``self.lib``, ``weights.lib`` or ``library.load()``."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("library.load", "load")
    return (isinstance(node, ast.Name) and node.id == "lib") or (isinstance(node, ast.Attribute) and node.attr == "lib")


def used_names() -> set[str]:
    names = set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_library(node.value):
                names.add(node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and is_library(node.args[0]):
                names.add(ast.unparse(node.args[1]).strip("'"))
    return names


def used_fields() -> dict[str, set[str]]:
    """By structure: the attributes of variables that were made by a function which returns one."""
    fields = {name: set() for name in interface.FIELDS}
    functions = [node for tree in sources() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        made = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                maker = getattr(node.value.func, "attr", "")
                if maker in MADE_BY:
                    made[ast.unparse(node.targets[0])] = MADE_BY[maker]
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in made:
                fields[made[ast.unparse(node.value)]].add(node.attr)
    return fields


def test_the_list_names_what_the_source_uses_and_nothing_else():
    used = used_names()
    rows = ("dequantize_row_", "quantize_row_")
    generated = {name for name in {**interface.FUNCTIONS, **interface.OPTIONAL} if name.startswith(rows)}
    assert generated and all(any(name.startswith(f"f'{start}{{") for name in used) for start in rows)
    named = {name for name in used if name.startswith(PREFIXES)}
    listed = {*interface.FUNCTIONS, *interface.OPTIONAL, *interface.CALLBACKS, *interface.CONSTANTS}
    listed |= {*interface.MEDIA_FUNCTIONS, *interface.MEDIA_CONSTANTS}
    # A callback may stand in a structure or a signature only, and a constant be known to the plugin by its value.
    stated = {name for name, value in interface.CONSTANTS.items() if value is not None}
    # Structures of libmtmd are made here.
    assert named - listed - interface.MEDIA_FIELDS.keys() == set(), "used and not listed"
    assert listed - named - generated - stated == set(), "listed and not used"


def test_the_list_names_the_fields_that_the_source_uses():
    assert used_fields() == {name: set(fields) for name, fields in interface.FIELDS.items()}


def test_nothing_of_llama_cpp_python_is_imported_but_where_its_library_is_used():
    places = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if 'import_module("llama_cpp' in file.read_text() or "import llama_cpp" in file.read_text()
    }
    assert places <= {"engine/library.py"}


def test_each_thing_that_is_missing_is_named():
    assert interface.faults(whole()) == []
    for name in interface.FUNCTIONS:
        assert interface.faults(without(name)) == [f"{name}() is gone"]
    for name, fields in interface.FIELDS.items():
        for field in fields:
            structs = whole().structs
            del structs[name].fields[field]
            assert interface.faults(whole(structs=structs)) == [f"{name}.{field} is gone"]
    for name in interface.CONSTANTS:
        constants = {**whole().constants}
        del constants[name]
        assert interface.faults(whole(constants=constants)) == [f"{name} is gone"]


def test_a_library_without_libmtmd_or_with_another_serves_for_text():
    assert interface.faults(whole()) == [] and interface.media_faults(whole())[0] == "mtmd_bitmap_free() is gone"
    structs = {
        name: Struct(8 * len(fields), {field: Field(8 * at, kind) for at, (field, kind) in enumerate(fields.items())})
        for name, fields in interface.MEDIA_FIELDS.items()
    }
    parts = {"functions": interface.MEDIA_FUNCTIONS, "structs": structs, "constants": interface.MEDIA_CONSTANTS}
    assert interface.media_faults(whole(**parts)) == []
    changed = {**interface.MEDIA_FUNCTIONS, "mtmd_free": "int32(mtmd_context*)"}
    assert interface.media_faults(whole(**{**parts, "functions": changed})) == [
        "mtmd_free() is int32(mtmd_context*) and not void(mtmd_context*)"
    ]


def test_a_pointer_to_another_structure_is_another_type():
    functions = {**whole().functions, "llama_vocab_bos": "int32(llama_model*)"}
    clauses = interface.faults(whole(functions=functions))
    assert clauses == ["llama_vocab_bos() is int32(llama_model*) and not int32(llama_vocab*)"]


def test_what_is_written_is_read_again(tmp_path):
    file = tmp_path / "bindings.json"
    file.write_text(definitions.text(whole()))
    assert definitions.read(file) == whole()


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.pop("schema"),
        lambda parts: parts.update(schema=2),
        lambda parts: parts.pop("functions"),
        lambda parts: parts.update(functions=[]),
        lambda parts: parts["functions"].update(llama_free="void(llama_context*"),
        lambda parts: parts["functions"].update(llama_free="__import__('os')"),
        lambda parts: parts["functions"].update(llama_free=5),
        lambda parts: parts["functions"].update({"_lib": "void()"}),
        lambda parts: parts["constants"].update(GGML_TYPE_F16="1"),
        lambda parts: parts["constants"].update(GGML_TYPE_F16=True),
        lambda parts: parts["structs"]["llama_batch"].update(size=1 << 40),
        lambda parts: parts["structs"]["llama_batch"].update(size=8),
        lambda parts: parts["structs"]["llama_batch"]["fields"].update(pos=[-8, "int32*"]),
        lambda parts: parts["structs"]["llama_batch"]["fields"].update(pos=[8]),
    ],
)
def test_what_is_not_definitions_is_told_in_one_sentence(tmp_path, change):
    parts = json.loads(definitions.text(whole()))
    change(parts)
    file = tmp_path / "bindings.json"
    file.write_text(json.dumps(parts))
    with pytest.raises(KvsplitError, match="cannot be read as the definitions of a library"):
        definitions.read(file)
