"""Upstream's test-backend-ops: operations of one backend against the CPU's plain ones, case by case."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PatchError
from ...failures import ending
from . import failure, run

OPERATION = "FLASH_ATTN_EXT"
#: What writes rows into a cache, and reads them again: K is read, rotated and written again where a cache is shifted.
ROWS = "SET_ROWS,GET_ROWS,CPY"

# What a case differs by is printed in front of it on the same line: "[FLASH_ATTN_EXT] ERR = … FLASH_ATTN_EXT(…): FAIL".
_VERDICT = re.compile(r"\b[A-Z][A-Z_]+\((.*?)\): +(.*?) *$", re.MULTILINE)
# At the end, each once more: a case that could not be allocated has no verdict before.
_FAILING = re.compile(r"^  [A-Z][A-Z_]+\((.*)\)$", re.MULTILINE)
_BACKEND = re.compile(r"^Backend \d+/\d+: (\S+)$", re.MULTILINE)
_SUMMARY = re.compile(r"^ +(\d+)/(\d+) tests passed$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True)
class CaseResults:
    passed: int
    #: The parameters of the cases that differ from the CPU's result.
    failed: tuple[str, ...]
    #: Those that the backend does not take.
    refused: tuple[str, ...]
    #: How the program ended before it was through; empty when it was.
    died: str
    #: What it wrote to stderr.
    complaints: str


def backends(tools: Path) -> list[str]:
    """The names of the backends of the build in ``tools``. Raises PatchError when the program finds none."""
    names = _BACKEND.findall(_completed(tools, "support", "-o", "none-at-all").stdout)
    if not names:
        raise PatchError("test-backend-ops found no backend: build the tools anew.")
    return names


def support(tools: Path, backend: str, environment: Mapping[str, str] | None = None) -> dict[str, bool]:
    """Every case that test-backend-ops has, and whether the backend takes it. Raises PatchError when it dies."""
    done = _completed(tools, "support", "-b", backend, "-o", OPERATION, environment=environment)
    return {case: verdict == "SUPPORTED" for case, verdict in _VERDICT.findall(done.stdout)}


def test(
    tools: Path,
    backend: str,
    cases: str = "",
    environment: Mapping[str, str] | None = None,
    operations: str = OPERATION,
) -> CaseResults:
    """Run the cases that match the pattern ``cases``, or all. That the program died is in the outcome.

    ``operations``: one, or several with commas between.
    """
    only = ["-p", cases] if cases else []
    done = _run(tools, "test", "-b", backend, "-o", operations, *only, environment=environment)
    return read(done.stdout, done.stderr, done.returncode)


def read(printed: str, complaints: str = "", code: int = 0) -> CaseResults:
    """The outcome in what ``test`` printed, without colours.

    Raises PatchError when fewer cases passed than ran and the others are not named.
    """
    verdicts = _VERDICT.findall(printed)
    refused = [case for case, verdict in verdicts if "not supported" in verdict]
    passed = sum(verdict.endswith("OK") for _, verdict in verdicts)
    failed = [case for case, verdict in verdicts if not (verdict.endswith("OK") or "not supported" in verdict)]
    summary = _SUMMARY.search(printed)
    if summary:
        failed = list(dict.fromkeys([*failed, *_FAILING.findall(printed)]))
        passed, all_cases = int(summary[1]), int(summary[2])
        if passed < all_cases and not failed:
            raise PatchError(f"test-backend-ops says {summary[0].strip()} and names none that failed: report it.")
    died = "" if summary and code >= 0 else ending(code)
    return CaseResults(passed, tuple(failed), tuple(refused), died, complaints)


def _completed(
    tools: Path, mode: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = _run(tools, mode, *arguments, environment=environment)
    if done.returncode < 0:
        raise failure(f"test-backend-ops {mode}", done)
    return done


def _run(
    tools: Path, *arguments: Any, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = run([tools / "test-backend-ops", *arguments], environment)
    done.stdout = _COLOUR.sub("", done.stdout)
    return done
