"""The memory of a measuring process over time, read from outside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import child

#: Seconds between two samples.
_PERIOD = 0.02


@dataclass(frozen=True)
class Sample:
    seconds: float
    #: Resident memory of the process: Python, the library, weights, cache and buffers.
    bytes: int
    #: Tokens evaluated by then.
    tokens: int


def watch(job: dict[str, Any], received: Callable[[Sample], None]) -> tuple[dict[str, Any], list[Sample]]:
    """Do the job in a child process; ``received`` gets each sample as it is taken. Returns the result and all samples.

    Raises KvsplitError as ``child.run`` does.
    """
    import psutil

    samples: list[Sample] = []
    tokens, over = 0, threading.Event()

    def take_samples(pid: int) -> None:
        start = time.perf_counter()
        try:
            process = psutil.Process(pid)
            while not over.wait(_PERIOD):
                # Between fork and exec the child is a copy of this process, with its memory.
                if process.memory_info().rss:
                    samples.append(Sample(time.perf_counter() - start, process.memory_info().rss, tokens))
                    received(samples[-1])
        except psutil.Error:
            pass  # it has ended

    thread: threading.Thread | None = None

    def started(pid: int) -> None:
        nonlocal thread
        thread = threading.Thread(target=take_samples, args=(pid,), daemon=True)
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
