import subprocess
import sys

import pygit2
import pytest

from kvsplit_patch import gitdiff, series, store
from kvsplit_patch.errors import PatchError
from tests.support.worlds import header, make_tree, numbered, text

pytestmark = pytest.mark.usefixtures("cache")

C = b"".join(b"int f%d(void) {\n    a%d\n    b\n    c\n    d\n    e\n    f\n    g\n}\n" % (i, i) for i in range(9))
OLD = {
    "a.c": C,
    "crlf.txt": b"a\r\nb\r\nlone \r stays\r\n",
    "run.sh": b"hi\n",
    "no-newline": b"a\nb",
    "deleted": b"q\n",
    "link": (gitdiff.LINK, b"a.c"),
    "dir/with space": b"1\n2\n",
    "becomes-link": b"z\n",
}
NEW = {
    "a.c": C.replace(b"a3", b"changed").replace(b"    g\n}\nint f7", b"}\nint f7"),
    "crlf.txt": b"a\r\nB\r\nlone \r stays\r\nmore\r\n",
    "run.sh": (gitdiff.EXECUTABLE, b"hi\n"),
    "no-newline": b"a\nb\nc",
    "new": b"no newline either",
    "empty": b"",
    "link": (gitdiff.LINK, b"elsewhere"),
    "dir/with space": b"0\n1\n2\n",
    "becomes-link": (gitdiff.LINK, b"a.c"),
}


def patch(old, new) -> series.Patch:
    return series.Patch("x", header("x"), *gitdiff.write_diff(store.open_store(), make_tree(old), make_tree(new), "x"))


def diff(old, new) -> bytes:
    return patch(old, new).diff


def apply(old, sections) -> str:
    sections = gitdiff.parse_diff(sections, "x") if isinstance(sections, bytes) else sections
    return gitdiff.apply_diff(store.open_store(), make_tree(old), sections, "x")


def git(*arguments, **options) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, **options).stdout


#: What git writes whatever a person has configured.
FLAGS = ("--no-ext-diff", "--no-renames", "--full-index", "--src-prefix=a/", "--dst-prefix=b/")


def gits(old, new) -> bytes:
    return git("-C", store.store_dir(), "diff", *FLAGS, make_tree(old), make_tree(new))


def test_what_is_new_is_a_file_and_all_else_is_gits_diff(cache):
    there, back = patch(OLD, NEW), patch(NEW, OLD)
    assert there.files == {"new": (gitdiff.FILE, b"no newline either"), "empty": (gitdiff.FILE, b"")}
    assert back.files == {"deleted": (gitdiff.FILE, b"q\n")}
    for ours, old, new in ((there, OLD, NEW), (back, NEW, OLD)):
        known = {path: content for path, content in new.items() if path in old}
        # libgit2 marks no end of a name with spaces, and names the sides of an empty file.
        written = gits(old, known).replace(b"with space\t\n", b"with space\n")
        gone = b".." + b"0" * 40 + b"\n"
        link = b"diff --git a/link"
        written = written.replace(gone + link, gone + b"--- a/empty\n+++ /dev/null\n" + link)
        assert ours.diff == written
        assert apply(old, ours.sections()) == make_tree(new)


def test_gits_own_diff_gives_the_same_tree(cache):
    for old, new in ((OLD, NEW), (NEW, OLD)):
        assert apply(old, gits(old, new)) == make_tree(new)


def test_a_persons_git_configuration_changes_nothing(cache, tmp_path, monkeypatch):
    expected = diff(OLD, NEW)
    (tmp_path / "attributes").write_text("* binary diff=cpp\n*.txt text eol=lf\n")
    (tmp_path / ".gitconfig").write_text(
        "[diff]\n context = 9\n noprefix = true\n algorithm = patience\n mnemonicPrefix = true\n renames = copies\n"
        f"[core]\n autocrlf = true\n attributesFile = {tmp_path}/attributes\n abbrev = 5\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    code = (
        "import sys; from kvsplit_patch import gitdiff, store; r = store.open_store();"
        "sys.stdout.buffer.write(gitdiff.write_diff(r, sys.argv[1], sys.argv[2], 'x')[0])"
    )
    said = subprocess.run([sys.executable, "-c", code, make_tree(OLD), make_tree(NEW)], check=True, capture_output=True)
    assert said.stdout == expected


@pytest.mark.parametrize(
    "new",
    [
        {"a.c": NEW["a.c"], "n": b"1\n"},
        {"a.c": C, "crlf": b"1\r\n\xe9", "tool": (gitdiff.EXECUTABLE, b"#!\n")},
        {"a.c": (gitdiff.EXECUTABLE, NEW["a.c"]), "dir/link": (gitdiff.LINK, b"a.c")},
        {},
    ],
)
def test_patch_id_is_gits_with_the_files_in_it(cache, new):
    theirs = git("patch-id", "--stable", input=gits({"a.c": C}, new)).split()[0].decode()
    assert patch({"a.c": C}, new).patch_id() == theirs


def test_the_patch_id_covers_every_file(cache):
    ids = {
        patch({"a": b"1\n"}, {"a": b"2\n", **files}).patch_id()
        for files in ({}, {"n": b"1\n"}, {"n": b"2\n"}, {"m": b"1\n"}, {"n": (gitdiff.EXECUTABLE, b"1\n")}, {"n": b""})
    }
    assert len(ids) == 6


def test_the_patch_id_is_that_of_the_form_with_the_files_inside(cache):
    for old, new in ((OLD, NEW), (NEW, OLD)):
        assert patch(old, new).patch_id() == series.Patch("x", header("x"), gits(old, new), {}).patch_id()


