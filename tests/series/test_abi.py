"""A tree's definitions against what others wrote by hand for it, real headers of other releases, and planted changes."""

import ctypes
import shutil
import subprocess

import pytest

from kvsplit_patch.building import abi, artifacts, cmake, headers
from kvsplit_patch.errors import PatchError
from kvsplit_patch.series import trees
from llm_kvsplit.builds import interface
from llm_kvsplit.engine import bindings, unbound
from llm_kvsplit.kvtypes import Q4_0, Q8_0
from llm_kvsplit.paths import backends_dir
from tests.support import stub
from tests.support.release import HERE, fetch

LLAMA = "include/llama.h"
RELEASES = ["0.3.35", *(pytest.param(version, marks=pytest.mark.long) for version in ("0.3.33", "0.3.31", "0.3.28"))]


@pytest.fixture(scope="module")
def base():
    fetch(HERE)
    return trees.unpatched(HERE).folder


@pytest.fixture(scope="module")
def defined(base):
    return headers.of_tree(base)


@pytest.fixture(scope="module")
def theirs():
    return abi.of_llama_cpp_python()


@pytest.fixture
def tree(base, tmp_path):
    return stub.headers(base, tmp_path / "tree")


# --- against llama-cpp-python's own definitions -------------------------------------------------


def test_llama_cpp_python_defines_the_same_by_hand_for_the_tree_it_vendors(defined, theirs):
    known = interface.as_the_plugin_knows(theirs)
    assert interface.faults(known) == interface.faults(defined) == []
    assert interface.media_faults(known) == interface.media_faults(defined) == []
    used = interface.FIELDS | interface.MEDIA_FIELDS
    for name, struct in defined.structs.items():
        by_hand = theirs.structs[name]
        assert struct.size == by_hand.size
        assert {field: at.offset for field, at in struct.fields.items()} == {
            field: at.offset for field, at in by_hand.fields.items()
        }
        assert {field: known.structs[name].fields[field].type for field in used[name]} == {
            field: struct.fields[field].type for field in used[name]
        }
    llama = {name for name in interface.FUNCTIONS if name.startswith("llama_")}
    assert llama <= theirs.functions.keys()
    constants = defined.constants.keys() & theirs.constants.keys()
    assert {"LLAMA_STATE_SEQ_VERSION", "LLAMA_SESSION_VERSION", "GGML_TYPE_Q5_1", "LLAMA_LOAD_MODE_NONE"} <= constants
    assert {name: defined.constants[name] for name in constants} == {name: theirs.constants[name] for name in constants}


def test_all_that_llama_cpp_python_defines_fits_the_tree_it_vendors(base, theirs):
    """What a wheel needs: more than the plugin uses."""
    assert len(theirs.functions) > 300 and {"mtmd_context_params", "llama_opt_params"} <= theirs.structs.keys()
    assert abi.mismatches(base) == []


def test_what_is_known_to_be_wrong_is_still_wrong(base, monkeypatch):
    """An exception that nothing needs any more would hide the next fault."""
    known = abi.KNOWN
    monkeypatch.setattr(abi, "KNOWN", frozenset())
    assert {mismatch.what for mismatch in abi.mismatches(base)} == known


def test_a_wheel_of_another_tree_is_refused_with_both_offsets(tree):
    stub.plant(tree, LLAMA, r"(\n\s+uint32_t n_batch;)", r"\n        uint32_t planted;\1")
    lines = [str(mismatch) for mismatch in abi.mismatches(tree)]
    assert "llama_context_params.n_batch is at offset 4 in llama-cpp-python and at offset 8 in the tree" in lines


def test_the_patched_tree_has_what_is_used():
    patched = headers.of_tree(trees.patched().folder)
    assert interface.faults(patched) == []
    assert patched.functions["llama_kvsplit_info"] == "char*()"


