"""The proofs of a build by name: ``verify`` runs them in order, ``bisect`` and ``nightly`` test commits by them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_kvsplit.builds import interface

from .. import paths
from ..building import artifacts, headers
from ..echo import Echo
from ..series import lint, patchset, replay, trees
from . import compat, optests, smoke

#: Problems, one sentence each, and numbers for the report, JSON-able.
Findings = tuple[list[str], dict[str, Any]]


@dataclass
class Work:
    """The series on one commit, and what the stages make of it, each when it is first asked for."""

    #: A tag, a commit, or a bindings version; None for the base.
    target: str | None
    flags: Sequence[str]
    echo: Echo

    @cached_property
    def source(self) -> trees.SourceTree:
        return trees.patched(self.target)

    @cached_property
    def plain(self) -> trees.SourceTree:
        return trees.unpatched(self.target)

    @cached_property
    def backend(self) -> Path:
        return artifacts.build(self.source, self.flags, self.echo)

    @cached_property
    def tools(self) -> Path:
        return artifacts.tools(self.source, self.flags, self.echo)

    def made(self, name: str) -> bool:
        return name in vars(self)


@dataclass(frozen=True)
class Stage:
    name: str
    #: What it proves, to stand in a report.
    proves: str
    #: Raises PatchError when it cannot tell.
    run: Callable[[Work], Findings]
    #: Every stage that must have passed before it, in order.
    after: tuple[str, ...] = ("replay",)


def _replay(work: Work) -> Findings:
    source = work.source
    return [], {"commit": source.commit, "tree": source.tree, "patches": [patch["name"] for patch in source.patches]}


def _lint(work: Work) -> Findings:
    return lint.lint(paths.patchset_dir()), {}


def _build(work: Work) -> Findings:
    manifest = json.loads((work.backend / "manifest.json").read_text())
    proven = json.loads((work.tools / "manifest.json").read_text())["libraries"]
    differing = [name for name, digest in manifest["libraries"].items() if proven.get(name) != digest]
    return [
        f"{name} is not the file that the tools run with: remove the build and make it again." for name in differing
    ], {"id": manifest["id"]}


def _abi(work: Work) -> Findings:
    defined = headers.of_tree(work.source.folder)
    # An inserted field is no fault, since a build carries its own definitions. A maintainer wants to know of it.
    moved = interface.changes(headers.of_tree(trees.unpatched().folder), defined) if work.target else []
    for change in moved:
        work.echo(f"since the base, {change}")
    return [f"{clause}." for clause in interface.faults(defined)], {"changes": moved}


def _optests(work: Work) -> Findings:
    backends = optests.run(work.tools, work.echo)
    return optests.problems(backends), {backend.name: backend.passed for backend in backends}


def _softmetal(work: Work) -> Findings:
    from softmetal import stage

    return stage.check(work.source, work.echo)


def _smoke(work: Work) -> Findings:
    ours, problems = smoke.check(work.source, work.plain, trees.exact(work.target), work.flags, work.echo)
    return problems, ours.as_json()


#: In the order of ``verify``.
STAGES = (
    Stage("replay", "every patch applies cleanly", _replay, after=()),
    Stage("lint", "the series is what its lock says", _lint, after=()),
    Stage("abi", "the plugin's functions, structures and constants are there", _abi),
    Stage("build", "it compiles", _build, after=("replay", "abi")),
    Stage("optests", "attention agrees with the CPU on every backend", _optests, after=("replay", "abi", "build")),
    Stage(
        "softmetal", "attention agrees with the CPU on Metal, emulated", _softmetal, after=("replay", "abi", "build")
    ),
    Stage("smoke", "the model's output is what it was", _smoke, after=("replay", "abi", "build")),
)
NAMES = tuple(stage.name for stage in STAGES)


def named(name: str) -> Stage:
    return STAGES[NAMES.index(name)]


def speed(floor: float) -> Stage:
    """The stage that wants K8V4 to run at ``floor`` times f16's speed. Never part of ``verify``: speed is noisy."""

    def run(work: Work) -> Findings:
        ratios = smoke.measured(work.source, work.flags, *smoke.demo(), work.echo).speed["K8V4"]
        slow = [phase for phase, ratio in ratios.items() if ratio < floor]
        return [
            f"{phase}: K8V4 runs at {ratios[phase]:.2f} times f16's speed, less than {floor:g}." for phase in slow
        ], ratios

    return Stage("speed", f"K8V4 runs at {floor:g} times f16's speed", run, after=("replay", "build"))


def replays(patch: str) -> Stage:
    """The stage that wants one patch to replay cleanly, whatever becomes of those above it. In memory."""

    def run(work: Work) -> Findings:
        loaded = patchset.load()
        cell = compat.on_commit(loaded, work.plain.commit)[patch]
        problems = [] if cell.state in replay.DONE else [f"{patch}: {'; '.join([cell.state, *cell.notes])}."]
        return problems, {"state": cell.state}

    return Stage(f"replay-{patch}", f"{patch} applies cleanly", run, after=())