def test_git_am_takes_the_patch_file(cache, tmp_path):
    known = {path: content for path, content in NEW.items() if path in OLD}
    ours = series.Patch("x", header("x", description="Do it\n\nBecause."), diff(OLD, NEW), {})
    (tmp_path / "x.patch").write_bytes(ours.text())
    repo = pygit2.init_repository(str(tmp_path / "am"))
    repo.config["user.name"], repo.config["user.email"] = "n", "e@example.org"
    repo.config["core.autocrlf"] = False
    for path, content in OLD.items():
        mode, data = content if isinstance(content, tuple) else (gitdiff.FILE, content)
        target = tmp_path / "am" / path
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(data.decode()) if mode == gitdiff.LINK else target.write_bytes(data)
    git("-C", tmp_path / "am", "add", ".")
    git("-C", tmp_path / "am", "commit", "-m", "old")
    git("-C", tmp_path / "am", "am", "--keep-cr", tmp_path / "x.patch")
    assert git("-C", tmp_path / "am", "rev-parse", "HEAD^{tree}").decode().strip() == make_tree(known)
    assert (
        git("-C", tmp_path / "am", "log", "-1", "--format=%s|%an|%ad", "--date=short") == b"Do it|A Person|2026-10-01\n"
    )


def test_binary_is_refused_on_both_ways_in(cache):
    with pytest.raises(PatchError, match="binary file logo.png"):
        diff({"a": b"1\n"}, {"a": b"1\n", "logo.png": b"\x89PNG\0\1"})
    binary = git("-C", store.store_dir(), "diff", "--binary", make_tree({"a": b"1\n"}), make_tree({"a": b"1\0\n"}))
    with pytest.raises(PatchError, match="binary file a"):
        gitdiff.parse_diff(binary, "x")


def test_submodules_and_renames_are_refused(cache):
    with pytest.raises(PatchError, match="submodule sub"):
        diff({"sub": (gitdiff.SUBMODULE, "1" * 40)}, {"sub": (gitdiff.SUBMODULE, "2" * 40)})
    renamed = git("-C", store.store_dir(), "diff", "-M", make_tree({"a.c": C}), make_tree({"b.c": C}))
    with pytest.raises(PatchError, match="--no-renames"):
        gitdiff.parse_diff(renamed, "x")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"/f", b"/\xe9", r"changes '\\xe9', a name git would quote"),
        (b"/f", b"/sp\\an", "a name git would quote"),
        (b"index", b"new file mode 10x644\nindex", "the diff of f cannot be read .trailing data"),
        (b" 100644", b" 100664", "gives f the mode 100664"),
        (b"index ", b"index x", "the diff of f cannot be read .invalid hex"),
        (b"+++ b/f", b"+++ b/g", "the diff of f cannot be read .mismatched new path"),
        (b"--- a/f", b"hello\n--- a/f", "the diff of f cannot be read"),
        (b" line 8\n", b" line 8\nhello\n", "hunk 1 of f does not hold"),
        (b" line 8\n", b" line 8\n-- \n2.43.0\n", "hunk 1 of f does not hold"),
        (b" line 8\n", b" line 8", "hunk 1 of f does not hold"),
        (b"diff --git a/f b/f", b'diff --git "a/\\303\\251" "b/\\303\\251"', "without quoted names"),
    ],
)
def test_a_spoilt_diff_is_one_sentence(old, new, words):
    good = diff({"f": numbered(9)}, {"f": numbered(9, l5="changed")})
    assert old in good
    with pytest.raises(PatchError, match=words):
        gitdiff.parse_diff(good.replace(old, new), "x")


@pytest.mark.parametrize("path", ["../evil", "a/../b", ".git/config", "/etc/passwd"])
def test_a_path_out_of_the_sources_is_refused(path):
    evil = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
    with pytest.raises(PatchError, match="no path inside"):
        gitdiff.parse_diff(evil.encode(), "x")


def test_wrong_counts_are_caught_where_git_apply_check_is_silent(cache):
    good = diff({"f": numbered(9)}, {"f": numbered(9, l5="changed")})
    assert b"@@ -2,7 +2,7 @@" in good
    for counts in (b"@@ -2,6 +2,6 @@", b"@@ -2,8 +2,8 @@", b"@@ -2,7 +2,6 @@"):
        with pytest.raises(PatchError, match="hunk 1 of f"):
            gitdiff.parse_diff(good.replace(b"@@ -2,7 +2,7 @@", counts), "x")


def test_no_fuzz_no_offset(cache):
    old = {"f": numbered()}
    good = diff(old, {"f": numbered(l15="changed")})
    plain = b"\n".join(line for line in good.split(b"\n") if not line.startswith(b"index "))
    assert apply(old, plain) == make_tree({"f": numbered(l15="changed")})
    with pytest.raises(PatchError, match="hunk 1 of f does not match at line 12"):
        apply({"f": text("one more line") + numbered()}, plain)
    with pytest.raises(PatchError, match="f is another version"):
        apply({"f": text("one more line") + numbered()}, good)
    with pytest.raises(PatchError, match="f is not there"):
        apply({}, plain)
    with pytest.raises(PatchError, match="x adds f, which is there already"):
        apply(old, gits({}, old))
    with pytest.raises(PatchError, match="x adds f, which is there already before it: move patchset/x/f"):
        apply(old, patch({}, old).sections())


def test_a_result_that_is_not_the_named_one_is_refused(cache):
    old = {"f": numbered()}
    forged = diff(old, {"f": numbered(l15="changed")}).replace(b"+changed", b"+forged!")
    with pytest.raises(PatchError, match="index line names"):
        apply(old, forged)
