from collections import Counter

import pytest

from kvsplit_patch.errors import PatchError
from kvsplit_patch.series import gitdiff, patchset, replay, watched
from kvsplit_patch.upstream import store
from tests.support.worlds import header, make_commit, make_tree, make_world, numbered, series_on, tree_files

pytestmark = pytest.mark.usefixtures("cache")


def replayed(base, patched, target) -> replay.Replayed:
    """What becomes of the patch base -> patched on the target; each a dict of files."""
    step = patchset.Step("p", header("p"), make_tree(base), make_tree(patched))
    return replay.replay(store.open_store(), step, make_tree(target))


def test_a_patch_follows_its_lines():
    target = b"new first line\n" * 40 + numbered(l25="upstream")
    outcome = replayed({"f": numbered()}, {"f": numbered(l8="ours")}, {"f": target})
    assert outcome.state == replay.CLEAN
    assert tree_files(outcome.tree)["f"][1] == target.replace(b"line 8\n", b"ours\n")


def test_the_same_lines_changed_is_a_conflict():
    outcome = replayed({"f": numbered()}, {"f": numbered(l8="ours")}, {"f": numbered(l8="upstream")})
    assert (outcome.state, outcome.conflicts) == (replay.CONFLICT, (("f", "upstream changed the same lines"),))


def test_a_patch_that_upstream_took():
    taken = numbered(l8="ours")
    outcome = replayed({"f": numbered()}, {"f": taken}, {"f": taken.replace(b"line 25", b"and more")})
    assert outcome.state == replay.UPSTREAM


def test_a_patch_that_upstream_half_took():
    ours = {"f": numbered(l8="ours"), "g": numbered(l8="also ours")}
    outcome = replayed({"f": numbered(), "g": numbered()}, ours, {"f": numbered(l8="ours", l25="x"), "g": numbered()})
    assert outcome.state == replay.PARTLY
    assert set(outcome.lines) == {"+ours", "-line 8"}


def test_braces_that_upstream_added_too_are_not_a_half_taken_patch():
    ours = numbered(l8="if (x) {", l20="}")
    outcome = replayed({"f": numbered()}, {"f": ours}, {"f": numbered(l8="if (x) {", l20="}")})
    assert outcome.state == replay.UPSTREAM
    lone = replayed(
        {"f": numbered(), "g": b""}, {"f": numbered(l8="ours"), "g": b"}\n"}, {"f": numbered(), "g": b"}\n"}
    )
    assert lone.state == replay.CLEAN


def test_a_file_that_upstream_deleted_is_a_conflict():
    outcome = replayed({"f": numbered(), "g": b"g\n"}, {"f": numbered(l8="ours"), "g": b"g\n"}, {"g": b"g\n"})
    assert outcome.conflicts == (("f", "upstream deleted or moved it, the patch changes it"),)


def test_a_file_that_upstream_renamed_is_followed():
    moved = numbered(l25="upstream")
    outcome = replayed({"a/f.c": numbered()}, {"a/f.c": numbered(l8="ours")}, {"b/g.c": moved})
    assert outcome.state == replay.CLEAN
    assert {path: data for path, (_, data) in tree_files(outcome.tree).items()} == {
        "b/g.c": moved.replace(b"line 8\n", b"ours\n")
    }


def test_a_file_that_both_add_is_a_conflict():
    outcome = replayed({"f": b"f\n"}, {"f": b"f\n", "n": b"ours\n"}, {"f": b"f\n", "n": b"theirs\n"})
    assert outcome.conflicts == (("n", replay.BOTH_ADD),)


def test_crlf_modes_links_and_submodules_come_through_untouched():
    others = {
        "run": (gitdiff.EXECUTABLE, b"#!\r\n"),
        "link": (gitdiff.LINK, b"f"),
        "sub": (gitdiff.SUBMODULE, "3" * 40),
    }
    base = numbered().replace(b"\n", b"\r\n")
    patched = base.replace(b"line 8\r\n", b"ours\r\n")
    target = base.replace(b"line 25\r\n", b"upstream with \r inside\r\n")
    outcome = replayed({"f": base, **others}, {"f": patched, **others}, {"f": target, **others})
    assert outcome.state == replay.CLEAN
    assert tree_files(outcome.tree) == {
        "f": (gitdiff.FILE, target.replace(b"line 8\r\n", b"ours\r\n")),
        **{path: (mode, data) for path, (mode, data) in others.items()},
    }


