"""The Metal patch on copies of its base that do what upstream did and will do: clean, or a conflict that is resolved."""

import os
from pathlib import Path

import pygit2
import pytest

from kvsplit_patch import paths
from kvsplit_patch.errors import PatchError
from kvsplit_patch.series import journal, patchset, trees
from kvsplit_patch.upstream import revisions, store
from softmetal import attention, build, stage
from tests.support.planted import V_CONVERTED_AS_K
from tests.support.release import fetch
from tests.support.resolving import CONFLICT
from tests.support.worlds import run, series_on

OPS = "ggml/src/ggml-metal/ggml-metal-ops.cpp"
HOST = "ggml/src/ggml-metal/ggml-metal-device.cpp"
HEADER = "ggml/src/ggml-metal/ggml-metal-device.h"
CMAKE = "ggml/src/ggml-metal/CMakeLists.txt"
ARGUMENTS = "ggml/src/ggml-metal/ggml-metal-impl.h"
KERNEL = "ggml/src/ggml-metal/kernels/fa_vec_common.metal"

#: path -> (what stands there, what a copy has instead).
CONTEXT = {OPS: [("    GGML_ASSERT(ne00 % 4 == 0);\n", "    GGML_ASSERT(ne00 % 4 == 0 && ne00 > 0);\n")]}
FIELD = {
    ARGUMENTS: [
        (
            "    int32_t  nblocks;\n} ggml_metal_kargs_flash_attn_ext_kv_f16;",
            "    int32_t  nblocks;\n    int32_t  flags;\n} ggml_metal_kargs_flash_attn_ext_kv_f16;",
        )
    ],
    OPS: [
        (
            "            /*.nblocks =*/ nblocks1,\n",
            "            /*.nblocks =*/ nblocks1,\n            /*.flags   =*/ 0,\n",
        ),
        (
            "                /*.nblocks =*/ nblocks2,\n",
            "                /*.nblocks =*/ nblocks2,\n                /*.flags   =*/ 0,\n",
        ),
    ],
}
ARGUMENT = {
    OPS: [("get_pipeline_flash_attn_ext_kv_f16(lib, op);", "get_pipeline_flash_attn_ext_kv_f16(lib, op, false);")],
    HEADER: [
        ("_flash_attn_ext_kv_f16(\n        ggml_metal_library_t lib,\n        const struct ggml_tensor * op);", "_flash_attn_ext_kv_f16(\n        ggml_metal_library_t lib,\n        const struct ggml_tensor * op,\n        bool wide);")
    ],
    HOST: [
        ("        const ggml_tensor * op) {\n    assert(op->op == GGML_OP_FLASH_ATTN_EXT);\n\n    char base[256];\n\n    snprintf(base, 256, \"kernel_flash_attn_ext_kv_", "        const ggml_tensor * op,\n        bool wide) {\n    assert(op->op == GGML_OP_FLASH_ATTN_EXT);\n    GGML_UNUSED(wide);\n\n    char base[256];\n\n    snprintf(base, 256, \"kernel_flash_attn_ext_kv_")
    ],
}  # fmt: skip


@pytest.fixture
def copy(project):
    """Makes commits like the series' base, with edits, moved files and parts of files; forgets them afterwards."""
    fetch("0.3.36")
    repo, made = store.open_store(), []
    lock = patchset.read_lock(paths.patchset_dir())
    revisions.ensure(lock.upstream)

    def make(edits, moved=(), parts=()):
        changes = {}
        for path, replacements in edits.items():
            mode, blob = store.entry_at(repo, lock.base_tree, path)
            text = store.read_blob(repo, blob).decode()
            for old, new in replacements:
                assert text.count(old) == 1, (path, old)
                text = text.replace(old, new)
            changes[path] = (mode, repo.create_blob(text.encode()))
        for whole, part, text in parts:
            mode, blob = changes.get(whole) or store.entry_at(repo, lock.base_tree, whole)
            left = store.read_blob(repo, blob).decode()
            assert left.count(text) == 1, (whole, text)
            changes[whole] = (mode, repo.create_blob(left.replace(text, "").encode()))
            changes[part] = (mode, repo.create_blob(text.encode()))
        for old, new in moved:
            changes |= {new: store.entry_at(repo, lock.base_tree, old), old: None}
        who = pygit2.Signature("nobody", "nobody@localhost", 0, os.getpid())
        tree = store.tree_with(repo, lock.base_tree, changes)
        commit = str(repo.create_commit(None, who, who, "a copy\n", pygit2.Oid(hex=tree), []))
        ref = f"{store.REFS}/commit/{commit}"
        repo.references.create(ref, commit, force=True)
        made.append(ref)
        return commit

    yield make
    for ref in made:
        repo.references.delete(ref)


