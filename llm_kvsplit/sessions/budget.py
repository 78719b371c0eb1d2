"""How much room stored states may take, and who goes first."""

from __future__ import annotations

import json
from pathlib import Path

from .. import files
from ..errors import KvsplitError
from .folder import folder, free_bytes, made_folder, state_files

#: Share of the disk's free space that states may take when the person has set no budget.
_SHARE = 0.1


def budget() -> int:
    """Bytes that all states together may take."""
    try:
        return int(json.loads((folder() / "budget.json").read_text())["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return int(_SHARE * (free_bytes() + used()))


def set_budget(n_bytes: int | None) -> None:
    """None goes back to a share of the free  Raises KvsplitError where it cannot be kept."""
    file = folder() / "budget.json"
    try:
        if n_bytes is None:
            file.unlink(missing_ok=True)
        else:
            made_folder()
            files.write_whole(file, json.dumps({"bytes": n_bytes}))
    except OSError as error:
        raise KvsplitError(f"{file} cannot be written ({error.strerror}): check its folder.") from error


def used() -> int:
    return sum(files.size(path) for path in state_files())


def make_room(n_bytes: int, keep: Path | None = None) -> bool:
    """Remove the least recently used states until ``n_bytes`` more fit the budget; False when they never will.

    ``keep`` is about to be replaced, so its bytes count as free. What processes that were killed left half-written
    goes as well.
    """
    from filelock import FileLock

    limit = budget()
    if n_bytes > limit:
        return False
    with FileLock(made_folder() / ".lock"):
        for leftover in folder().glob("*/*.tmp"):
            if not _is_running(leftover):
                leftover.unlink(missing_ok=True)
        stored = [path for path in state_files() if path != keep]
        total = sum(map(files.size, stored))
        for path in stored:
            if total + n_bytes <= limit:
                break
            total -= files.size(path)
            path.unlink(missing_ok=True)
    return True


def _is_running(temporary: Path) -> bool:
    import psutil

    pid = temporary.name.split(".")[-2]
    return pid.isdigit() and psutil.pid_exists(int(pid))
