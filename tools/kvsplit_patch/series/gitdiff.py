"""Git diffs of text: read strictly, applied without fuzz, and written the same everywhere.

libgit2 reads and writes them. What it does not do stands here: it takes a hunk whose ``@@`` line counts too few lines,
and text between files, for nothing at all; and it applies to a work tree or an index, with offsets, never to a tree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import PatchError
from ..upstream.store import entry_at, read_blob, sentence, tree_with
from .folders import Files

if TYPE_CHECKING:
    from pygit2 import Patch

ZERO = "0" * 40
FILE, EXECUTABLE, LINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000


# --- read


@lru_cache(maxsize=64)  # every tag of a compatibility table asks what each patch touches
def parse_diff(diff: bytes, name: str) -> tuple[Patch, ...]:
    """Read a git diff whose every count is right, one a file. Raises PatchError on anything this project does not carry."""
    return tuple(_parse_section(section, name) for section in _sections(diff))


def _sections(diff: bytes) -> list[bytes]:
    """One a file, with the names of an empty file's sides, which libgit2 wants and git leaves out."""
    whole = []
    for section in filter(None, re.split(rb"^(?=diff --git )", diff, flags=re.M)):
        if empty := re.fullmatch(rb"diff --git a/(.+) b/\1\n(new|deleted) file mode \d+\nindex .*\n", section):
            sides = b"--- /dev/null\n+++ b/%s\n" if empty[2] == b"new" else b"--- a/%s\n+++ /dev/null\n"
            section += sides % empty[1]
        whole.append(section)
    return whole


def _parse_section(section: bytes, name: str) -> Patch:
    from pygit2 import Diff, GitError

    start = re.match(rb"diff --git a/(.+) b/\1\n", section)
    if not start:
        first = section.partition(b"\n")[0].decode(errors="backslashreplace")
        raise PatchError(
            f"{name}.patch: {first!r} begins no plain file diff; "
            "write it with 'git diff --no-renames', without quoted names."
        )
    path = checked_path(start[1], f"{name}.patch")
    head, *hunks = re.split(rb"^(?=@@ )", section, flags=re.M)
    if re.search(rb"^(GIT binary patch|Binary files )", head, re.M):
        raise PatchError(f"{name}.patch changes the binary file {path}: patches here carry text only.")
    for number, hunk in enumerate(hunks, 1):
        if not _counts_right(hunk):
            raise PatchError(
                f"{name}.patch: hunk {number} of {path} does not hold the lines its @@ line counts: run 'git diff' again."
            )
    try:
        [patch] = Diff.parse_diff(section)
    except (GitError, ValueError) as failure:
        raise PatchError(
            f"{name}.patch: the diff of {path} cannot be read ({sentence(failure)}): run 'git diff' again."
        ) from None
    assert patch
    for mode in (int(patch.delta.old_file.mode), int(patch.delta.new_file.mode)):
        if mode not in (0, FILE, EXECUTABLE, LINK):
            what = f"moves the submodule {path}" if mode == SUBMODULE else f"gives {path} the mode {mode:o}"
            raise PatchError(f"{name}.patch {what}: patches here carry text files only.")
    return patch


def checked_path(raw: bytes, where: str) -> str:
    """A path inside the sources that git writes without quotes. Raises PatchError."""
    shown = repr(raw)[1:]
    if re.search(rb'[\x00-\x1f"\\\x7f-\xff]', raw):
        raise PatchError(f"{where} changes {shown}, a name git would quote: rename the file.")
    if {b"", b".", b"..", b".git"} & set(raw.split(b"/")):
        raise PatchError(f"{where} changes {shown}, which is no path inside the sources: remove it.")
    return raw.decode()


