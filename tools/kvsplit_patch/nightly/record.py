"""What earlier nights came to, kept in ``state.json``: written as soon as it is known, so a night may be cut short."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_kvsplit import files

from .. import paths
from ..errors import PatchError
from ..proof.verify import Check

_MOST_NIGHTS = 60


def folder() -> Path:
    return paths.cache_dir() / "nightly"


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


def checks(key: str, date: str) -> list[Check]:
    """What an earlier run of the stages came to, for as long as it holds: without problems always, else for the day."""
    verdict = _read()["verdicts"].get(key, {"checks": [], "date": date})
    known = [Check.from_json(check) for check in verdict["checks"]]
    return known if verdict["date"] == date or not any(check.problems for check in known) else []


def keep_checks(key: str, date: str, run: Sequence[Check]) -> None:
    with _changed() as state:
        state["verdicts"][key] = {"date": date, "checks": [asdict(check) for check in run]}


def green_commits(key: str) -> list[str]:
    return _read()["green"].get(key, [])


def keep_green(key: str, commit: str) -> None:
    with _changed() as state:
        state["green"][key] = list(dict.fromkeys([*state["green"].get(key, []), commit]))


def history() -> list[tuple[str, str, list[str]]]:
    """Date, result and the keys of the breaks of each night that is remembered, newest first."""
    return [(date, *result) for date, result in sorted(_read()["history"].items(), reverse=True)]


def keep_night(date: str, result: str, breaks: Sequence[str]) -> None:
    with _changed() as state:
        state["history"][date] = [result, list(breaks)]
        for old in sorted(state["history"])[:-_MOST_NIGHTS]:
            del state["history"][old]


def _file() -> Path:
    return folder() / "state.json"


def _read() -> dict[str, Any]:
    """``verdicts`` and commits that were ``green``, both by what they depend on, and the ``history`` by date."""
    try:
        return {"verdicts": {}, "green": {}, "history": {}, **json.loads(_file().read_text())}
    except FileNotFoundError:
        return {"verdicts": {}, "green": {}, "history": {}}
    except (ValueError, TypeError):
        raise PatchError(f"{_file()} cannot be read: remove it, and everything is proven anew.") from None


@contextmanager
def _changed() -> Iterator[dict[str, Any]]:
    state = _read()
    yield state
    files.write_whole(_file(), json.dumps(state, indent=1) + "\n")
