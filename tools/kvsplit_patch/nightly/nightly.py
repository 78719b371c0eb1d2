"""What happens every night: find upstream's newest, prove the series on it, and say once what broke.

Everything that was found out is written down as soon as it is known (``state.json``), so a night that was cut short
goes on where it was, and one that is run again does nothing again. The network never makes a night red.
"""

from __future__ import annotations

import hashlib
import json
import platform as machine
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_kvsplit import files

from .. import paths
from ..build import artifacts
from ..echo import Echo
from ..errors import PatchError, Unable
from ..proof import verify
from ..series import patchset
from ..series.patchset import Series
from ..upstream import revisions, sdist, tags
from ..upstream.tags import Listing, Tag
from . import breaks, github, proposal, tracking
from .breaks import Break
from .github import GitHub

GREEN, RED, UNTOLD = "green", "red", "untold"
#: Nothing could be said, for want of the network or of a tool: EX_TEMPFAIL of sysexits.h.
EXIT = {GREEN: 0, RED: 1, UNTOLD: 75}
_MOST_NIGHTS = 60


@dataclass(frozen=True)
class Seen:
    """One target of a night, with the stages that failed or were skipped. ``reason``: why something is not known."""

    name: str
    commit: str
    result: str
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Night:
    """``date``: ISO, in UTC. ``behind``: how many commits upstream's newest tag is ahead of the series' base."""

    date: str
    platform: str
    base: str
    behind: int | None
    seen: tuple[Seen, ...]
    breaks: tuple[Break, ...] = ()

    @property
    def result(self) -> str:
        results = {seen.result for seen in self.seen}
        return RED if RED in results else GREEN if GREEN in results else UNTOLD


@contextmanager
def locked() -> Iterator[None]:
    """One night's work at a time. Raises PatchError while another process has it."""
    from filelock import FileLock, Timeout

    folder().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder() / "lock", timeout=0):
            yield
    except Timeout:
        raise PatchError(f"Another nightly is at work in {folder()}: wait until it ends.") from None


def look(names: Sequence[str], flags: Sequence[str], hub: GitHub | None, date: str, echo: Echo) -> Night:
    """Prove the series on upstream's newest with the stages of ``names``, and find out why it fails where it does.

    Raises PatchError when the project itself is at fault; never for what a stage finds, or for the network.
    """
    loaded = patchset.load(paths.patchset_dir())
    base = loaded.lock.upstream.commit
    listing, targets, seen = _targets(loaded, hub, echo)
    found: list[Break] = []
    for target in targets:
        echo(f"=== {target.name} {target.commit}")
        each, why = _one(loaded, listing, target, names, flags, date, echo)
        seen.append(each)
        found += why
    # Of two targets that the same thing breaks, one may lack the tags to say since when.
    dated = {(broken.patch, broken.stage) for broken in found if broken.known}
    found = [broken for broken in found if broken.known or (broken.patch, broken.stage) not in dated]
    unique = tuple({broken.key: broken for broken in found}.values())
    platform = f"{machine.system()}-{machine.machine()}".lower()
    night = Night(date, platform, base, _behind(listing, base), tuple(seen), unique)
    _keep_night(night)
    return night


def _one(
    loaded: Series,
    listing: Listing | None,
    target: Tag,
    names: Sequence[str],
    flags: Sequence[str],
    date: str,
    echo: Echo,
) -> tuple[Seen, list[Break]]:
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    try:
        checks = _verdict(loaded, target, names, flags, date, echo)
        failed = tuple(check.name for check in checks if check.problems)
        skipped = tuple(check.name for check in checks if check.skipped)
        why = []
        if failed and listing:
            why = breaks.explain(
                loaded, listing, _good(loaded, listing, target, names, flags), target, checks, flags, echo
            )
        return Seen(target.name, target.commit, RED if failed else GREEN, failed, skipped), why
    except Unable as reason:  # what failed has failed, whether or not its first bad commit could be found
        return Seen(target.name, target.commit, RED if failed else UNTOLD, failed, skipped, reason.message), []
    except PatchError as reason:  # a tag that moved
        why = [Break("upstream", "fetch", target.name, target.commit, "", False, reason.message, (), "")]
        return Seen(target.name, target.commit, RED, ("fetch",), tuple(names), reason.message), why


