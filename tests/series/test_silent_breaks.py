"""What the project's own patches watch for, planted in llama.cpp's real files: it merges, and is shown."""

import pygit2

from kvsplit_patch.series import patchset
from kvsplit_patch.upstream import store
from tests.support.release import HERE, fetch
from tests.support.worlds import run


def test_what_merges_silently_is_shown(project):
    """Lines that no hunk meets, planted in llama.cpp's real files: where K's type alone is asked."""
    fetch(HERE)
    repo, loaded = store.open_store(), patchset.load(project / "patchset")
    planted = {
        "ggml/src/ggml-cpu/ops.cpp": "static bool planted_k(const ggml_tensor * k) { return k->type == GGML_TYPE_F16; }",
        "ggml/src/ggml-metal/ggml-metal-ops.cpp": "static bool planted(const ggml_tensor * op) "
        "{ return op->src[1]->type == GGML_TYPE_F16; }",
    }
    files = {}
    for path, line in planted.items():
        mode, blob = store.entry_at(repo, loaded.lock.base_tree, path)
        files[path] = mode, repo.create_blob(store.read_blob(repo, blob) + line.encode() + b"\n")
    tree = store.tree_with(repo, loaded.lock.base_tree, files)
    who = pygit2.Signature("upstream", "upstream@example.org", 1, 0)
    commit = str(repo.create_commit(None, who, who, "planted", pygit2.Oid(hex=tree), []))
    repo.references.create(f"{store.REFS}/commit/{commit}", commit)
    try:
        plan = run("rebase", "--plan", commit)
    finally:
        repo.references.delete(f"{store.REFS}/commit/{commit}")
    assert "conflict" not in plan
    for path, line in planted.items():
        assert any(f"{path}:" in shown and line in shown for shown in plan.splitlines()), plan