# --- other releases -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", RELEASES)
def test_other_releases_are_used_or_refused_by_name(version, defined):
    fetch(version)
    other = headers.of_tree(trees.unpatched(version).folder)
    clauses = interface.faults(other)
    moved = interface.changes(defined, other)
    if version == "0.3.35":
        assert clauses == [] and "llama_model_params.lazy_mode is gone" in moved
    else:  # before llama_load_mode, and before the penalties were told the size of the vocabulary
        assert "llama_model_params.load_mode is gone" in clauses and "LLAMA_LOAD_MODE_NONE is gone" in clauses
        assert any(clause.startswith("llama_sampler_init_penalties() is llama_sampler*(int32, f") for clause in clauses)
        assert "llama_model_params.use_mmap is new: bool, at offset 65" in moved


def test_a_folder_that_is_no_tree_is_told(tmp_path):
    with pytest.raises(PatchError, match="no llama.cpp tree"):
        headers.of_tree(tmp_path)


# --- planted: used rightly ----------------------------------------------------------------------

SWAP = (r"(uint32_t n_batch;[^\n]*\n)(\s+)(uint32_t n_ubatch;[^\n]*\n)", r"\3\2\1")
MOVED = {
    "nothing": (r"(\n\s+uint32_t n_ctx;)", r"\1"),
    "a field at the beginning": (r"(\n\s+uint32_t n_ctx;)", r"\n        uint64_t planted;\1"),
    "a field in the midst": (r"(\n\s+float    rope_freq_base;)", r"\n        uint32_t planted;\1"),
    "a field at the end": (r"(struct llama_context \* ctx_other;)", r"\1\n        size_t planted;"),
    "a union": (r"(\n\s+enum ggml_type type_k;)", r"\n        union { float f; uint64_t planted; };\1"),
    "a callback without a name": (r"(\n\s+enum ggml_type type_k;)", r"\n        bool (*planted)(int a, void * b);\1"),
    "an array": (r"(\n\s+bool embeddings;)", r"\n        float planted[3];\1"),
    "an unused field removed": (r"\n\s+float    defrag_thold;[^\n]*", ""),
    "an unused field renamed": (r"float    defrag_thold;", "float    planted;"),
    "two fields that changed places": SWAP,
}


@pytest.mark.parametrize("change", MOVED.values(), ids=MOVED)
def test_a_structure_that_moved_is_used_rightly(tree, tmp_path, defined, change):
    stub.plant(tree, LLAMA, *change)
    planted = headers.of_tree(tree)
    assert interface.faults(planted) == []
    new = [clause for clause in interface.changes(defined, planted) if "is new" in clause]
    assert any("planted is new: " in clause for clause in new) == ("planted" in change[1])
    lib = bindings.bind(planted, ctypes.CDLL(stub.library(tree, tmp_path)))
    assert given_and_taken(lib)
    assert unbound.contradictions(lib) == [], "the check of a library without definitions is wrong about a right one"


def given_and_taken(lib) -> bool:
    """What the library fills in is read, and what is filled in here is what it reads."""
    params = lib.llama_context_default_params()
    defaults = [params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.type_k, params.flash_attn_type]
    right = defaults == [512, 2048, 512, 4, 1, -1] and params.swa_full and not params.kv_unified
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 1024, 256, 128, 7
    params.n_threads, params.n_threads_batch, params.flash_attn_type = 3, 5, 1
    params.type_k, params.type_v = Q8_0.ggml_id, Q4_0.ggml_id
    params.swa_full, params.kv_unified = False, True
    callback = params.cb_eval = lib.ggml_backend_sched_eval_callback(
        lambda tensor, ask, data: (tensor, ask) == (16, True)
    )
    tokens = (ctypes.c_int32 * 3)(5, 6, 7)
    return (
        right
        and lib.llama_init_from_model(64, params) == 64
        and lib.llama_decode(64, lib.llama_batch_get_one(tokens, 3)) == 7
        and lib.llama_model_default_params().n_gpu_layers == -1
        and callback is not None
    )


@pytest.mark.parametrize(
    "change", [MOVED[name] for name in ("a field at the beginning", "a field in the midst", "a field at the end")]
)
def test_the_wrong_definitions_would_be_noticed_by_these_tests(tree, tmp_path, defined, change):
    """And so is the library itself, which is what is looked at where there are no definitions."""
    stub.plant(tree, LLAMA, *change)
    lib = bindings.bind(defined, ctypes.CDLL(stub.library(tree, tmp_path)))
    if unbound.sizes_can_be_seen():
        (clause,) = unbound.contradictions(lib)
        assert clause.startswith("struct llama_context_params has 160 bytes there, and the library writes 16")
    if "n_ctx" in change[0]:  # a tail is written behind the structure, which is not to be tried
        place = defined.structs["llama_context_params"]
        assert place.fields["n_ctx"].offset == 0


