"""The first upstream commit on which a stage fails, between one where it passes and one where it does not.

What was tried is written down after each try, so that a search which was cut short goes on, and the same question
asked twice is answered at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llm_kvsplit import files

from .. import paths
from ..echo import Echo
from ..errors import PatchError
from ..proof import stages, verify
from ..proof.stages import Stage
from ..series import patchset
from ..upstream import store, tags
from ..upstream.tags import RemoteTags, Tag

GOOD, BAD, UNTESTABLE = "good", "bad", "untestable"


@dataclass(frozen=True)
class StageTrial:
    """``state``: UNTESTABLE where an earlier stage fails, so that this one cannot be run."""

    commit: str
    state: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """``candidates``: commits after ``good``, oldest first, of which the last is ``bad``. ``trials`` in their order.

    ``by_tags``: the remote has no history between the two, so the candidates are tags and more may lie between them.
    """

    stage: str
    good: str
    candidates: tuple[str, ...]
    by_tags: bool
    trials: tuple[StageTrial, ...] = ()

    def state(self, commit: str) -> str:
        if commit == self.candidates[-1]:
            return BAD
        return next((trial.state for trial in self.trials if trial.commit == commit), "")

    def borders(self) -> tuple[int, int]:
        """Indices of the last known good candidate (-1: ``good`` itself) and of the first known bad one."""
        states = [self.state(commit) for commit in self.candidates]
        bad = states.index(BAD)
        return max((at for at in range(bad) if states[at] == GOOD), default=-1), bad

    def next(self) -> str | None:
        """The candidate to try: halves what is left, or lies next to the half where that one cannot be tested."""
        good, bad = self.borders()
        untried = [at for at in range(good + 1, bad) if not self.state(self.candidates[at])]
        return self.candidates[min(untried, key=lambda at: abs(2 * at - good - bad))] if untried else None

    def suspects(self) -> tuple[str, ...]:
        """What the first bad commit can be: one, or with it the untestable ones before it."""
        good, bad = self.borders()
        return self.candidates[good + 1 : bad + 1]

    def before_suspects(self) -> str:
        """The newest commit on which the stage is known to pass."""
        good, _ = self.borders()
        return self.candidates[good] if good >= 0 else self.good


def search(listing: RemoteTags, good: Tag, bad: Tag, stage: Stage, flags: Sequence[str], echo: Echo) -> Search:
    """Find the first bad commit, or go on with a search that was cut short; both tags are taken at their word.

    Raises PatchError where the tags are not in order, Unable where this machine cannot tell.
    """
    file = _file(listing.url, good, bad, stage, flags)
    state = _read(file) or _begin(listing, good, bad, stage, echo)
    _write(file, state)
    checked = store.objects_known(store.open_store())
    while commit := state.next():
        good_at, bad_at = state.borders()
        echo(f"{stage.name}: {bad_at - good_at - 1} commits left to tell apart, trying {commit}")
        if state.by_tags:
            tags.fetch(listing.url, [listing.find(commit)], echo)
        else:
            tags.keep(commit, checked)
        trial = try_on(commit, stage, flags, echo)
        echo(f"{commit} is {trial.state}")
        state = replace(state, trials=(*state.trials, trial))
        _write(file, state)
    return state


def _begin(listing: RemoteTags, good: Tag, bad: Tag, stage: Stage, echo: Echo) -> Search:
    between = listing.between(good, bad)[1:]
    if not between:
        raise PatchError(f"{good.name} and {bad.name} are the same tag: name a good one and a later bad one.")
    commits = tags.commits_between(listing.url, good, bad, echo)
    if commits is not None:
        return Search(stage.name, good.commit, tuple(commits), by_tags=False)
    tags.fetch(listing.url, [good, bad], echo)
    return Search(stage.name, good.commit, tuple(tag.commit for tag in between), by_tags=True)


def try_on(commit: str, stage: Stage, flags: Sequence[str], echo: Echo) -> StageTrial:
    """Run a stage, and what it needs before it, on a commit of the store."""
    work = stages.Work(commit, flags, echo)
    for each in (*map(stages.named, _needed(stage)), stage):
        problems = verify.run(each, work).problems
        if problems:
            return StageTrial(commit, BAD if each is stage else UNTESTABLE, problems)
    return StageTrial(commit, GOOD)


def _needed(stage: Stage) -> list[str]:
    """The stages that must pass before this one, in order."""
    wanted = set(stage.after)
    for name in reversed(stages.NAMES):
        wanted |= set(stages.named(name).after) if name in wanted else set()
    return [name for name in stages.NAMES if name in wanted]


def _file(url: str, good: Tag, bad: Tag, stage: Stage, flags: Sequence[str]) -> Path:
    """One file a question: another series or stage is another question."""
    question = [url, good.commit, bad.commit, stage.proves, patchset.digest(paths.patchset_dir()), *flags]
    folder = paths.cache_dir() / "bisect"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\n".join(question).encode()).hexdigest()[:10]
    return folder / f"{stage.name}-{good.name}-{bad.name}-{digest}.json"


def _read(file: Path) -> Search | None:
    try:
        data = json.loads(file.read_text())
        trials = tuple(StageTrial(**{**trial, "problems": tuple(trial["problems"])}) for trial in data["trials"])
        return Search(**{**data, "candidates": tuple(data["candidates"]), "trials": trials})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise PatchError(f"{file} cannot be read: remove it to begin the search anew.") from None


def _write(file: Path, state: Search) -> None:
    files.write_whole(file, json.dumps(asdict(state), indent=1) + "\n")
