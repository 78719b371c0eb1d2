"""LLAMA_CPP_LIB_PATH: a copy of a build, someone's libraries without definitions, and such as are seen not to fit.

Real libraries where it can be, and else a small one, compiled with upstream's headers and something planted in them.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from kvsplit_patch.building import abi, headers
from kvsplit_patch.series import trees
from llm_kvsplit import files, registry
from llm_kvsplit.builds import definitions, shelf
from llm_kvsplit.sessions import folder as sessions_folder
from llm_kvsplit.sessions.state_file import read_head
from tests.support import stub
from tests.support.library import BUILD

ANSWER = ("-m", "kvsplit-demo", "-o", "temperature", "0", "-o", "max_tokens", "8", "def f(")
ALL_WORKS = "Everything that was tried works."


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(BUILD, tmp_path / "copy")


def redefine(folder, **constants):
    """Give a copy of a build other values in its definitions, as if its headers had them."""
    parts = json.loads((folder / shelf.BINDINGS).read_text())
    parts["constants"] |= constants
    (folder / shelf.BINDINGS).write_text(json.dumps(parts))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["bindings"] = files.sha256(folder / shelf.BINDINGS)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def refusal(llm, folder) -> str:
    """What an answer and ``doctor`` say of a library that cannot be used: the same, and no more than a sentence or two."""
    env = {"LLAMA_CPP_LIB_PATH": str(folder)}
    said = llm(*ANSWER, code=1, env=env).stderr.strip()
    assert said.startswith(f"Error: The llama.cpp library in {folder} cannot be used here: ") and "\n" not in said
    assert said.endswith("Unset LLAMA_CPP_LIB_PATH, or point it at libraries built on this machine.")
    doctor = llm("kvsplit", "doctor", code=1, env=env).stdout
    assert f"Problem: {said.removeprefix('Error: ')}" in doctor and ALL_WORKS not in doctor
    return said


def test_a_copy_of_a_build_answers_through_its_own_definitions(llm, copy):
    env = {"LLAMA_CPP_LIB_PATH": str(copy)}
    assert llm(*ANSWER, env=env).stdout == llm(*ANSWER).stdout


def test_a_build_needs_nothing_of_llama_cpp_python(tmp_path):
    """Whichever is installed, and whatever it defines."""
    code = (
        "import sys; sys.modules['llama_cpp'] = None\n"  # makes every import of it fail
        "from llm_kvsplit.engine import library; library.load(); print(len(library.devices()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) >= 1, done.stderr


def test_the_same_libraries_without_definitions_go_through_llama_cpp_python(llm, copy):
    (copy / shelf.BINDINGS).unlink()
    (copy / "manifest.json").unlink()
    env = {"LLAMA_CPP_LIB_PATH": str(copy)}
    assert llm(*ANSWER, env=env).stdout == llm(*ANSWER).stdout
    report = json.loads(llm("kvsplit", "doctor", "--json", env=env).stdout)
    assert report["definitions"] == f"llama-cpp-python {shelf.bindings_version()}"
    assert "what its functions take" in report["notes"][0]


def test_definitions_of_other_libraries_are_not_believed(llm, copy):
    library = shelf.library_file(copy)
    library.write_bytes(library.read_bytes() + b"\0")
    assert f"its {library.name} is not the file that its manifest names" in refusal(llm, copy)
    (copy / "manifest.json").unlink()
    assert "its bindings.json stands without the manifest.json" in refusal(llm, copy)


def test_a_constant_that_differs_is_named(llm, copy):
    redefine(copy, GGML_TYPE_Q8_0=9)
    assert "llm-kvsplit uses llama.cpp otherwise: GGML_TYPE_Q8_0 is 9 and not 8" in refusal(llm, copy)


@pytest.fixture(scope="module")
def base():
    return trees.unpatched().folder


@pytest.fixture(scope="module")
def names():
    """What llama-cpp-python looks for in a library when it is imported."""
    return tuple(abi.of_llama_cpp_python().functions)


PLANTED = {
    "a field inserted": (r"(\n\s+float    rope_freq_base;)", r"\n        uint32_t planted;\1"),
    "a field at the end": (r"(struct llama_context \* ctx_other;)", r"\1\n        size_t planted;"),
    "a field removed": (r"\n\s+struct llama_context \* ctx_other;", ""),
    "fields that changed places": (
        r"(uint32_t n_batch;[^\n]*\n)(\s+)(uint32_t n_ubatch;[^\n]*\n)",
        r"\3\2\1",
    ),
    "a function gone": (r"llama_memory_seq_rm\(", "llama_memory_seq_remove("),
    "a constant that a default shows": (r"LLAMA_FLASH_ATTN_TYPE_AUTO     = -1", "LLAMA_FLASH_ATTN_TYPE_AUTO     = -2"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_library_that_is_seen_not_to_fit_is_refused_by_name(llm, base, names, tmp_path, planted):
    tree = stub.headers(base, tmp_path / "tree")
    stub.plant(tree, "include/llama.h", *PLANTED[planted])
    folder = tmp_path / "library"
    gone = {"llama_memory_seq_rm"} if planted == "a function gone" else set()
    stub.library(tree, folder, tuple(set(names) - gone))
    said = refusal(llm, folder)
    if planted == "a function gone":
        assert "llama_memory_seq_rm" in said
    elif planted == "fields that changed places":
        assert "llama_context_params.n_batch is 512 at first, where 2048 is expected" in said
    elif planted == "a constant that a default shows":
        assert "llama_context_params.flash_attn_type is -2 at first, where -1 is expected" in said
    else:
        assert "struct llama_context_params has 160 bytes there, and the library writes 1" in said
    assert f"its definitions are not those of llama-cpp-python {shelf.bindings_version()}" in said or gone


def defining(base, folder, old, new):
    """A library of headers with something planted, in a folder with its own definitions."""
    tree = stub.headers(base, folder / "tree")
    stub.plant(tree, "include/llama.h", old, new)
    library = stub.library(tree, folder)
    (folder / shelf.BINDINGS).write_text(definitions.text(headers.of_tree(tree)))
    manifest = {
        "bindings": files.sha256(folder / shelf.BINDINGS),
        "libraries": {library.name: files.sha256(library)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


REFUSED = {
    "a function gone": (*PLANTED["a function gone"], "llama_memory_seq_rm() is gone"),
    "a field renamed": (r"bool embeddings;", "bool embedded;", "llama_context_params.embeddings is gone"),
    "a field removed": (
        r"\n\s+bool no_alloc;[^\n]*",
        "",
        "llama_model_params.no_alloc is gone",
    ),
    "a constant changed": (
        r"LLAMA_FLASH_ATTN_TYPE_ENABLED  = 1",
        "LLAMA_FLASH_ATTN_TYPE_ENABLED  = 2",
        "LLAMA_FLASH_ATTN_TYPE_ENABLED is 2 and not 1",
    ),
}


@pytest.mark.parametrize("old, new, clause", REFUSED.values(), ids=REFUSED)
def test_with_definitions_of_its_own_what_is_used_and_gone_is_named(llm, base, tmp_path, old, new, clause):
    """Before the library is loaded."""
    folder = defining(base, tmp_path / "library", old, new)
    assert f"llm-kvsplit uses llama.cpp otherwise: {clause}" in refusal(llm, folder)


MOVED = {
    "a field inserted": PLANTED["a field inserted"],
    "a field at the end": PLANTED["a field at the end"],
    "a field removed": PLANTED["a field removed"],
    "fields that changed places": PLANTED["fields that changed places"],
    "a field renamed": (r"float    defrag_thold;", "float    planted;"),
}


@pytest.mark.parametrize("old, new", MOVED.values(), ids=MOVED)
def test_with_definitions_of_its_own_what_moved_is_read_rightly(base, tmp_path, old, new):
    """The library fills its structures by the names of their fields, and reads them so."""
    folder = defining(base, tmp_path / "library", old, new)
    code = (
        "from llm_kvsplit.engine import library; lib = library.load(); p = lib.llama_context_default_params()\n"
        "read = [p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.type_k, p.flash_attn_type, p.swa_full]\n"
        "p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max, p.n_threads, p.n_threads_batch = 1024, 256, 128, 7, 3, 5\n"
        "p.flash_attn_type, p.type_k, p.type_v, p.swa_full, p.kv_unified = 1, 8, 2, False, True\n"
        "p.cb_eval = callback = lib.ggml_backend_sched_eval_callback(lambda tensor, ask, data: True)\n"
        "print(read, lib.llama_init_from_model(64, p))"
    )
    # The library answers no question, so it is not to be tried with one.
    env = {**os.environ, "LLAMA_CPP_LIB_PATH": str(folder), "KVSPLIT_PROBE_CHILD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "[512, 2048, 512, 4, 1, -1, True] 64\n", done.stderr


def test_states_of_another_layout_are_not_read(llm, copy, smol, user_path):
    """Two builds whose headers number the layout of a state differently: neither reads what the other stored."""
    redefine(copy, LLAMA_STATE_SEQ_VERSION=77)
    planted = {"LLAMA_CPP_LIB_PATH": str(copy)}
    ask = ("-m", "smol", "-o", "temperature", "0", "-o", "max_tokens", "4", "-o", "kv_sessions", "true")
    prompt = "Say what a snake, a whale and an owl have in common, and what they have not. " * 10
    llm(*ask, prompt, env=planted)
    (stored,) = sessions_folder.folder().rglob("*.kv")
    assert read_head(stored).key["state_format"] == 77
    llm(*ask, "-c", "Go on.")
    formats = sorted(read_head(file).key["state_format"] for file in sessions_folder.folder().rglob("*.kv"))
    assert len(formats) == 2 and formats[0] != 77 and formats[1] == 77
    logged = json.loads(llm("logs", "--json", "-n", "1").stdout)[0]
    assert not logged["response_json"].get("restored_tokens")
    assert registry.load()["smol"].path == smol
