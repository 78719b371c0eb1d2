"""The fields on top of a patch file, after Debian's DEP-3, and the mail lines above them that ``git am`` reads.

The fields are what counts; the mail lines are made from them.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email import message_from_string
from email.utils import format_datetime
from typing import Any

from ..errors import PatchError


@dataclass(frozen=True)
class Header:
    """DEP-3 fields. ``watch``: paths, folders (``dir/``) or globs the patch depends on without touching them.

    ``watch_for``: texts, or ``TEXT without TEXT``, which a line that upstream adds to those files may hold when it does
    anew what the patch has changed elsewhere.
    ``changes_numerics``: the caches (``f16``, ``K8V4``, …, or ``all``) whose results the patch means to change;
    ``smoke`` holds every other one to the unpatched build's bits.
    ``needs``: files of upstream's without which there is nothing to patch; a commit that lacks one is out of range.
    ``stands_on``: patches before it without which it does not compile, although it may apply.
    """

    description: str
    author: str
    forwarded: str
    last_update: str
    origin: str = ""
    bug: str = ""
    applied_upstream: str = ""
    watch: tuple[str, ...] = ()
    watch_for: tuple[str, ...] = ()
    changes_numerics: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    stands_on: tuple[str, ...] = ()


_FIELDS = {
    "Description": "description",
    "Origin": "origin",
    "Bug": "bug",
    "Author": "author",
    "Forwarded": "forwarded",
    "Applied-Upstream": "applied_upstream",
    "Last-Update": "last_update",
    "Watch": "watch",
    "Watch-For": "watch_for",
    "Changes-Numerics": "changes_numerics",
    "Needs": "needs",
    "Stands-On": "stands_on",
}


def parse_header(text: str, name: str) -> Header:
    """Read the DEP-3 paragraph of a patch, with or without the mail lines above it.

    Raises PatchError when a field is missing, unknown or empty.
    """
    where = re.search(r"^Description:", text, re.MULTILINE)
    if not where:
        raise PatchError(f"{name}.patch has no Description: field: write a DEP-3 header above its diff.")
    message = message_from_string(text[where.start() :])
    fields: dict[str, Any] = {}
    for key, value in message.items():
        if key not in _FIELDS:
            raise PatchError(f"{name}.patch has the unknown header field {key}: use {', '.join(_FIELDS)}.")
        lines = [line[1:] if line[:1] in " \t" else line for line in value.splitlines()]
        fields[_FIELDS[key]] = "\n".join("" if line == "." else line.rstrip() for line in lines).strip()
    if str(message.get_payload()).strip():
        raise PatchError(f"{name}.patch has loose text after its fields: begin continued lines with one space.")
    for key in ("Description", "Author", "Forwarded", "Last-Update"):
        if not fields.get(_FIELDS[key]):
            raise PatchError(f"{name}.patch lacks the header field {key}: add it above the line ---.")
    try:
        datetime.strptime(fields["last_update"], "%Y-%m-%d")
    except ValueError:
        raise PatchError(
            f"{name}.patch: Last-Update is {fields['last_update']!r}, not a date like 2026-10-01."
        ) from None
    for key in ("watch", "watch_for", "changes_numerics", "needs", "stands_on"):
        fields[key] = tuple(sorted(item.strip() for item in fields.get(key, "").split(",") if item.strip()))
    return Header(**fields)


def format_header(header: Header) -> str:
    date = datetime.strptime(header.last_update, "%Y-%m-%d").replace(tzinfo=timezone.utc)
    subject = header.description.splitlines()[0]
    lines = [
        f"From {'0' * 40} Mon Sep 17 00:00:00 2001",
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


def split(text: bytes, name: str) -> tuple[str, bytes]:
    """Header text and diff of a patch file; the diff is empty where the patch only adds files."""
    begin = re.search(rb"^diff --git ", text, re.MULTILINE)
    head, diff = (text[: begin.start()], text[begin.start() :]) if begin else (text, b"")
    if b"\r\n" in head or re.search(rb"^(diff --git|@@) .*\r$", diff, re.MULTILINE):
        raise PatchError(
            f"{name}.patch has CRLF line ends: restore it with 'git checkout', or save it with LF line ends "
            "(only lines of sources that have CRLF themselves keep theirs)."
        )
    head, _, rest = head.partition(b"\n---\n")
    if not diff and rest.strip():
        raise PatchError(
            f"{name}.patch has text under its header that is no git diff: write it with 'git diff --no-renames'."
        )
    try:
        return head.decode() + "\n", diff
    except UnicodeDecodeError:
        raise PatchError(f"The header of {name}.patch is not UTF-8: rewrite it.") from None
