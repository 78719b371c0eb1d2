"""Upstream's own programs on a build. One module runs each of them and reads what it prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import PatchError

# Threads that wait by spinning take minutes instead of seconds when others want the cores too.
_PATIENT = {"OMP_WAIT_POLICY": "passive"}


def run(command: Sequence[Any], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in this process's environment or the given one.

    Raises PatchError when it cannot be started; how it ended is in the result.
    """
    words = [str(word) for word in command]
    patient = {**(os.environ if environment is None else environment), **_PATIENT}
    try:
        return subprocess.run(words, capture_output=True, text=True, errors="replace", env=patient)
    except OSError as failure:
        raise PatchError(f"{words[0]} cannot be started ({failure.strerror}): build the tools anew.") from failure
