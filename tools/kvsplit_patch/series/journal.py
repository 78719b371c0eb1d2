"""What an unfinished change of the series has come to, on disk, and one lock a checkout."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import PatchError
from ..paths import checkout, state_dir
from .dep3 import Header
from .folders import sync, write_file
from .patchset import Step, Upstream


@dataclass(frozen=True)
class Change:
    """One change of the series under way.

    ``done``: patches as they stand on the target. ``todo``: patches as they stand where they come from,
    the first being worked on. ``work``: the folder where a person resolves it.
    ``old``, ``new``: digests of ``patchset/`` before and, from the moment the swap may begin, after.
    ``stopped``: why a person is asked, an ``Replayed`` state, or empty.
    """

    what: str
    series_version: str
    upstream: Upstream
    base_tree: str
    done: tuple[Step, ...]
    todo: tuple[Step, ...]
    work: str
    old: str
    stopped: str = ""
    new: str = ""

    def current(self) -> str:
        """The tree the next patch is merged into."""
        return self.done[-1].after if self.done else self.base_tree

    def advanced(self, tree: str) -> "Change":
        """The change with its next patch done, which gave ``tree``."""
        step = replace(self.todo[0], before=self.current(), after=tree)
        return replace(self, done=(*self.done, step), todo=self.todo[1:], stopped="")


@contextmanager
def locked(project: Path | None = None) -> Iterator[Path]:
    """The right to change the series of a checkout, by default the one we are in; yields its folder.

    Raises PatchError at once if another process has it.
    """
    from filelock import FileLock, Timeout

    project = project or checkout()
    try:
        with FileLock(state_dir(project) / "lock", timeout=0):
            yield project
    except Timeout:
        raise PatchError(f"Another kvsplit-patch is at work in {project}: wait until it ends.") from None


def write(project: Path, change: Change) -> None:
    path = _path(project)
    beside = path.with_suffix(".new")
    write_file(beside, json.dumps(asdict(change), indent=1).encode())
    os.replace(beside, path)
    sync(path.parent)


def read(project: Path) -> Change | None:
    """The unfinished change, or None."""
    try:
        data = json.loads(_path(project).read_bytes())
        done, todo = (tuple(map(_step, data[key])) for key in ("done", "todo"))
        return Change(**{**data, "done": done, "todo": todo, "upstream": Upstream(**data["upstream"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise PatchError(
            f"{_path(project)} was written by another version of kvsplit-patch, or damaged: "
            "finish with that version, or remove the file to give the change up."
        ) from None


def _step(data: dict[str, Any]) -> Step:
    # JSON knows no tuples.
    header: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value for field, value in data["header"].items()
    }
    return Step(**{**data, "header": Header(**header)})


def require(project: Path) -> Change:
    change = read(project)
    if change is None:
        raise PatchError("No change of the series is under way: start one with 'kvsplit-patch rebase'.")
    return change


def remove(project: Path) -> None:
    _path(project).unlink(missing_ok=True)
    sync(state_dir(project))


def _path(project: Path) -> Path:
    return state_dir(project) / "journal.json"
