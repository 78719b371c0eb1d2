"""The memory of a measuring process over time, looked at from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import child

#: Seconds between two looks.
_PERIOD = 0.02


@dataclass(frozen=True)
class Sample:
    seconds: float
    #: Resident memory of the process: Python, the library, weights, cache and buffers.
    bytes: int
    #: Tokens evaluated by then.
    tokens: int


def watch(job: dict[str, Any], heard: Callable[[Sample], None]) -> tuple[dict[str, Any], list[Sample]]:
    """Do the job in a child process; ``heard`` gets each sample as it is taken. Returns the result and all samples.

    Raises KvsplitError as ``child.run`` does.
    """
    import psutil

    samples: list[Sample] = []
    tokens, over = 0, threading.Event()

    def look(pid: int) -> None:
        began = time.perf_counter()
        try:
            process = psutil.Process(pid)
            while not over.wait(_PERIOD):
                # Between fork and exec the child is a copy of this process, with its memory.
                if process.memory_info().rss:
                    samples.append(Sample(time.perf_counter() - began, process.memory_info().rss, tokens))
                    heard(samples[-1])
        except psutil.Error:
            pass  # it has ended

    thread: threading.Thread | None = None

    def started(pid: int) -> None:
        nonlocal thread
        thread = threading.Thread(target=look, args=(pid,), daemon=True)
        thread.start()

    def done(count: int) -> None:
        nonlocal tokens
        tokens += count
        if tokens >= job["n_ctx"]:
            over.set()  # what follows is the process giving everything back

    try:
        result = child.run(job, done, started)
    finally:
        over.set()
        if thread:
            thread.join()
    return result, samples
