"""One issue for each break: opened once, updated each night, escalated when it lasts, closed when it is gone.

What an issue is about stands in a comment of its text that does not show, so nothing is lost with a cache, and several
machines can share an issue.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from .breaks import Break
from .github import GitHub

LABEL, ESCALATED = "nightly", "nightly-escalated"
#: Red nights after which someone should be told again.
PATIENCE = 3
_MARKER = re.compile(r"<!-- kvsplit-nightly (\{.*?\}) -->")
_ESCALATION = "<!-- kvsplit-nightly escalated -->"


def track(github: GitHub, breaks: Sequence[Break], ran: Collection[str], platform: str, night: str) -> None:
    """Make the repository's issues say what ``breaks`` say; doing it twice changes nothing.

    ``ran``: the stages that ran on every target, so that what they no longer find is gone. ``platform``, ``night``:
    where and on which day (ISO) this was. Raises PatchError, NetworkError.
    """
    issues = _known(github)
    for broken in {broken.key: broken for broken in breaks}.values():
        issue = issues.get(broken.key)
        note: dict[str, Any] = _note(issue) if issue else {"key": broken.key, "nights": {}}
        nights = note["nights"].get(platform, [])
        if issue and issue["state"] == "open" and night in nights:
            _escalate(github, issue, note)
            continue
        note = {**note, "stage": broken.stage, "nights": {**note["nights"], platform: sorted({*nights, night})}}
        content = {"title": _title(broken), "body": _body(broken, note), "labels": _labels(note)}
        if issue is None:
            issue = github.write("POST", "issues", **content)
        else:
            github.write("PATCH", f"issues/{issue['number']}", state="open", **content)
        _escalate(github, issue, note)
    gone = {
        key: issue for key, issue in issues.items() if issue["state"] == "open" and key not in {b.key for b in breaks}
    }
    for issue in gone.values():
        note = _note(issue)
        if platform in note["nights"] and note.get("stage") in ran:
            _close(github, issue, note, platform, night)


def _known(github: GitHub) -> dict[str, dict[str, Any]]:
    """Key -> issue; of several, the oldest."""
    known: dict[str, dict[str, Any]] = {}
    for issue in github.pages("issues", labels=LABEL, state="all"):
        if "pull_request" not in issue and _note(issue):
            key = _note(issue)["key"]
            if key not in known or issue["number"] < known[key]["number"]:
                known[key] = issue
    return known


def _note(issue: dict[str, Any]) -> dict[str, Any]:
    marker = _MARKER.search(issue.get("body") or "")
    return json.loads(marker[1]) if marker else {}


def _red_nights(note: dict[str, Any]) -> list[str]:
    return sorted({night for nights in note["nights"].values() for night in nights})


def _labels(note: dict[str, Any]) -> list[str]:
    return [LABEL, ESCALATED] if len(_red_nights(note)) >= PATIENCE else [LABEL]


def _title(broken: Break) -> str:
    since = f"since {broken.commit[:9]}" if broken.known else f"at {broken.commit[:9]}"
    return f"{broken.patch}: {broken.stage} fails {since} ({broken.subject})"[:250]


def _body(broken: Break, note: dict[str, Any]) -> str:
    nights = _red_nights(note)
    where = "; ".join(f"{platform}: {', '.join(dates)}" for platform, dates in sorted(note["nights"].items()))
    # What upstream wrote must not pass for our note.
    words = f"{broken.cause}\n\n{describe(broken)}".replace("<!--", "<! --")
    return (
        f"{words}\n\n"
        f"Red for {len(nights)} night{'s' if len(nights) > 1 else ''} ({where}). What to do: docs/maintain/nightly.md.\n\n"
        f"<!-- kvsplit-nightly {json.dumps(note, sort_keys=True)} -->\n"
    )


def describe(broken: Break) -> str:
    """A break's facts as Markdown."""
    # As code: a subject may name people and numbers, which GitHub would make links and mail of.
    subject = broken.subject.replace("`", "'")
    commit = f"`{broken.commit} {subject}`"
    lines = [
        f"- stage: {broken.stage}, on {broken.target}",
        f"- first bad commit: {commit}" if broken.known else f"- first bad commit: not known, at the latest {commit}",
        *(f"- {problem}" for problem in broken.problems[:10]),
    ]
    more = len(broken.problems) - 10
    lines += [f"- and {more} more"] if more > 0 else []
    return "\n".join(lines) + (f"\n\n```\n{broken.touches}\n```" if broken.touches else "")


def _escalate(github: GitHub, issue: dict[str, Any], note: dict[str, Any]) -> None:
    """After some red nights, one comment: that is what sends mail to who follows the repository."""
    nights = _red_nights(note)
    if len(nights) < PATIENCE or not issue:
        return
    number = issue["number"]
    if not any(_ESCALATION in (comment["body"] or "") for comment in github.pages(f"issues/{number}/comments")):
        words = f"Red for {len(nights)} nights, since {nights[0]}: someone has to look at this."
        github.write("POST", f"issues/{number}/comments", body=f"{words}\n\n{_ESCALATION}")


def _close(github: GitHub, issue: dict[str, Any], note: dict[str, Any], platform: str, night: str) -> None:
    left = {name: nights for name, nights in note["nights"].items() if name != platform}
    body = _MARKER.sub(
        lambda _: f"<!-- kvsplit-nightly {json.dumps({**note, 'nights': left}, sort_keys=True)} -->", issue["body"]
    )
    body = f"Gone on {platform} since {night}.\n\n{body}"
    # Another machine may still see it.
    github.write("PATCH", f"issues/{issue['number']}", body=body, **({} if left else {"state": "closed"}))
