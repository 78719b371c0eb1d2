"""What happens every night: find upstream's newest, prove the series on it, and report once what broke.

What is found out is remembered at once (``record.py``), so a night that was cut short goes on where it was, and one
that is run again does nothing again. The network never makes a night red.
"""

from __future__ import annotations

import hashlib
import platform as machine
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_kvsplit.builds import interface

from .. import paths
from ..echo import Echo
from ..errors import PatchError, Unable
from ..proof import verify
from ..series import patchset
from ..series.patchset import Series
from ..upstream import revisions, sdist, tags
from ..upstream.tags import RemoteTags, Tag
from . import breaks, github, proposal, record, tracking
from .breaks import Break
from .github import GitHub

GREEN, RED, UNTOLD = "green", "red", "untold"
#: UNTOLD: nothing could be said, for want of the network or of a tool: EX_TEMPFAIL of sysexits.h.
EXIT = {GREEN: 0, RED: 1, UNTOLD: 75}


@dataclass(frozen=True)
class Order:
    """What a night is to do. ``stages``: the names of those to run. ``date``: ISO, in UTC. ``hub``: GitHub, if told."""

    loaded: Series
    stages: tuple[str, ...]
    flags: tuple[str, ...]
    hub: GitHub | None
    date: str
    echo: Echo


@dataclass(frozen=True)
class TargetResult:
    """One commit of a night, with the stages that failed or were skipped. ``reason``: why something is not known."""

    name: str
    commit: str
    result: str
    failed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class NightResult:
    """``behind``: how many commits upstream's newest tag is ahead of the series' base."""

    date: str
    platform: str
    base: str
    behind: int | None
    targets: tuple[TargetResult, ...]
    breaks: tuple[Break, ...] = ()

    @property
    def result(self) -> str:
        results = {target.result for target in self.targets}
        return RED if RED in results else GREEN if GREEN in results else UNTOLD


def order(stages: Sequence[str], flags: Sequence[str], hub: GitHub | None, date: str, echo: Echo) -> Order:
    """A night's order for the series of the checkout. Raises PatchError where that cannot be read."""
    return Order(patchset.load(), tuple(stages), tuple(flags), hub, date, echo)


def prove(order: Order) -> NightResult:
    """Prove the series on upstream's newest, and find out why it fails where it does.

    Raises PatchError when the project itself is at fault; never for what a stage finds, or for the network.
    """
    base = order.loaded.lock.upstream.commit
    listing, targets, results = _targets(order)
    broken: list[Break] = []
    for target in targets:
        order.echo(f"=== {target.name} {target.commit}")
        result, its_breaks = _prove_on(order, listing, target)
        results.append(result)
        broken += its_breaks
    # Of two targets that the same thing breaks, one may lack the tags to say since when.
    dated = {(each.patch, each.stage) for each in broken if each.known}
    broken = [each for each in broken if each.known or (each.patch, each.stage) not in dated]
    unique = tuple({each.key: each for each in broken}.values())
    platform = f"{machine.system()}-{machine.machine()}".lower()
    night = NightResult(order.date, platform, base, _behind(listing, base), tuple(results), unique)
    record.keep_night(night.date, night.result, [each.key for each in unique])
    return night


def _prove_on(order: Order, listing: RemoteTags | None, target: Tag) -> tuple[TargetResult, list[Break]]:
    result = TargetResult(target.name, target.commit, UNTOLD)
    try:
        checks = _checks(order, target)
        failed = tuple(check.name for check in checks if check.problems)
        skipped = tuple(check.name for check in checks if check.skipped)
        result = replace(result, result=RED if failed else GREEN, failed=failed, skipped=skipped)
        if not (failed and listing):
            return result, []
        good = _good(order, listing, target)
        return result, breaks.explain(breaks.Case(order.loaded, listing, good, target, order.flags, order.echo), checks)
    except Unable as reason:  # what failed has failed, whether or not its first bad commit could be found
        return replace(result, reason=reason.message), []
    except PatchError as reason:  # a tag that moved
        moved = Break("upstream", "fetch", target.name, target.commit, "", False, reason.message, (), "")
        result = replace(result, result=RED, failed=("fetch",), skipped=order.stages, reason=reason.message)
        return result, [moved]


def publish(order: Order, night: NightResult, with_branch: bool) -> None:
    """Pass a night on: a branch when it is green, and GitHub's issues. Doing it twice changes nothing.

    Raises Refused, NetworkError.
    """
    if night.result == UNTOLD:
        return
    if with_branch and night.result == GREEN:
        _publish_branch(order, night)
    if order.hub:
        # What nobody looked at is not gone.
        certain = not any(target.reason for target in night.targets)
        skipped = {name for target in night.targets for name in target.skipped}
        ran = {"fetch", *order.stages} - skipped if certain else set()
        tracking.track(order.hub, night.breaks, ran, night.platform, night.date)


# What to prove it on.