def test_upstream_turning_to_crlf_is_a_conflict_not_a_mix():
    crlf = numbered().replace(b"\n", b"\r\n")
    assert replayed({"f": numbered()}, {"f": numbered(l8="ours")}, {"f": crlf}).state == replay.CONFLICT


def test_a_merge_that_loses_upstream_lines_is_stopped():
    """No merge of lines does this, so the guard is given a merged tree that does."""
    step = patchset.Step("p", header("p"), make_tree({"f": numbered()}), make_tree({"f": numbered(l8="ours", l9=None)}))
    current = make_tree({"f": numbered(l25="upstream wrote this")})
    lost = make_tree({"f": numbered(l8="ours", l9=None, l25=None)})
    outcome = replay.classify(store.open_store(), step, current, lost)
    assert (outcome.state, outcome.lines) == (replay.DELETES, ("upstream wrote this",))
    kept = make_tree({"f": numbered(l8="ours", l9=None, l25="upstream wrote this")})
    assert replay.classify(store.open_store(), step, current, kept).state == replay.CLEAN


def test_a_deleted_copy_of_a_line_the_patch_deletes_once_counts():
    assert replay.deleted_beyond(Counter({"x": -1}), Counter({"x": -2})) == ("x",)
    assert replay.deleted_beyond(Counter({"x": -1}), Counter({"x": -1, "": -4})) == ()


def test_watched_paths_list_what_upstream_changed(tmp_path):
    base = {"src/f.c": numbered(), "dep/a.h": b"1\n", "dep/b.h": b"2\n", "k/x.metal": b"3\n", "other": b"4\n"}
    base |= {"gone.h": b"5\n", "was/moved.h": b"6\n"}
    target = {
        "src/f.c": numbered(l25="up"),
        "dep/a.h": b"1\n9\n",
        "dep/b.h": b"2\n",
        "k/x.metal": b"7\n",
        "other": b"8\n",
    }
    target["is/moved.h"] = b"6\n7\n"
    fields = {"watch": ("dep/", "k/*.metal", "gone.h", "was/")}
    world = make_world(
        tmp_path / "p", {"base": base, "next": target}, {"p": {"src/f.c": numbered(l8="ours")}}, p=fields
    )
    loaded = patchset.load(world.patchset)
    repo = store.open_store()
    found = watched.changes(repo, loaded, watched.between(repo, make_tree(base), make_tree(target)))
    assert {(change.path, change.added, change.removed, change.note) for change in found} == {
        ("src/f.c", 1, 1, ""),
        ("dep/a.h", 1, 0, ""),
        ("k/x.metal", 1, 1, ""),
        ("gone.h", 0, 1, "deleted"),
        ("was/moved.h", 0, 1, "deleted, maybe now is/moved.h"),
    }


def test_the_series_on_a_commit_has_every_prefix(tmp_path):
    base = {"f": numbered()}
    patches = {"one": {"f": numbered(l8="one")}, "two": {"f": numbered(l8="one", l20="two")}}
    world = make_world(tmp_path / "p", {"base": base, "next": {"f": numbered(l29="up")}}, patches)
    here = series_on()
    assert [here[0].before, *(step.after for step in here)] == [
        make_tree(base),
        *(make_tree({**base, **patch}) for patch in patches.values()),
    ]
    there = series_on(world.commits["next"])
    assert tree_files(there[-1].after)["f"][1] == numbered(l8="one", l20="two", l29="up")


def test_the_series_on_a_commit_refuses_what_needs_a_person(tmp_path):
    make_world(tmp_path / "p", {"base": {"f": numbered()}}, {"one": {"f": numbered(l8="one")}})
    commit = make_commit({"f": numbered(l8="up")}, "next")
    with pytest.raises(
        PatchError,
        match=f"one does not replay onto {commit} .conflict; f: upstream changed the same lines.: run 'kvsplit-patch",
    ):
        series_on(commit)
