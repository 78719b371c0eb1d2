"""Upstream's own programs on a build. One module runs each of them and reads what it prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import PatchError
from ...failures import ending, first_error

# Threads that wait by spinning take minutes instead of seconds when others want the cores too.
_PATIENT = {"OMP_WAIT_POLICY": "passive"}


def run(command: Sequence[Any], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in this process's environment or the given one.

    Raises PatchError when it cannot be started; how it ended is in the result.
    """
    words = [str(word) for word in command]
    patient = {**_PATIENT, **(os.environ if environment is None else environment)}
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", env=patient)
    except OSError as error:
        raise PatchError(f"{words[0]} cannot be started ({error.strerror}): build the tools anew.") from error


def failure(name: str, done: subprocess.CompletedProcess[str], what: str = "") -> PatchError:
    """How the program ended, ``what`` it was doing, and why in its own words."""
    reason = first_error(done.stdout + done.stderr, "error|assert|fail")
    return PatchError(f"{name} {ending(done.returncode)}{what}: {reason}.")