def _targets(order: Order) -> tuple[RemoteTags | None, list[Tag], list[TargetResult]]:
    """Upstream's tags, the commits to prove the series on, and what could not be looked at."""
    url = order.loaded.lock.upstream.url
    listing = None
    newest: list[Tag] = []
    unknown = []
    try:
        listing = tags.listing(url)
        newest += listing.builds[-1:]
        newest += _release(order, listing)
    except Unable as reason:
        unknown.append(TargetResult("llama.cpp", "", UNTOLD, reason=reason.message))
    try:
        version = sdist.newest_version()
        newest.append(Tag(version, revisions.resolve(url, version)[0]))
    except PatchError as reason:
        unknown.append(TargetResult("llama-cpp-python", "", UNTOLD, reason=reason.message))
    return listing, list({tag.commit: tag for tag in reversed(newest)}.values())[::-1], unknown


def _release(order: Order, listing: RemoteTags) -> tuple[Tag, ...]:
    """The newest SemVer tag; with a token, the newest that upstream's releases do not call a trial."""
    known = {tag.name: tag for tag in listing.versions}
    host, _, path = listing.url.removeprefix("https://").partition("/")
    if known and order.hub and host == "github.com":
        try:
            newest = github.newest_release(order.hub.beside(path.removesuffix(".git")), known.__contains__)
            return (known[newest],) if newest else ()
        except PatchError as reason:
            order.echo(f"{reason.message} The newest tag is taken instead.")
    return listing.versions[-1:]


def _good(order: Order, listing: RemoteTags, target: Tag) -> Tag | None:
    """The newest ``b`` tag before ``target`` on which the same stages were green, else the one the series stands on."""
    bad = listing.at(target.commit)
    green = (*record.green_commits(_key(order)), order.loaded.lock.upstream.commit)
    earlier = listing.builds[: listing.builds.index(bad)] if bad else ()
    return next((tag for tag in reversed(earlier) if tag.commit in green), None)


def _behind(listing: RemoteTags | None, commit: str) -> int | None:
    tag = listing.at(commit) if listing else None
    return (listing.builds[-1].number or 0) - (tag.number or 0) if listing and tag else None


# Proving it.


def _checks(order: Order, target: Tag) -> Sequence[verify.Check]:
    """What every stage finds on a target; taken from an earlier run where that still holds."""
    key = _key(order, target.commit)
    known = record.checks(key, order.date)
    if target.number is not None or target.name.startswith("v"):
        tags.fetch(order.loaded.lock.upstream.url, [target], order.echo)
    checks = verify.verify(
        target.name, order.flags, order.echo, order.stages, known, lambda run: record.keep_checks(key, order.date, run)
    ).checks
    if not any(check.problems for check in checks):
        record.keep_green(_key(order), target.commit)
    return checks


def _key(order: Order, commit: str = "") -> str:
    """Of everything that decides a verdict. The patches, wherever they stand."""
    patches = {path: file for patch in order.loaded.patches for path, file in patch.contents().items()}
    inputs = [commit, patchset.fingerprint(patches), interface.digest(), *order.stages, *order.flags]
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]


# Passing it on.


def _publish_branch(order: Order, night: NightResult) -> None:
    """The series refreshed for the newest green target, as a branch and a pull request."""
    newest = next(target for target in night.targets if target.result == GREEN)
    if newest.commit == night.base:
        return
    # Read again: proving took hours, and a person may have edited it.
    loaded = patchset.load()
    changed = proposal.refreshed(loaded, newest.commit, newest.name if newest.name[0] in "bv" else None)
    title = f"Series on llama.cpp {newest.name}"
    body = f"llama.cpp {newest.commit}: every stage of `kvsplit-patch nightly` passed."
    if order.hub and order.hub.dry_run:
        order.echo(f"would put the series on {newest.name} on the branch {proposal.BRANCH}")
    elif proposal.branch(paths.checkout(), changed, f"{title}\n\n{body}\n"):
        order.echo(f"the series on {newest.name} is on the branch {proposal.BRANCH}")
    if order.hub:
        proposal.propose(order.hub, changed, title, body)


def as_markdown(night: NightResult) -> str:
    """The night's report, with the nights before it."""
    nights = [each for each in record.history() if each[0] <= night.date]
    behind = "" if night.behind is None else f", {night.behind} commits behind upstream's newest tag"
    lines = [f"# Nightly {night.date}, {night.platform}: {night.result}", ""]
    lines += [f"The series stands on `{night.base}`{behind}.", ""]
    lines += ["| target | commit | result | failed |", "|---|---|---|---|"]
    lines += [f"| {t.name} | {t.commit[:12]} | {t.result} | {', '.join(t.failed)} |" for t in night.targets]
    lines += ["", *(f"- {target.name}: {target.reason}" for target in night.targets if target.reason)]
    for broken in night.breaks:
        lines += ["", f"## {broken.patch}: {broken.stage}", "", broken.cause, "", tracking.describe(broken)]
    last = next((date for date, result, _ in nights if result != UNTOLD), "never")
    lines += ["", f"Last night of which something could be told: {last}.", ""]
    lines += ["| night | result | first bad |", "|---|---|---|"]
    lines += [f"| {date} | {result} | {', '.join(keys)} |" for date, result, keys in nights[:14]]
    return "\n".join(lines) + "\n"
