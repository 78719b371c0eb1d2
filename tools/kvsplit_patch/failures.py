"""Why a program failed, in words of its own."""

from __future__ import annotations

import re
import subprocess


def ending(code: int) -> str:
    """How a program with this exit code ended, to stand behind its name in a sentence."""
    return f"died of signal {-code}" if code < 0 else f"ended with code {code}"


def first_error(printed: str, pattern: str = r"\berror\b|: not found$") -> str:
    """The first line that speaks of an error, or else the last one, without the stop at its end."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    # Ninja's steps begin with "[": a file may be called after errors.
    errors = [line for line in lines if re.search(pattern, line, re.IGNORECASE) and not line.startswith("[")]
    return (errors or lines[-1:] or ["it said nothing"])[0].rstrip(":;.")


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Of a Python program: the exception that ended it, or the signal."""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
