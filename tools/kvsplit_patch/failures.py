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


#: What begins a report of the compiler, the linker, cmake or ninja. Warnings quote source, which may speak of errors.
_BUILD_ERROR = re.compile(
    r"""CMake[ ]Error\b
    | [^|"]*\b(fatal[ ])?error:[ ]
    | .*(undefined[ ](reference[ ]to|symbols?\b) | multiple[ ]definition[ ]of | duplicate[ ]symbol)
    | .*\bld(\.\w+)?:[ ]cannot[ ]
    """,
    re.VERBOSE | re.IGNORECASE,
)
#: Reports that something else failed, without why.
_FOLLOWS = re.compile(
    r"collect2: error|linker command failed|subprocess-exited-with-error|: (warning|note): ", re.IGNORECASE
)


def build_error(printed: str) -> str:
    """The first error of a compiler, a linker or cmake, wherever it stands, with the line that goes on from it."""
    lines = [line.strip() for line in printed.splitlines()]
    errors = [at for at, line in enumerate(lines) if _BUILD_ERROR.match(line) and not _FOLLOWS.search(line)]
    if not errors:
        return first_error(printed, ": not found$")
    first, *more = lines[errors[0] :]
    whole = " ".join([first, *filter(None, more)][:2]) if first.endswith(":") else first
    return whole.rstrip(":;.")


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Of a Python program: the exception that ended it, or the signal."""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
