"""All proofs of a build, one after another: the stages of ``stages.py``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any

from llm_kvsplit import files

from .. import paths
from ..echo import Echo
from ..errors import PatchError, Unable
from . import stages


@dataclass(frozen=True)
class Check:
    name: str
    seconds: float
    #: One sentence each; none when it passed.
    problems: tuple[str, ...] = ()
    #: Numbers for the report, JSON-able.
    details: dict[str, Any] = field(default_factory=dict)
    skipped: bool = False

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Check:
        return cls(**{**data, "problems": tuple(data["problems"])})


@dataclass(frozen=True)
class Verdict:
    created: str
    target: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def problems(self) -> list[str]:
        return [f"{check.name}: {problem}" for check in self.checks for problem in check.problems]


def verify(
    target: str | None,
    flags: Sequence[str],
    echo: Echo,
    names: Sequence[str] = stages.NAMES,
    done: Sequence[Check] = (),
    keep: Callable[[Sequence[Check]], None] = lambda checks: None,
) -> Verdict:
    """Run every stage, or those of ``names``, on the series at ``target``, store the verdict, return it.

    A stage that cannot run because an earlier one failed is skipped, which is not a pass. Raises nothing for a
    failed stage, it is in the verdict; Unable where this machine cannot tell. ``done``: what an earlier run that was
    cut short had come to, and ``keep`` hears of it after each stage.
    """
    work = stages.Work(target, flags, echo)
    checks: list[Check] = list(done)
    for stage in stages.STAGES:
        if stage.name in names and stage.name not in {check.name for check in done}:
            unproven = {check.name for check in checks if check.problems or check.skipped}
            checks.append(Check(stage.name, 0.0, skipped=True) if unproven & set(stage.after) else run(stage, work))
            keep(checks)
    source = work.source if work.made("source") else None
    where = (
        {"asked": target, "commit": source.commit, "tag": source.tag, "tree": source.tree}
        if source
        else {"asked": target}
    )
    verdict = Verdict(datetime.now(timezone.utc).isoformat(timespec="seconds"), where, tuple(checks))
    store(verdict)
    return verdict


def run(stage: stages.Stage, work: stages.Work) -> Check:
    """Run one stage; what stops it counts as a problem, but for Unable, which is raised."""
    work.echo(f"== {stage.name}")
    began = perf_counter()
    try:
        problems, details = stage.run(work)
    except Unable:
        raise
    except PatchError as failure:
        problems, details = [failure.message], {}
    return Check(stage.name, round(perf_counter() - began, 1), tuple(problems), details)


def file() -> Path:
    return paths.cache_dir() / "last-verify.json"


def store(verdict: Verdict) -> None:
    files.write_whole(file(), json.dumps(asdict(verdict), indent=1) + "\n")


def last() -> Verdict:
    """The verdict of the last verify. Raises PatchError when there was none."""
    try:
        data = json.loads(file().read_text())
        return Verdict(data["created"], data["target"], tuple(map(Check.from_json, data["checks"])))
    except FileNotFoundError:
        raise PatchError("Nothing has been verified here yet: run 'kvsplit-patch verify'.") from None
    except (ValueError, KeyError, TypeError):
        raise PatchError(f"{file()} cannot be read: run 'kvsplit-patch verify' again.") from None