def test_a_library_whose_fields_changed_places_is_noticed_by_its_values(tree, tmp_path, defined):
    stub.plant(tree, LLAMA, *SWAP)
    lib = bindings.bind(defined, ctypes.CDLL(stub.library(tree, tmp_path)))
    assert unbound.contradictions(lib) == ["llama_context_params.n_batch is 512 at first, where 2048 is expected"]


# --- planted: refused by name -------------------------------------------------------------------

REFUSED = {
    "a field renamed": (r"uint32_t n_ubatch;", "uint32_t n_small_batch;", "llama_context_params.n_ubatch is gone"),
    "a field removed": (r"\n\s+bool use_extra_bufts;[^\n]*", "", "llama_model_params.use_extra_bufts is gone"),
    "a field of another type": (
        r"uint32_t n_ctx; ",
        "float n_ctx; ",
        "llama_context_params.n_ctx is float32 and not uint32",
    ),
    "a pointer to something else": (
        r"int8_t\s+\*\s+logits;",
        "float * logits;",
        "llama_batch.logits is float32* and not int8*",
    ),
    "a function gone": (r"llama_memory_seq_rm\(", "llama_memory_seq_remove(", "llama_memory_seq_rm() is gone"),
    "another argument": (
        r"(LLAMA_API bool llama_memory_seq_rm\()",
        r"\1 int planted, ",
        "llama_memory_seq_rm() is bool(int32, llama_memory_i*, int32, int32, int32)"
        " and not bool(llama_memory_i*, int32, int32, int32)",
    ),
    "another structure to point to": (
        r"(llama_vocab_bos\(const struct) llama_vocab",
        r"\1 llama_model",
        "llama_vocab_bos() is int32(llama_model*) and not int32(llama_vocab*)",
    ),
    "another constant": (
        r"LLAMA_FLASH_ATTN_TYPE_ENABLED  = 1",
        "LLAMA_FLASH_ATTN_TYPE_ENABLED  = 2",
        "LLAMA_FLASH_ATTN_TYPE_ENABLED is 2 and not 1",
    ),
}


@pytest.mark.parametrize("old, new, clause", REFUSED.values(), ids=REFUSED)
def test_what_is_used_and_gone_or_changed_is_named(tree, old, new, clause):
    stub.plant(tree, LLAMA, old, new)
    assert abi.faults(tree) == [clause]


def test_a_version_of_states_is_carried_and_not_judged(tree):
    stub.plant(tree, LLAMA, r"(#define LLAMA_STATE_SEQ_VERSION) \d+", r"\1 77")
    planted = headers.of_tree(tree)
    assert planted.constants["LLAMA_STATE_SEQ_VERSION"] == 77 and interface.faults(planted) == []


def test_no_build_is_made_that_could_not_be_used(base, no_builds, monkeypatch):
    """Before anything is compiled."""
    fetch("0.3.33")
    monkeypatch.setattr(cmake, "compiled", lambda *_: pytest.fail("something was compiled"))
    with pytest.raises(
        PatchError, match=r"The plugin cannot use a build of llama.cpp [0-9a-f]{40}: llama_sampler_init_"
    ):
        artifacts.build(trees.unpatched("0.3.33"), cmake.flags(), print)
    assert not list(backends_dir().glob("*"))


def test_a_library_that_lacks_a_function_is_named(base, tmp_path):
    file = stub.library(base, tmp_path / "whole")
    assert abi.not_exported(file.parent) == []
    subprocess.run(
        ["cc", "-shared", "-o", file, file.with_name("empty.o")], check=True
    )  # without those that do something
    assert "llama_decode" in abi.not_exported(file.parent)
    shutil.copyfile(__file__, file)
    with pytest.raises(PatchError, match="does not load"):
        abi.not_exported(file.parent)
