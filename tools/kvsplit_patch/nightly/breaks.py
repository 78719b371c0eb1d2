"""Why a stage fails on an upstream commit: which patch it is, since which commit, and what most likely happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..build import artifacts
from ..echo import Echo
from ..errors import PatchError
from ..proof import compat, stages
from ..proof.stages import Stage
from ..proof.verify import Check
from ..series import replay
from ..series.patchset import Series
from ..upstream import store
from ..upstream.tags import Listing, Tag
from . import bisection, culprit


@dataclass(frozen=True)
class Break:
    """One thing to mend.

    ``patch``: of the series; "bindings" for what only they disagree with, "series" for none in particular.
    ``commit``: the first bad one, 40 hex digits; ``known`` is False where it is only the one that was looked at.
    """

    patch: str
    stage: str
    target: str
    commit: str
    subject: str
    known: bool
    cause: str
    problems: tuple[str, ...]
    #: What the commit touches of ours, some lines.
    touches: str

    @property
    def key(self) -> str:
        """What makes two breaks the same one; the commit only where it is the first: the newest changes."""
        return f"{self.patch}@{self.commit[:12] if self.known else self.stage}"


def explain(
    loaded: Series,
    listing: Listing,
    good: Tag | None,
    target: Tag,
    checks: Sequence[Check],
    flags: Sequence[str],
    echo: Echo,
) -> list[Break]:
    """Every failed check of ``target`` as a break. ``good``: a ``b`` tag before it on which they passed, if known.

    Raises Unable where the search for the first bad commit could not be made.
    """
    found = []
    for check in checks:
        if not check.problems:
            continue
        if check.name == "replay":
            for name in _stopping(loaded, target):
                found.append(_break(loaded, listing, good, target, stages.replays(name), check, name, flags, echo))
        elif check.name == "lint":
            found.append(
                _unknown(
                    loaded, target, check, "series", "patchset/ is not what its lock says: run kvsplit-patch lint."
                )
            )
        else:
            found.append(_break(loaded, listing, good, target, stages.named(check.name), check, "", flags, echo))
    return found


def _stopping(loaded: Series, target: Tag) -> list[str]:
    return [name for name, cell in compat.on_commit(loaded, target.commit).items() if cell.state != replay.CLEAN]


def _break(
    loaded: Series,
    listing: Listing,
    good: Tag | None,
    target: Tag,
    stage: Stage,
    check: Check,
    patch: str,
    flags: Sequence[str],
    echo: Echo,
) -> Break:
    bad = listing.at(target.commit) or target
    problems = check.problems
    if patch:  # of several patches that stop, this one
        problems = bisection.try_on(target.commit, stage, flags, echo).problems
    try:
        if good is None:
            raise PatchError("No earlier tag is known on which it passed.")
        search = bisection.search(listing, good, bad, stage, flags, echo)
    except PatchError as reason:
        if type(reason) is not PatchError:
            raise
        what = _cause(check.name, patch, "", problems)
        return _unknown(loaded, target, check, patch or _owner(check.name, ""), f"{what} {reason.message}")
    first = culprit.examine(loaded, search.before_suspects(), search.suspects()[-1])
    owner = patch or _owner(check.name, first.patch)
    return Break(
        owner,
        check.name,
        target.name,
        first.commit,
        first.subject,
        True,
        _cause(check.name, owner, first.subject, problems),
        problems,
        first.summary(),
    )


def _unknown(loaded: Series, target: Tag, check: Check, patch: str, cause: str) -> Break:
    import pygit2

    repo = store.open_store()
    subject = repo[target.commit].peel(pygit2.Commit).message.partition("\n")[0] if target.commit in repo else ""
    return Break(patch, check.name, target.name, target.commit, subject, False, cause, check.problems, "")


def _owner(stage: str, touched: str) -> str:
    return "bindings" if stage == "abi" else touched or "series"


def _cause(stage: str, patch: str, subject: str, problems: Sequence[str]) -> str:
    """The likely cause and what to do, in words; a person decides."""
    said = " ".join(problems)
    if stage == "replay":
        if replay.UPSTREAM in said:
            return f"Upstream has what {patch} does: rebase, and skip it."
        if replay.PARTLY in said:
            return f"Upstream has a part of {patch}: rebase, and look what is left of it."
        return f"Upstream changed the lines that {patch} changes: rebase, and resolve the conflict."
    if stage == "abi":
        return (
            f"llama.h changed in a way that llama-cpp-python {artifacts.bindings_version()} does not know: "
            "wait for bindings that vendor this commit; a build of it is refused until then."
        )
    if stage == "build":
        return "It merges, and does not compile: upstream changed what a patch calls."
    if stage == "smoke":
        if "unpatched build" in said:
            return (
                "It merges and compiles, and the patched build no longer gives the unpatched one's results: "
                "upstream changed the meaning of what a patch builds on."
            )
        return (
            "The unpatched build moved just as much, so upstream changed the results itself: look whether it meant to, "
            "then 'kvsplit-patch smoke --accept'."
        )
    return "It merges and compiles, and computes something else."
