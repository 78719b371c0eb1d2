"""compat, furthest and bisect by replay, on planted tags over a real snapshot served by a git daemon."""

import json
import math
import re
import subprocess

import pygit2
import pytest

from kvsplit_patch import paths
from kvsplit_patch.series import applying, patchset, replay
from kvsplit_patch.upstream import store
from tests.support import mirrors
from tests.support.nights import CONFLICT
from tests.support.release import HERE, fetch
from tests.support.worlds import run

#: Touches a file that kvq-args changes, far from its hunks.
NEAR = (
    "arg : say more",
    mirrors.edit("common/arg.cpp", ('#include "speculative.h"\n', '#include "speculative.h" // n\n')),
)
COUNT, AT = 100, 67
#: The patches that change these lines.
THERE = ("kvq-args", "kv-layers", "kv-types")
#: Those, and what stands on them.
STOPPED = (*THERE, "metal-kv-types", "kv-4-bits", "kv-scales")


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A hundred tags over the real base, of which b9067 conflicts and b9041 comes near."""
    root = fetch(HERE)
    commits = [CONFLICT if at == AT else NEAR if at == 41 else mirrors.docs(at) for at in range(1, COUNT)]
    mirrors.own_store(tmp_path, monkeypatch)
    with mirrors.serve(tmp_path / "served", root, commits) as made:
        mirrors.checkout(tmp_path / "project", made, monkeypatch)
        yield made


def test_a_hundred_tags_are_fetched_at_once_and_replayed_without_a_process(mirror, monkeypatch):
    processes, start = [], subprocess.Popen.__init__

    def counted(self, command, *rest, **options):
        processes.append(command)
        start(self, command, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", counted)
    said = run("compat", "--format", "json")
    assert processes == [] and said.count("fetching ") == 2  # the base, and all others
    laid_out = [path for folder in mirror.folder.parent.parent.rglob("work") for path in folder.iterdir()]
    assert not laid_out  # no tag's tree comes to lie on the disk
    table = json.loads(said[said.index("{") : said.rindex("}") + 1])
    rows = table["rows"]
    assert [row["tag"] for row in rows] == mirror.tags
    for at, row in enumerate(rows):
        states = {patch: cell["state"] for patch, cell in row["cells"].items()}
        assert states == {
            **dict.fromkeys(table["patches"], "clean"),
            **dict.fromkeys(STOPPED if at >= AT else (), "conflict"),
        }
        watched = [patch for patch, cell in row["cells"].items() if cell["watched"]]
        assert watched == (list(THERE) if at in (41, AT) else [])
    assert rows[AT]["cells"]["kvq-args"]["notes"] == ["common/arg.cpp: upstream changed the same lines"]

    # The second time nothing is fetched, and each format shows the same.
    said = run("compat", "--from", "b9040", "--to", "b9070", "--every", "9")
    assert "fetching" not in said
    assert "| llama.cpp of | b9040 | b9049 | b9058 | b9067 | b9070 |" in said
    assert "- b9067 kvq-args: common/arg.cpp: upstream changed the same lines" in said
    page = run("compat", "--from", "b9066", "--to", "b9067", "--format", "html")
    assert page.count('<td class="conflict"') == len(STOPPED) and page.count("<tr>") == 3


def test_furthest_and_bisect_agree(mirror):
    said = run("furthest")
    assert f"b9066 {mirror.commits[AT - 1]}" in said and f"{COUNT - 1 - 66} newer tags are not clean" in said

    said = run("bisect")
    assert f"{mirror.commits[AT]}  arg : sort the includes" in said
    assert "common/arg.cpp lines 6-11 of the base" in said
    tried = int(re.search(r"tried (\d+) of 99 commits", said)[1])
    assert tried <= math.ceil(math.log2(99))
    assert "trying" not in run("bisect"), "the same question again is answered from what is written down"
    assert "are the same tag" in run("bisect", "--from", "b9001", "--to", "b9001", code=1)


def test_a_search_that_was_cut_short_goes_on(mirror, monkeypatch):
    from kvsplit_patch.nightly import bisection

    tried, real = [], bisection.try_on

    def interrupted(commit, *rest):
        if len(tried) == 3:
            raise KeyboardInterrupt
        tried.append(commit)
        return real(commit, *rest)

    monkeypatch.setattr(bisection, "try_on", interrupted)
    run("bisect", code=1)
    monkeypatch.setattr(bisection, "try_on", real)
    said = run("bisect")
    assert not any(f"trying {commit}" in said for commit in tried)
    assert f"{mirror.commits[AT]}  arg : sort the includes" in said


def test_without_history_the_tags_are_searched(tmp_path, monkeypatch):
    root = fetch(HERE)
    mirrors.own_store(tmp_path, monkeypatch)
    with mirrors.serve(tmp_path / "served", root, [mirrors.docs(1), CONFLICT, mirrors.docs(2)], history=False) as made:
        mirrors.checkout(tmp_path / "project", made, monkeypatch)
        said = run("bisect")
    assert "whose history" in said and f"{made.commits[2]}  arg : sort the includes" in said


def test_a_tag_that_moved_is_refused_by_name(mirror):
    run("compat", "--from", "b9001", "--to", "b9003")
    repo = pygit2.Repository(str(mirror.folder))
    repo.references["refs/tags/b9002"].set_target(mirror.commits[5])
    said = run("compat", "--from", "b9001", "--to", "b9003", code=1)
    assert f"The tag b9002 at {mirror.url} has moved from {mirror.commits[2]} to {mirror.commits[5]}" in said


def test_short_ways_end_where_the_merge_of_everything_does():
    """Over every patch, on the base, on another release, and on a tree that lacks or blocks what the patch changes."""
    fetch(HERE)
    loaded = patchset.load(paths.patchset_dir())
    repo = store.open_store()
    base, other = loaded.lock.base_tree, store.tree_of(repo, fetch("0.3.35"))
    blocked = store.tree_with(repo, base, {"src/kvsplit": store.entry_at(repo, base, "LICENSE")})
    for start in (base, other, store.tree_with(repo, base, {"common/arg.cpp": None}), blocked):
        current = start
        for step in applying.at_base(loaded):
            outcome = replay.replay(repo, step, current)
            index = replay.merge(repo, step, current)
            conflicts = tuple(replay._describe(repo, sides) for sides in index.conflicts or ())
            assert outcome.conflicts == conflicts
            if not conflicts:
                assert outcome.tree == str(index.write_tree(repo))
            current = outcome.tree
