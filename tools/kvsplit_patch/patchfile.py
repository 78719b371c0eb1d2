"""One ``*.patch`` file: DEP-3 fields on top of a full-index git diff, read strictly, written the same everywhere.

The file is a mail that ``git am`` takes; the fields in its body are the ones that count, and its first
four lines are made from them. The diff is written here from libgit2's hunks instead of by a git command,
because a person's configuration (context, prefixes, algorithm, attributes) must not change its bytes.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email import message_from_string
from email.utils import format_datetime

from .errors import PatchError
from .store import entry_at, read_blob, tree_with

ZERO = "0" * 40
FILE, EXECUTABLE, LINK, SUBMODULE = 0o100644, 0o100755, 0o120000, 0o160000
_NO_NEWLINE = b"\\ No newline at end of file"


@dataclass(frozen=True)
class Header:
    """DEP-3 fields. ``watch``: paths, folders (``dir/``) or globs the patch depends on without touching them.

    ``changes_numerics``: the caches (``f16``, ``K8V4``, …, or ``all``) whose results the patch means to change;
    ``smoke`` holds every other one to the unpatched build's bits.
    """

    description: str
    author: str
    forwarded: str
    last_update: str
    origin: str = ""
    bug: str = ""
    applied_upstream: str = ""
    watch: tuple[str, ...] = ()
    changes_numerics: tuple[str, ...] = ()


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


# --- the header ---------------------------------------------------------------------------------

_FIELDS = {
    "Description": "description",
    "Origin": "origin",
    "Bug": "bug",
    "Author": "author",
    "Forwarded": "forwarded",
    "Applied-Upstream": "applied_upstream",
    "Last-Update": "last_update",
    "Watch": "watch",
    "Changes-Numerics": "changes_numerics",
}


def parse_header(text: str, name: str) -> Header:
    """Read the DEP-3 paragraph of a patch, with or without the mail lines above it.

    Raises PatchError when a field is missing, unknown or empty.
    """
    where = re.search(r"^Description:", text, re.MULTILINE)
    if not where:
        raise PatchError(f"{name}.patch has no Description: field: write a DEP-3 header above its diff.")
    message = message_from_string(text[where.start() :])
    found = {}
    for key, value in message.items():
        if key not in _FIELDS:
            raise PatchError(f"{name}.patch has the unknown header field {key}: use {', '.join(_FIELDS)}.")
        lines = [line[1:] if line[:1] in " \t" else line for line in value.splitlines()]
        found[_FIELDS[key]] = "\n".join("" if line == "." else line.rstrip() for line in lines).strip()
    if message.get_payload().strip():
        raise PatchError(f"{name}.patch has loose text after its fields: begin continued lines with one space.")
    for key in ("Description", "Author", "Forwarded", "Last-Update"):
        if not found.get(_FIELDS[key]):
            raise PatchError(f"{name}.patch lacks the header field {key}: add it above the line ---.")
    try:
        datetime.strptime(found["last_update"], "%Y-%m-%d")
    except ValueError:
        raise PatchError(f"{name}.patch: Last-Update is {found['last_update']!r}, not a date like 2026-10-01.") from None
    for key in ("watch", "changes_numerics"):
        found[key] = tuple(sorted(item.strip() for item in found.get(key, "").split(",") if item.strip()))
    return Header(**found)


def format_header(header: Header) -> str:
    date = datetime.strptime(header.last_update, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    subject = header.description.splitlines()[0]
    lines = [
        f"From {ZERO} Mon Sep 17 00:00:00 2001",
        f"From: {header.author}",
        f"Date: {format_datetime(date)}",
        f"Subject: [PATCH] {subject}",
        "",
    ]
    for key, field in _FIELDS.items():
        value = getattr(header, field)
        value = ", ".join(value) if isinstance(value, tuple) else value
        if value:
            first, *rest = value.splitlines()
            lines += [f"{key}: {first}", *(f" {line or '.'}" for line in rest)]
    return "\n".join([*lines, "---", ""])


# --- the diff, read -----------------------------------------------------------------------------


def split(text: bytes, name: str) -> tuple[str, bytes]:
    """Header text and diff of a patch file."""
    begin = re.search(rb"^diff --git ", text, re.MULTILINE)
    if not begin:
        raise PatchError(f"{name}.patch holds no diff: remove it from patchset/series.")
    head = re.sub(rb"(^|\n)---\n.*", rb"\1", text[: begin.start()], flags=re.DOTALL)
    try:
        return head.decode(), text[begin.start() :]
    except UnicodeDecodeError:
        raise PatchError(f"The header of {name}.patch is not UTF-8: rewrite it.") from None


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
            raise PatchError(f"{name}.patch: {line!r} in the diff of {path} is not carried here; use `git diff --no-renames`.")
        at += 1
    if SUBMODULE in mode.values():
        raise PatchError(f"{name}.patch moves the submodule {path}: patches here carry text only.")
    hunks = []
    while at < len(lines) and lines[at].startswith(b"@@ "):
        hunk, at = _parse_hunk(lines, at, name, path, len(hunks) + 1)
        hunks.append(hunk)
    if at < len(lines) and not lines[at].startswith(b"diff --git "):
        raise PatchError(f"{name}.patch: hunk {len(hunks)} of {path} is longer than its @@ line says: run git diff again.")
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
        raise PatchError(f"{name}.patch: hunk {number} of {path} does not hold the lines its @@ line counts: run git diff again.")
    return Hunk(old_start, tuple(found)), at


# --- the diff, applied --------------------------------------------------------------------------


def apply_diff(repo, tree, sections, name) -> str:
    """The tree id after a diff: no fuzz, no offset, and every id the diff names must come out.

    Raises PatchError naming the hunk that does not fit.
    """
    for section in sections:
        tree = tree_with(repo, tree, {section.path: _apply_section(repo, tree, section, name)})
    return str(tree)


def _apply_section(repo, tree, section, name):
    present = entry_at(repo, tree, section.path)
    if (present and present[0]) != section.old_mode:
        state = "is not there" if present is None else "is there already" if section.old_mode is None else "has another mode"
        raise PatchError(f"{name}.patch does not fit its base: {section.path} {state}; restore it, or make it anew with kvsplit-patch apply.")
    if present and section.old_id and not present[1].startswith(section.old_id):
        raise PatchError(f"{name}.patch does not fit its base: {section.path} is another version there; restore it, or make it anew with kvsplit-patch apply.")
    old = read_blob(repo, present[1]) if present else b""
    new = _apply_hunks(old, section, name)
    if section.new_mode is None:
        if new:
            raise PatchError(f"{name}.patch deletes {section.path} but leaves lines of it: run git diff again.")
        return None
    blob = str(repo.create_blob(new))
    if section.new_id and not blob.startswith(section.new_id):
        raise PatchError(f"{name}.patch does not give the {section.path} its index line names: run kvsplit-patch export.")
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


# --- the diff, written --------------------------------------------------------------------------


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

