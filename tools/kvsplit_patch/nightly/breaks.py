"""Why a stage fails on an upstream commit: which patch it is, since which commit, and what most likely happened."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..echo import Echo
from ..errors import PatchError
from ..proof import compat, stages
from ..proof.stages import Stage
from ..proof.verify import Check
from ..series import applying, replay
from ..series.patchset import Series
from ..upstream import store
from ..upstream.tags import RemoteTags, Tag
from . import bisection, culprit


@dataclass(frozen=True)
class Break:
    """One thing to mend.

    ``patch``: of the series; "plugin" for what it uses of llama.h, "series" for none in particular.
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


@dataclass(frozen=True)
class Case:
    """A target on which stages failed. ``good``: a ``b`` tag before it on which they passed, if one is known."""

    loaded: Series
    listing: RemoteTags
    good: Tag | None
    target: Tag
    flags: Sequence[str]
    echo: Echo


def explain(case: Case, checks: Sequence[Check]) -> list[Break]:
    """Every failed check as a break. Raises Unable where the search for the first bad commit could not be made."""
    breaks = []
    for check in checks:
        if not check.problems:
            continue
        if check.name == "replay":
            cells = compat.on_commit(case.loaded, case.target.commit)
            stopping = [name for name, cell in cells.items() if cell.state not in replay.DONE]
            for name, standing in _roots(case.loaded, stopping).items():
                breaks.append(_with(_break(case, check, stages.replays(name), name), standing))
        elif check.name == "lint":
            cause = "patchset/ is not what its lock says: run 'kvsplit-patch lint'."
            breaks.append(_undated(case, check, "series", cause))
        else:
            breaks.append(_break(case, check, stages.named(check.name)))
    return breaks


def _roots(loaded: Series, stopping: Sequence[str]) -> dict[str, list[str]]:
    """The patches that stop by themselves, each with those that only stand on it.

    A patch stands on another when it cannot be applied without it, where upstream is what the series was made on.
    """
    steps = applying.at_base(loaded)
    roots: dict[str, list[str]] = {}

    def stops(name: str, without: Collection[str]) -> bool:
        return name in applying.stopping(loaded, [step for step in steps if step.name not in without])

    for name in stopping:
        if not stops(name, roots):
            roots[name] = []
            continue
        # Of several that it may stand on, the first that is enough; all of them together where none is.
        under = next((root for root in roots if stops(name, [root])), next(iter(roots)))
        roots[under].append(name)
    return roots


def _with(one: Break, standing: Sequence[str]) -> Break:
    """The break with the patches that stop because its own does."""
    if not standing:
        return one
    names = " and ".join((", ".join(standing[:-1]), standing[-1])) if len(standing) > 1 else standing[0]
    stand, stop = ("stand", "stop") if len(standing) > 1 else ("stands", "stops")
    return replace(one, cause=f"{one.cause} {names} {stand} on it, and {stop} with it.")


def _break(case: Case, check: Check, stage: Stage, patch: str = "") -> Break:
    problems = check.problems
    if patch:  # of several patches that stop, this one
        problems = bisection.try_on(case.target.commit, stage, case.flags, case.echo).problems
    try:
        if case.good is None:
            raise PatchError("No earlier tag is known on which it passed.")
        bad = case.listing.at(case.target.commit) or case.target
        search = bisection.search(case.listing, case.good, bad, stage, case.flags, case.echo)
    except PatchError as reason:
        if type(reason) is not PatchError:
            raise
        cause = f"{_cause(check.name, patch, problems)} {reason.message}"
        return _undated(case, check, patch or _owner(check.name, ""), cause)
    first = culprit.examine(case.loaded, search.before_suspects(), search.suspects()[-1])
    owner = patch or _owner(check.name, first.patch)
    cause = _cause(check.name, owner, problems)
    return Break(
        owner, check.name, case.target.name, first.commit, first.subject, True, cause, problems, first.summary()
    )


def _undated(case: Case, check: Check, patch: str, cause: str) -> Break:
    """A break of which nobody knows since when."""
    target = case.target
    subject = store.subject(store.open_store(), target.commit)
    return Break(patch, check.name, target.name, target.commit, subject, False, cause, check.problems, "")


def _owner(stage: str, touched: str) -> str:
    return "plugin" if stage == "abi" else touched or "series"


def _cause(stage: str, patch: str, problems: Sequence[str]) -> str:
    """The likely cause and what to do, in words; a person decides."""
    printed = " ".join(problems)
    if stage == "replay":
        if replay.UPSTREAM in printed:
            return f"Upstream has what {patch} does: rebase, and skip it."
        if replay.PARTLY in printed:
            return f"Upstream has a part of {patch}: rebase, and look what is left of it."
        return f"Upstream changed the lines that {patch} changes: rebase, and resolve the conflict."
    if stage == "abi":
        return (
            "llama.h changed in what the plugin itself uses: change llm_kvsplit/builds/interface.py and the code that "
            "goes by it; a build of this commit is refused until then."
        )
    if stage == "build":
        return "It merges, and does not compile: upstream changed what a patch calls."
    if stage == "smoke":
        if "unpatched build" in printed:
            return (
                "It merges and compiles, and the patched build no longer gives the unpatched one's results: "
                "upstream changed the meaning of what a patch builds on."
            )
        return (
            "The unpatched build moved just as much, so upstream changed the results itself: look whether it meant to, "
            "then 'kvsplit-patch smoke --accept'."
        )
    return "It merges and compiles, and computes something else."
