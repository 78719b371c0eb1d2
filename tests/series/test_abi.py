"""The installed bindings against real headers: those they were written for, an older release's, and planted changes."""

import re
import shutil

import pytest

from kvsplit_patch import abi, trees
from kvsplit_patch.errors import PatchError
from tests.support.release import HERE, fetch


@pytest.fixture(scope="module")
def base():
    fetch(HERE)
    return trees.unpatched(HERE)


@pytest.fixture(scope="module")
def ours():
    return abi.bindings()


@pytest.fixture
def headers(base, tmp_path):
    """The base's headers, to change; returns a function (file, old, new)."""
    for folder in ("include", "ggml/include", "tools/mtmd", "common"):
        for file in (base.folder / folder).glob("*.h"):
            target = tmp_path / folder / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)

    def change(file, old, new):
        text = (tmp_path / file).read_text()
        assert len(re.findall(old, text)) == 1, old
        (tmp_path / file).write_text(re.sub(old, new, text))
        return [str(mismatch) for mismatch in abi.mismatches(tmp_path)]

    return change


def test_the_bindings_mirror_what_we_think(ours):
    assert {"llama_model_params", "llama_context_params", "llama_batch", "mtmd_context_params"} <= ours[
        "structs"
    ].keys()
    assert ours["functions"]["llama_decode"] == ["int4", "pointer8", "struct56"]
    assert len(ours["functions"]) > 300


def test_they_fit_the_commit_they_vendor(base):
    assert abi.mismatches(base.folder) == []


def test_they_fit_the_patched_tree(base):
    assert abi.mismatches(trees.patched().folder) == []


def test_what_is_known_to_be_wrong_is_still_wrong(base, monkeypatch):
    """An exception that nothing needs any more would hide the next fault."""
    known = abi.KNOWN
    monkeypatch.setattr(abi, "KNOWN", frozenset())
    assert {str(mismatch) for mismatch in abi.mismatches(base.folder)} == known


def test_a_planted_field_is_named_with_both_offsets(headers):
    found = headers("include/llama.h", r"(\n\s+uint32_t n_batch;)", r"\n        uint32_t planted;\1")
    assert "llama_context_params.n_batch is at offset 4 in the bindings and at offset 8 in the tree" in found


def test_two_fields_that_changed_places_are_found_though_the_size_is_the_same(headers):
    found = headers(
        "include/llama.h",
        r"(uint32_t n_batch;[^\n]*\n)(\s+)(uint32_t n_ubatch;[^\n]*\n)",
        r"\3\2\1",
    )
    assert len(found) == 2 and all("struct" not in line for line in found)


def test_a_field_of_another_kind_is_found(headers):
    found = headers("include/llama.h", r"float(\s+rope_freq_base;)", r"uint32_t\1")
    assert [line for line in found if "rope_freq_base is a 4-byte float" in line and "a 4-byte int there" in line]


def test_a_field_and_a_function_that_are_gone_are_found(headers):
    assert "llama_context_params.n_ubatch is at offset 8 in the bindings and absent in the tree" in headers(
        "include/llama.h", r"uint32_t n_ubatch;", "uint32_t n_small_batch;"
    )


def test_a_function_with_another_argument_is_found(headers):
    found = headers("include/llama.h", r"(LLAMA_API bool llama_memory_seq_rm\()", r"\1 int planted, ")
    assert [line for line in found if line.startswith("llama_memory_seq_rm() is (")]


def test_another_release_does_not_fit():
    """0.3.35's tree, two months older, under the installed bindings: the case that crashes or misreads in silence."""
    fetch("0.3.35")
    found = abi.mismatches(trees.unpatched("0.3.35").folder)
    assert found and all(" in the bindings and " in str(mismatch) for mismatch in found)


def test_a_folder_that_is_no_tree_is_told(tmp_path):
    with pytest.raises(PatchError, match="no llama.cpp tree"):
        abi.mismatches(tmp_path)
