"""Git diffs of text: read strictly, applied without fuzz, and written the same everywhere.

A diff is written here from libgit2's hunks instead of by a git command, because a person's configuration
(context, prefixes, algorithm, attributes) must not change its bytes.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from .errors import PatchError
from .store import entry_at, read_blob, tree_with

ZERO = "0" * 40
FILE, EXECUTABLE, LINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000
_NO_NEWLINE = b"\\ No newline at end of file"


@dataclass(frozen=True)
class Hunk:
    """Lines keep their ending; ``lines`` are (b" " | b"-" | b"+", content)."""

    old_start: int
    lines: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class FileDiff:
    """What one ``diff --git`` section does. A mode of None: the file is not there on that side.

    ``old_id`` and ``new_id`` are what the ``index`` line gives, maybe abbreviated, maybe empty.
    """

    path: str
    old_mode: int | None
    new_mode: int | None
    old_id: str
    new_id: str
    hunks: tuple[Hunk, ...]


@lru_cache(maxsize=64)  # every tag of a compatibility table asks what each patch touches
def parse_diff(diff: bytes, name: str) -> tuple[FileDiff, ...]:
    """Read a git diff whose every count is right. Raises PatchError on anything this project does not carry."""
    lines = diff.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if lines[-2:-1] == [b"-- "]:
        raise PatchError(f"{name}.patch ends in a mail signature: run kvsplit-patch export.")
    sections, start = [], 0
    while start < len(lines):
        section, start = _parse_section(lines, start, name)
        sections.append(section)
    return tuple(sections)


def _parse_section(lines, at, name):
    first = lines[at]
    names = first[len(b"diff --git ") :]
    half = (len(names) - 1) // 2
    if not first.startswith(b"diff --git a/") or names[2:half] != names[half + 3 :]:
        raise PatchError(
            f"{name}.patch, line {at + 1} of its diff: {first.decode(errors='replace')!r} begins no plain file diff; "
            "write it with `git diff --no-renames`, without quoted names."
        )
    path = names[2:half].decode()
    if {"", ".", "..", ".git"} & set(path.split("/")):
        raise PatchError(f"{name}.patch changes {path!r}, which is no path inside the sources: remove it.")
    mode = {"old": FILE, "new": FILE}
    old_id = new_id = ""
    at += 1
    while at < len(lines) and not lines[at].startswith((b"diff --git ", b"@@ ")):
        line = lines[at].decode(errors="replace")
        if line.startswith(("GIT binary patch", "Binary files ")):
            raise PatchError(f"{name}.patch changes the binary file {path}: patches here carry text only.")
        if line.startswith("index "):
            ids, _, both = line[6:].partition(" ")
            old_id, _, new_id = ids.partition("..")
            if both:
                mode = {"old": int(both, 8), "new": int(both, 8)}
        elif line.startswith("new file mode "):
            mode = {"old": None, "new": int(line[14:], 8)}
        elif line.startswith("deleted file mode "):
            mode = {"old": int(line[18:], 8), "new": None}
        elif line.startswith("old mode "):
            mode["old"] = int(line[9:], 8)
        elif line.startswith("new mode "):
            mode["new"] = int(line[9:], 8)
        elif not line.startswith(("--- ", "+++ ")):
            raise PatchError(
                f"{name}.patch: {line!r} in the diff of {path} is not carried here; use `git diff --no-renames`."
            )
        at += 1
    if SUBMODULE in mode.values():
        raise PatchError(f"{name}.patch moves the submodule {path}: patches here carry text only.")
    hunks = []
    while at < len(lines) and lines[at].startswith(b"@@ "):
        hunk, at = _parse_hunk(lines, at, name, path, len(hunks) + 1)
        hunks.append(hunk)
    if at < len(lines) and not lines[at].startswith(b"diff --git "):
        raise PatchError(
            f"{name}.patch: hunk {len(hunks)} of {path} is longer than its @@ line says: run git diff again."
        )
    return FileDiff(path, mode["old"], mode["new"], old_id, new_id, tuple(hunks)), at


def _parse_hunk(lines, at, name, path, number):
    counts = re.match(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", lines[at])
    if not counts:
        raise PatchError(f"{name}.patch: hunk {number} of {path} has a broken @@ line: run git diff again.")
    old_start = int(counts[1])
    old_left, new_left = (1 if count is None else int(count) for count in (counts[2], counts[4]))
    at += 1
    found = []
    while at < len(lines) and (old_left or new_left or lines[at] == _NO_NEWLINE):
        line = lines[at]
        if line == _NO_NEWLINE and found:
            kind, content = found[-1]
            found[-1] = (kind, content[:-1])
        elif line[:1] in (b" ", b"-", b"+"):
            found.append((line[:1], line[1:] + b"\n"))
            old_left -= line[:1] != b"+"
            new_left -= line[:1] != b"-"
        else:
            break
        at += 1
    if old_left or new_left:
        raise PatchError(
            f"{name}.patch: hunk {number} of {path} does not hold the lines its @@ line counts: run git diff again."
        )
    return Hunk(old_start, tuple(found)), at


# --- applied


def apply_diff(repo, tree, sections, name) -> str:
    """The tree id after a diff: no fuzz, no offset, and every id the diff names must come out.

    Raises PatchError naming the hunk that does not fit.
    """
    for section in sections:
        tree = tree_with(repo, tree, {section.path: _apply_section(repo, tree, section, name)})
    return str(tree)


def _apply_section(repo, tree, section, name):
    misfit = f"{name}.patch does not fit its base: {section.path} {{}}; restore it, or make it anew with kvsplit-patch apply."
    present = entry_at(repo, tree, section.path)
    if present is None and section.old_mode is not None:
        raise PatchError(misfit.format("is not there"))
    if present is not None and section.old_mode is None:
        raise PatchError(misfit.format("is there already"))
    if present and present[0] != section.old_mode:
        raise PatchError(misfit.format("has another mode"))
    if present and section.old_id and not present[1].startswith(section.old_id):
        raise PatchError(misfit.format("is another version there"))
    old = read_blob(repo, present[1]) if present else b""
    new = _apply_hunks(old, section, name)
    if section.new_mode is None:
        if new:
            raise PatchError(f"{name}.patch deletes {section.path} but leaves lines of it: run git diff again.")
        return None
    blob = str(repo.create_blob(new))
    if section.new_id and not blob.startswith(section.new_id):
        raise PatchError(
            f"{name}.patch does not give the {section.path} its index line names: run kvsplit-patch export."
        )
    return section.new_mode, blob


def _apply_hunks(old: bytes, section: FileDiff, name: str) -> bytes:
    source = re.findall(rb"[^\n]*\n|[^\n]+", old)  # bytes.splitlines would also split at a lone \r
    result, position = [], 0
    for number, hunk in enumerate(section.hunks, 1):
        before = [content for kind, content in hunk.lines if kind != b"+"]
        start = hunk.old_start - 1 if before else hunk.old_start  # a hunk without old lines names the line above
        if start < position or source[start : start + len(before)] != before:
            raise PatchError(
                f"{name}.patch does not fit its base: hunk {number} of {section.path} "
                f"does not match at line {hunk.old_start}; restore it, or make it anew with kvsplit-patch apply."
            )
        result += source[position:start]
        result += [content for kind, content in hunk.lines if kind != b"-"]
        position = start + len(before)
    return b"".join(result + source[position:])


# --- written


def write_diff(repo, old_tree, new_tree, name) -> bytes:
    """The diff between two trees: full ids, 3 lines of context, a/ and b/, a rename as delete and add.

    Raises PatchError for binary files and submodules.
    """
    from pygit2.enums import DeltaStatus

    out = []
    for delta in repo.diff(repo[str(old_tree)], repo[str(new_tree)]).deltas:
        path = delta.new_file.path
        old = None if delta.status == DeltaStatus.ADDED else (int(delta.old_file.mode), str(delta.old_file.id))
        new = None if delta.status == DeltaStatus.DELETED else (int(delta.new_file.mode), str(delta.new_file.id))
        out.append(_write_section(repo, path, old, new, name))
    return b"".join(out)


def _write_section(repo, path, old, new, name) -> bytes:
    if SUBMODULE in (old and old[0], new and new[0]):
        raise PatchError(f"{name} moves the submodule {path}: patches here carry text only.")
    if re.search(r'[\x00-\x1f"\\\x7f]|[^\x00-\x7f]', path):
        raise PatchError(f"{name} changes {path!r}, a name git would quote: rename the file.")
    old_data, new_data = (read_blob(repo, side[1]) if side else b"" for side in (old, new))
    if b"\0" in old_data[:8000] or b"\0" in new_data[:8000]:
        raise PatchError(f"{name} changes the binary file {path}: patches here carry text only.")
    old_id, new_id = (side[1] if side else ZERO for side in (old, new))
    same_mode = old and new and old[0] == new[0]
    lines = [f"diff --git a/{path} b/{path}"]
    if old is None:
        lines.append(f"new file mode {new[0]:o}")
    elif new is None:
        lines.append(f"deleted file mode {old[0]:o}")
    elif not same_mode:
        lines += [f"old mode {old[0]:o}", f"new mode {new[0]:o}"]
    if old_id != new_id:
        lines.append(f"index {old_id}..{new_id}" + (f" {new[0]:o}" if same_mode else ""))
    if old_data != new_data:
        tab = "\t" if " " in path else ""  # as git: marks where a name with spaces ends
        lines.append("--- " + (f"a/{path}{tab}" if old else "/dev/null"))
        lines.append("+++ " + (f"b/{path}{tab}" if new else "/dev/null"))
    return "\n".join([*lines, ""]).encode() + _write_hunks(old_data, new_data)


def _write_hunks(old: bytes, new: bytes) -> bytes:
    from pygit2 import Patch
    from pygit2.enums import DiffOption

    # Blobs without a path: no attribute file can name a driver or call them binary.
    patch = Patch.create_from(old, new, flag=DiffOption.FORCE_TEXT, context_lines=3, interhunk_lines=0)
    source = old.split(b"\n")
    out = []
    for hunk in patch.hunks:
        function = _function_above(source, hunk.old_start - 1 if hunk.old_lines else hunk.old_start)
        out.append(
            f"@@ -{_range(hunk.old_start, hunk.old_lines)} +{_range(hunk.new_start, hunk.new_lines)} @@".encode()
            + (b" " + function if function else b"")
            + b"\n"
        )
        for line in hunk.lines:
            if line.origin in "<>=":
                out.append(b"\n" + _NO_NEWLINE + b"\n")
            else:
                out.append(line.origin.encode() + line.raw_content)
    return b"".join(out)


def _range(start: int, count: int) -> str:
    return f"{start}" if count == 1 else f"{start},{count}"


def _function_above(source: list[bytes], end: int) -> bytes:
    """What git puts behind the @@: the nearest line above the hunk that begins like a definition."""
    for line in reversed(source[:end]):
        if re.match(rb"[A-Za-z_$]", line):
            return line[:80].rstrip().decode(errors="ignore").encode()
    return b""