def tell(night: Night, names: Sequence[str], hub: GitHub | None, with_branch: bool, echo: Echo) -> None:
    """Pass a night on: a branch when it is green, and GitHub's issues. Doing it twice changes nothing.

    Raises Refused, NetworkError.
    """
    if night.result == UNTOLD:
        return
    if with_branch and night.result == GREEN:
        _branch(night, hub, echo)
    if hub:
        # What nobody looked at is not gone.
        certain = not any(seen.reason for seen in night.seen)
        ran = {"fetch", *names} - {name for seen in night.seen for name in seen.skipped} if certain else set()
        tracking.track(hub, night.breaks, ran, night.platform, night.date)


# What to look at.


def _targets(loaded: Series, hub: GitHub | None, echo: Echo) -> tuple[Listing | None, list[Tag], list[Seen]]:
    """Upstream's tags, the commits to prove the series on, and what could not be looked at."""
    url, found, unseen = loaded.lock.upstream.url, [], []
    listing = None
    try:
        listing = tags.listing(url)
        found += listing.builds[-1:]
        found += _release(listing, hub, echo)
    except Unable as reason:
        unseen.append(Seen("llama.cpp", "", UNTOLD, reason=reason.message))
    try:
        version = sdist.newest_version()
        commit, _ = revisions.resolve(url, version)
        found.append(Tag(version, commit))
    except PatchError as reason:
        unseen.append(Seen("llama-cpp-python", "", UNTOLD, reason=reason.message))
    return listing, list({tag.commit: tag for tag in reversed(found)}.values())[::-1], unseen


def _release(listing: Listing, hub: GitHub | None, echo: Echo) -> tuple[Tag, ...]:
    """The newest SemVer tag; with a token, the newest that upstream's releases do not call a trial."""
    known = {tag.name: tag for tag in listing.versions}
    name = _github_name(listing.url)
    if known and hub and name:
        try:
            newest = github.newest_release(hub.beside(name), known.__contains__)
            return (known[newest],) if newest else ()
        except PatchError as reason:
            echo(f"{reason.message} The newest tag is taken instead.")
    return listing.versions[-1:]


def _github_name(url: str) -> str:
    host, _, path = url.removeprefix("https://").partition("/")
    return path.removesuffix(".git") if host == "github.com" else ""


def _good(loaded: Series, listing: Listing, target: Tag, names: Sequence[str], flags: Sequence[str]) -> Tag | None:
    """The newest ``b`` tag before ``target`` on which the same stages were green, else the one the series stands on."""
    bad = listing.at(target.commit)
    commits = _read()["green"].get(_key(loaded, "", names, flags), [])
    known = [tag for tag in listing.builds if tag.commit in (*commits, loaded.lock.upstream.commit)]
    return next((tag for tag in reversed(known) if bad and tag.number < bad.number), None)


def _behind(listing: Listing | None, commit: str) -> int | None:
    tag = listing.at(commit) if listing else None
    return listing.builds[-1].number - tag.number if tag else None


# Proving it.


def _verdict(
    loaded: Series, target: Tag, names: Sequence[str], flags: Sequence[str], date: str, echo: Echo
) -> list[verify.Check]:
    """What every stage says, from an earlier run where that still holds: a green one always, a red one for the day."""
    if re.match(r"\d", target.name) and target.name != artifacts.bindings_version():
        echo(f"abi is left out: llama-cpp-python {artifacts.bindings_version()} is installed, not {target.name}")
        names = [name for name in names if name != "abi"]
    key = _key(loaded, target.commit, names, flags)
    known = _read()["verdicts"].get(key, {"checks": [], "date": date})
    done = [verify.Check(**{**check, "problems": tuple(check["problems"])}) for check in known["checks"]]
    if known["date"] != date and any(check.problems for check in done):
        done = []

    def keep(checks: Sequence[verify.Check]) -> None:
        def change(state: dict[str, Any]) -> None:
            state["verdicts"][key] = {"date": date, "checks": [asdict(check) for check in checks]}

        _change(change)

    if target.number is not None or target.name.startswith("v"):
        tags.fetch(loaded.lock.upstream.url, [target], echo)
    checks = list(verify.verify(target.name, flags, echo, names, done, keep).checks)
    if not any(check.problems for check in checks):
        _change(lambda state: _note_green(state, _key(loaded, "", names, flags), target.commit))
    return checks


