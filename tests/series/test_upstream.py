"""Fetching from a real git daemon on loopback."""

import shutil

import pygit2
import pytest

from kvsplit_patch import series, store, upstream
from kvsplit_patch.errors import PatchError
from tests.support.daemon import serving
from tests.support.worlds import git, make_world, numbered, run, tree_files

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def url(remote):
    """The address a git daemon serves that upstream at."""
    with serving(remote[0].parent) as address:
        yield f"{address}/llama.cpp"


def test_light_and_annotated_tags_come_as_commits_without_history(remote, url):
    _, commits = remote
    assert upstream.fetch(url, "b1") == commits[0]
    assert upstream.fetch(url, "b2") == commits[1]
    repo = store.open_store()
    assert upstream.fetch(url, "b4") == commits[3]
    assert commits[2] not in repo
    assert tree_files(str(repo[commits[1]].peel(pygit2.Tree).id))["f"][1] == numbered(l25="upstream 1")
    assert git(store.store_dir(), "log", "--format=%s", commits[3]) == "commit 3"
    git(store.store_dir(), "fsck", "--strict")


@pytest.mark.parametrize("tag", ["b1", "b2"])
def test_a_moved_tag_is_refused_and_the_known_commit_kept(remote, url, tag):
    folder, commits = remote
    first = upstream.fetch(url, tag)
    assert upstream.fetch(url, tag) == first
    git(folder, "tag", "--force", "--annotate", "-m", "moved", tag, commits[2])
    with pytest.raises(PatchError, match=f"{tag} at {url} has moved from {first} to {commits[2]}"):
        upstream.fetch(url, tag)
    assert store.find_commit(store.open_store(), tag) == first


def test_a_tag_made_again_on_the_same_commit_has_not_moved(remote, url):
    folder, commits = remote
    upstream.fetch(url, "b2")
    git(folder, "tag", "--force", "--annotate", "-m", "again", "b2", commits[1])
    assert upstream.fetch(url, "b2") == commits[1]


def test_a_commit_by_its_id(remote, url):
    folder, commits = remote
    assert upstream.fetch(url, commits[3]) == commits[3]  # the tip of a ref: any server hands that out
    with pytest.raises(PatchError, match=f"Fetching {commits[2]} from"):
        upstream.fetch(url, commits[2])
    git(folder, "config", "uploadpack.allowReachableSHA1InWant", "true")  # as GitHub does
    assert upstream.fetch(url, commits[2]) == commits[2]
    assert store.find_commit(store.open_store(), commits[2][:9]) == commits[2]


def test_what_cannot_be_fetched_says_so_in_a_sentence(remote, url):
    folder, _ = remote
    git(folder, "tag", "blob", git(folder, "rev-parse", "HEAD:f"))
    for what, words in (("b9", "has no tag b9"), ("blob", "names no commit"), ("--upload-pack=x", "neither a tag nor")):
        with pytest.raises(PatchError, match=words):
            upstream.fetch(url, what)
    with pytest.raises(PatchError, match="Fetching b1 from git://127.0.0.1:1/x failed"):
        upstream.fetch("git://127.0.0.1:1/x", "b1")
    assert not [ref for ref in store.open_store().references if "incoming" in ref]


def test_rebase_on_a_bare_cache_fetches_base_and_target(remote, url, tmp_path, cache):
    """What a maintainer does on a clean clone: no fetch, no set-up, just the tag."""
    _, commits = remote
    patches = {"one": {"f": numbered(l8="one", l25="upstream 0")}}
    world = make_world(tmp_path / "project", {"base": {"f": numbered(l25="upstream 0")}}, patches, url=url)
    lock = series.read_lock(world.patchset)
    real = series.Upstream(url, commits[0], "b1")
    (world.patchset / "lock.json").write_bytes(
        series.write_lock(series.Lock("1", real, lock.base_tree, lock.result_tree, lock.patches))
    )
    shutil.rmtree(cache)
    assert "one: clean" in run("rebase", "b4")
    lock = series.read_lock(world.patchset)
    assert (lock.upstream.tag, lock.upstream.commit) == ("b4", commits[3])
    assert world.result()["f"][1] == numbered(l8="one", l25="upstream 3")


def test_the_locked_tag_may_not_move_even_for_an_empty_cache(remote, url, tmp_path, cache):
    folder, commits = remote
    world = make_world(tmp_path / "project", {"base": {"f": numbered(l25="upstream 0")}}, {}, url=url)
    lock = series.read_lock(world.patchset)
    real = series.Upstream(url, commits[0], "b1")
    (world.patchset / "lock.json").write_bytes(
        series.write_lock(series.Lock("1", real, lock.base_tree, lock.result_tree, ()))
    )
    shutil.rmtree(cache)
    git(folder, "tag", "--force", "b1", commits[2])
    for command in (["fetch", "b1"], ["rebase", "b4"]):
        assert "has moved" in run(*command, code=1)
