"""All proofs of a build, one after another: replay, lint, build, abi, optests, smoke."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter
from typing import Any, Callable, Sequence

from . import abi, build, lint, optests, paths, smoke, trees
from .cmake import Echo
from .errors import PatchError


@dataclass(frozen=True)
class Check:
    name: str
    seconds: float
    #: One sentence each; none when it passed.
    problems: tuple[str, ...] = ()
    #: Numbers for the report, JSON-able.
    details: dict[str, Any] = field(default_factory=dict)
    skipped: bool = False


@dataclass(frozen=True)
class Verdict:
    created: str
    target: dict[str, Any]
    checks: tuple[Check, ...]

    @property
    def problems(self) -> list[str]:
        return [f"{check.name}: {problem}" for check in self.checks for problem in check.problems]


def verify(target: str | None, flags: Sequence[str], echo: Echo) -> Verdict:
    """Run every check on the series at ``target``, store the verdict, return it.

    A check that cannot run because an earlier one failed is skipped, which is not a pass. Raises nothing for a
    failed check: it is in the verdict.
    """
    checks: list[Check] = []
    made: dict[str, Any] = {}

    def run(name: str, needs: str, what: Callable[[], tuple[list[str], dict[str, Any]]]) -> None:
        if needs and needs not in made:
            checks.append(Check(name, 0.0, skipped=True))
            return
        echo(f"== {name}")
        began = perf_counter()
        try:
            problems, details = what()
        except PatchError as failure:
            problems, details = [failure.message], {}
        checks.append(Check(name, round(perf_counter() - began, 1), tuple(problems), details))

    def replay() -> tuple[list[str], dict[str, Any]]:
        made["source"] = source = trees.patched(target)
        return [], {"commit": source.commit, "tree": source.tree, "patches": [p["name"] for p in source.patches]}

    def compile_all() -> tuple[list[str], dict[str, Any]]:
        made["backend"] = folder = build.build(made["source"], flags, echo)
        made["tools"] = build.tools(made["source"], flags, echo)
        manifest = json.loads((folder / "manifest.json").read_text())
        proven = json.loads((made["tools"] / "manifest.json").read_text())["libraries"]
        differing = [name for name, digest in manifest["libraries"].items() if proven.get(name) != digest]
        return [f"{name} is not the file that the tools run with: remove the build and make it again." for name in differing], {
            "id": manifest["id"]
        }

    def fits() -> tuple[list[str], dict[str, Any]]:
        found = abi.mismatches(made["source"].folder, made["backend"])
        return [f"{mismatch}." for mismatch in found], {"bindings": build.bindings_version()}

    def operations() -> tuple[list[str], dict[str, Any]]:
        backends = optests.run(made["tools"], echo)
        return optests.problems(backends), {backend.name: backend.passed for backend in backends}

    def quality() -> tuple[list[str], dict[str, Any]]:
        ours, found = smoke.check(made["source"], trees.unpatched(target), flags, echo)
        return found, ours.as_json()

    run("replay", "", replay)
    run("lint", "", lambda: (lint.lint(paths.patchset_dir()), {}))
    run("build", "source", compile_all)
    run("abi", "backend", fits)
    run("optests", "tools", operations)
    run("smoke", "tools", quality)
    source = made.get("source")
    where = {"asked": target, "commit": source.commit, "tag": source.tag, "tree": source.tree} if source else {"asked": target}
    verdict = Verdict(datetime.now(timezone.utc).isoformat(timespec="seconds"), where, tuple(checks))
    store(verdict)
    return verdict


def file() -> Path:
    return paths.cache_dir() / "last-verify.json"


def store(verdict: Verdict) -> None:
    temporary = file().with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(verdict), indent=1) + "\n")
    os.replace(temporary, file())


def last() -> Verdict:
    """The verdict of the last verify. Raises PatchError when there was none."""
    try:
        data = json.loads(file().read_text())
        checks = tuple(Check(**{**check, "problems": tuple(check["problems"])}) for check in data["checks"])
        return Verdict(data["created"], data["target"], checks)
    except FileNotFoundError:
        raise PatchError("Nothing has been verified here yet: run 'kvsplit-patch verify'.") from None
    except (ValueError, KeyError, TypeError):
        raise PatchError(f"{file()} cannot be read: run 'kvsplit-patch verify' again.") from None