def _note_green(state: dict[str, Any], key: str, commit: str) -> None:
    commits = state["green"].setdefault(key, [])
    if commit not in commits:
        commits.append(commit)


def _key(loaded: Series, commit: str, names: Sequence[str], flags: Sequence[str]) -> str:
    """Of everything that decides a verdict. The patches, wherever they stand."""
    patches = patchset.fingerprint({path: file for patch in loaded.patches for path, file in patch.contents().items()})
    what = [commit, patches, artifacts.bindings_version(), *names, *flags]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


# Passing it on.


def _branch(night: Night, hub: GitHub | None, echo: Echo) -> None:
    """The series refreshed for the newest green target, as a branch and a pull request."""
    newest = next(seen for seen in night.seen if seen.result == GREEN)
    if newest.commit == night.base:
        return
    loaded = patchset.load(paths.patchset_dir())
    changed = proposal.refreshed(loaded, newest.commit, newest.name if newest.name[0] in "bv" else None)
    title = f"Series on llama.cpp {newest.name}"
    body = f"llama.cpp {newest.commit}: every stage of `kvsplit-patch nightly` passed."
    if hub and hub.dry_run:
        echo(f"would put the series on {newest.name} on the branch {proposal.BRANCH}")
    elif proposal.branch(paths.checkout(), changed, f"{title}\n\n{body}\n"):
        echo(f"the series on {newest.name} is on the branch {proposal.BRANCH}")
    if hub:
        proposal.propose(hub, changed, title, body)


# Remembering.


def folder() -> Path:
    return paths.cache_dir() / "nightly"


def _read() -> dict[str, Any]:
    """``verdicts`` and commits that were ``green``, both by ``_key``, and the ``nights`` by date."""
    try:
        return json.loads((folder() / "state.json").read_text())
    except FileNotFoundError:
        return {"verdicts": {}, "green": {}, "nights": {}}
    except ValueError:
        raise PatchError(
            f"{folder() / 'state.json'} cannot be read: remove it, and everything is proven anew."
        ) from None


def _change(how: Callable[[dict[str, Any]], Any]) -> None:
    state = _read()
    how(state)
    files.write_whole(folder() / "state.json", json.dumps(state, indent=1) + "\n")


def _keep_night(night: Night) -> None:
    def change(state: dict[str, Any]) -> None:
        state["nights"][night.date] = asdict(night)
        for old in sorted(state["nights"])[:-_MOST_NIGHTS]:
            del state["nights"][old]

    _change(change)


def history() -> list[Night]:
    """The nights that are remembered, newest first."""
    found = []
    for data in _read()["nights"].values():
        seen = tuple(
            Seen(**{**each, "failed": tuple(each["failed"]), "skipped": tuple(each["skipped"])})
            for each in data["seen"]
        )
        broken = tuple(Break(**{**each, "problems": tuple(each["problems"])}) for each in data["breaks"])
        found.append(Night(**{**data, "seen": seen, "breaks": broken}))
    return sorted(found, key=lambda night: night.date, reverse=True)


def as_markdown(night: Night) -> str:
    """The night's report, with the nights before it."""
    earlier = [each for each in history() if each.date < night.date]
    behind = "" if night.behind is None else f", {night.behind} commits behind upstream's newest tag"
    lines = [
        f"# Nightly {night.date}, {night.platform}: {night.result}",
        "",
        f"The series stands on `{night.base}`{behind}.",
        "",
    ]
    lines += ["| target | commit | result | failed |", "|---|---|---|---|"]
    lines += [f"| {s.name} | {s.commit[:12]} | {s.result} | {', '.join(s.failed)} |" for s in night.seen]
    lines += ["", *(f"- {seen.name}: {seen.reason}" for seen in night.seen if seen.reason)]
    for broken in night.breaks:
        lines += ["", f"## {broken.patch}: {broken.stage}", "", broken.cause, "", tracking.describe(broken)]
    told = next((each.date for each in (night, *earlier) if each.result != UNTOLD), "never")
    lines += [
        "",
        f"Last night of which something could be told: {told}.",
        "",
        "| night | result | first bad |",
        "|---|---|---|",
    ]
    for each in (night, *earlier)[:14]:
        lines.append(f"| {each.date} | {each.result} | {', '.join(broken.key for broken in each.breaks)} |")
    return "\n".join(lines) + "\n"