def test_softmetal_a_changed_line_nearby_and_a_new_field_replay_cleanly(copy):
    for edits in (CONTEXT, FIELD):
        assert series_on(copy(edits))


def test_softmetal_a_host_file_that_moved_is_followed(copy):
    plan = run("rebase", "--plan", copy({}, moved=[(HOST, HOST.replace("device.cpp", "pipelines.cpp"))]))
    assert "metal-mixed-kv       clean, now in ggml/src/ggml-metal/ggml-metal-pipelines.cpp" in plan


def test_softmetal_a_kernel_file_that_moved_is_out_of_range(copy):
    with pytest.raises(PatchError, match=f"metal-fa-vec-zero needs {KERNEL}"):
        series_on(copy({}, moved=[(KERNEL, KERNEL.replace("fa_vec_common", "fa_vec"))]))


def split(copy):
    """The constants of the vector kernel get a file of their own, as upstream gave one to each family of kernels."""
    repo, lock = store.open_store(), patchset.read_lock(paths.patchset_dir())
    kernel = store.read_blob(repo, store.entry_at(repo, lock.base_tree, KERNEL)[1]).decode()
    constants = KERNEL.replace("fa_vec_common", "fa_vec_constants")
    name = '"${CMAKE_CURRENT_SOURCE_DIR}/kernels/fa_vec_common.metal"'
    listed = [(f"COMMON {name}", f"COMMON {name.replace('common', 'constants')} {name}")]
    return copy({CMAKE: listed}, parts=[(KERNEL, constants, kernel[: kernel.index("template<")])])


def test_softmetal_a_kernel_file_that_was_split_replays_cleanly(copy):
    assert series_on(split(copy))


def resolve_argument(commit):
    """Take both sides of the conflict: upstream's argument stands before ours."""
    said = run("rebase", commit, code=1)
    assert "metal-mixed-kv: conflict" in said
    work = Path(journal.read(paths.checkout()).work)
    for path in (OPS, HOST, HEADER):
        text = (work / path).read_text()
        assert CONFLICT.search(text), path
        text = CONFLICT.sub(lambda found: found[3], text)
        text = text.replace("(lib, op, op->src[", "(lib, op, false, op->src[")
        text = text.replace(
            "const struct ggml_tensor * op,\n        enum ggml_type type);",
            "const struct ggml_tensor * op,\n        bool wide,\n        enum ggml_type type);",
        )
        text = text.replace(
            "const ggml_tensor * op,\n        ggml_type type) {",
            "const ggml_tensor * op,\n        bool wide,\n        ggml_type type) {\n    GGML_UNUSED(wide);",
        )
        (work / path).write_text(text)
    run("continue")


def test_softmetal_a_new_argument_of_the_pipeline_getter_is_a_conflict_and_resolved(copy):
    resolve_argument(copy(ARGUMENT))
    run("lint")
    run("export", "--check")


#: Both paths of a pair in which V is converted and K is not the same type.
CASES = attention.mixed("64", (("q8_0", "q4_0"), ("f16", "q8_0"), ("q5_1", "q4_0")))


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(2400)
def test_softmetal_a_clean_replay_means_the_same(copy):
    both = {**CONTEXT, **FIELD, OPS: CONTEXT[OPS] + FIELD[OPS]}
    assert attention.run(build.programs(trees.patched(copy(both)), print), CASES).clean


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(2400)
def test_softmetal_a_split_kernel_file_means_the_same(copy):
    assert attention.run(build.programs(trees.patched(split(copy)), print), CASES).clean


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(2400)
def test_softmetal_a_resolved_conflict_means_the_same(copy):
    resolve_argument(copy(ARGUMENT))
    assert attention.run(build.programs(trees.patched(), print), CASES).clean


@pytest.mark.build
@pytest.mark.long
@pytest.mark.timeout(2400)
def test_softmetal_a_silent_break_merges_cleanly_and_verify_catches_it(copy):
    problems, _ = stage.check(trees.patched(copy({V_CONVERTED_AS_K.path: V_CONVERTED_AS_K.edits})), print)
    assert any("type_K=q8_0,type_V=q4_0" in problem for problem in problems)
    assert not any("upstream's cases" in problem for problem in problems)