def _counts_right(hunk: bytes) -> bool:
    counts = re.match(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", hunk)
    kinds = [line[:1] for line in hunk.split(b"\n")[1:-1]]
    both, old, new, odd = (kinds.count(kind) for kind in (b" ", b"-", b"+", b"\\"))
    if not counts or both + old + new + odd != len(kinds):
        return False
    return [both + old, both + new] == [1 if count is None else int(count) for count in counts.groups()]


# --- applied


def apply_diff(repo, tree: str, diff: Sequence[Patch], files: Files, name: str, *, moved: bool = False) -> str:
    """The tree id after a diff and new files: no fuzz, no offset, and every id the diff names must come out.

    ``moved``: lines may lie elsewhere than the diff says, where a file has them only once. Raises PatchError naming the hunk that does not fit.
    """
    for patch in diff:
        tree = tree_with(repo, tree, {patch.delta.new_file.path: _apply_to_file(repo, tree, patch, name, moved)})
    for path in files:
        if entry_at(repo, tree, path):
            raise _added_twice(path, name)
    return tree_with(repo, tree, {path: (mode, repo.create_blob(data)) for path, (mode, data) in files.items()})


def _apply_to_file(repo, tree: str, patch: Patch, name: str, moved: bool) -> tuple[int, str] | None:
    """Mode and blob id of one file after its diff; None where it is deleted."""
    from pygit2.enums import DeltaStatus

    old_side, new_side = patch.delta.old_file, patch.delta.new_file
    path, old = new_side.path, b""
    misfit = f"{name}.patch does not fit its base: {path} {{}}; restore it, or make it anew with 'kvsplit-patch apply'."
    present = entry_at(repo, tree, path)
    if patch.delta.status == DeltaStatus.ADDED:
        if present:
            raise _added_twice(path, name)
    else:
        if not present:
            raise PatchError(misfit.format("is not there"))
        if present[0] != (old_side.mode or FILE):
            raise PatchError(misfit.format("has another mode"))
        if not present[1].startswith(_stated(old_side)):
            raise PatchError(misfit.format("is another version there"))
        old = read_blob(repo, present[1])
    new = _apply_hunks(old, patch, name, moved)
    if patch.delta.status == DeltaStatus.DELETED:
        if new:
            raise PatchError(f"{name}.patch deletes {path} but leaves lines of it: run 'git diff' again.")
        return None
    blob = str(repo.create_blob(new))
    if not blob.startswith(_stated(new_side)):
        raise PatchError(
            f"{name}.patch does not give the {path} its index line names: restore it with 'git checkout', "
            "or take that line out and run 'kvsplit-patch export' to keep the edit."
        )
    return int(new_side.mode) or FILE, blob


def _stated(side: Any) -> str:
    """The id of a file's side on the ``index`` line, as far as it goes; empty without that line."""
    return str(side.id).rstrip("0")  # libgit2 fills up what is cut short


def _added_twice(path: str, name: str) -> PatchError:
    return PatchError(
        f"{name} adds {path}, which is there already before it: move patchset/{name}/{path} "
        "to another name, or take it away and make the change with 'kvsplit-patch apply' and 'refresh'."
    )


def _apply_hunks(old: bytes, patch: Patch, name: str, moved: bool) -> bytes:
    source = split_lines(old)
    result: list[bytes] = []
    position = 0
    for number, hunk in enumerate(patch.hunks, 1):
        lines = _hunk_lines(hunk)
        before = [content for origin, content in lines if origin != "+"]
        start = hunk.old_start - 1 if before else hunk.old_start  # a hunk without old lines names the line above
        if moved and source[start : start + len(before)] != before:
            start = _only_place(source, before)
        if start < position or source[start : start + len(before)] != before:
            raise PatchError(
                f"{name}.patch does not fit its base: hunk {number} of {patch.delta.new_file.path} "
                f"does not match at line {hunk.old_start}; restore it, or make it anew with 'kvsplit-patch apply'."
            )
        result += source[position:start]
        result += [content for origin, content in lines if origin != "-"]
        position = start + len(before)
    return b"".join(result + source[position:])


def _only_place(source: list[bytes], lines: list[bytes]) -> int:
    """Where the lines stand in a file, from 0; -1 where they are not there, or more than once."""
    starts = range(len(source) - len(lines) + 1) if lines else ()
    places = [at for at in starts if source[at] == lines[0] and source[at : at + len(lines)] == lines]
    return places[0] if len(places) == 1 else -1


def _hunk_lines(hunk: Any) -> list[tuple[str, bytes]]:
    """Origin (" ", "-", "+") and content of each line, its ending with it."""
    lines: list[tuple[str, bytes]] = []
    for line in hunk.lines:
        if line.origin in "<>=":  # no newline at the end of the file
            origin, content = lines[-1]
            lines[-1] = (origin, content.removesuffix(b"\n"))
        else:
            lines.append((line.origin, line.raw_content))
    return lines


def split_lines(data: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+", data)  # bytes.splitlines would also split at a lone \r


# --- written


def write_diff(repo, old_tree: str, new_tree: str, name: str) -> tuple[bytes, dict[str, tuple[int, bytes]]]:
    """What is changed between two trees as a diff, and what is new there as files: path -> (mode, bytes).

    The diff has full ids, 3 lines of context, a/ and b/, a rename as delete and add; nobody's git configuration
    changes a byte of it. A link stays in the diff. Raises PatchError for binary files and submodules.
    """
    from pygit2.enums import DeltaStatus, DiffOption

    # No attribute file reaches the store, and a NUL would make libgit2 leave the lines out.
    # Where two diffs say the same, the one that git itself shows.
    flags = DiffOption.FORCE_TEXT | DiffOption.INDENT_HEURISTIC
    diff = repo.diff(repo[old_tree], repo[new_tree], flags=flags)
    sections, files = [], {}
    for patch in diff:
        old, new = patch.delta.old_file, patch.delta.new_file
        path = checked_path(new.raw_path, name)
        if SUBMODULE in (old.mode, new.mode):
            raise PatchError(f"{name} moves the submodule {path}: patches here carry text only.")
        # The ids of a side that is not there are zeros.
        old_data, new_data = (read_blob(repo, side.id) if str(side.id) != ZERO else b"" for side in (old, new))
        if b"\0" in old_data[:8000] or b"\0" in new_data[:8000]:
            raise PatchError(f"{name} changes the binary file {path}: patches here carry text only.")
        is_new = patch.delta.status == DeltaStatus.ADDED and entry_at(repo, old_tree, path) is None
        if is_new and new.mode in (FILE, EXECUTABLE):
            files[path] = int(new.mode), new_data
        else:
            full = f"\nindex {old.id}..{new.id}".encode()  # how far libgit2 cuts them depends on what the store holds
            sections.append(re.sub(rb"\nindex \w+\.\.\w+", full, patch.data, count=1))
    return b"".join(sections), files


def patch_id(diff: bytes, files: dict[str, tuple[int, bytes]]) -> str:
    """``git patch-id --stable`` of a change that can be read and its files: the same wherever its lines lie.

    (But for a new file that is empty, or has a space in its name: git makes another number of those.)
    """
    from pygit2 import Diff, Patch
    from pygit2.enums import DiffOption

    sections = _sections(diff)
    for path, (mode, data) in files.items():
        text = Patch.create_from(None, data, new_as_path=path, flag=DiffOption.FORCE_TEXT).data
        sections.append(text.replace(b"\nnew file mode 100644\n", f"\nnew file mode {mode:o}\n".encode(), 1))
    return str(Diff.parse_diff(b"".join(sections)).patchid)
