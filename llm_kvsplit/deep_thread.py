"""Work in a thread with a deep stack, waited for no longer than a limit.

A library in C or Rust that recurses over what a person gives it ends the process where the stack ends. A thread's stack
can be chosen, and takes memory only as far as it is used. Who waits for a thread can be interrupted, too.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as _TimeoutError
from typing import Any, TypeVar

Result = TypeVar("Result")

#: Bytes. Some kilobytes a level are enough for 100,000 levels.
_STACKS = (512 << 20, 64 << 20, 0)
_sizes = threading.Lock()


class DeepThread:
    """Does one piece of work after the other. It starts with the first, and ends with the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.leave()

    def leave(self) -> None:
        """Leave the thread to what it is at."""
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._started = False

    def start(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        future: Future[Result] = Future()
        self._work.put((future, lambda: work(*arguments)))
        if not self._started:
            self._started = True
            _start(threading.Thread(target=_loop, args=[self._work], name=self._name, daemon=True))
        return future

    def call(self, work: Callable[..., Result], *arguments: Any, seconds: float) -> Result:
        """Raises TimeoutError where it takes longer; the work then goes on, and what comes next has another thread."""
        future = self.start(work, *arguments)
        try:
            return future.result(seconds)
        except _TimeoutError as ex:  # an exception of its own before Python 3.11
            raise TimeoutError(f"{self._name} takes more than {seconds:g} s") from ex
        finally:
            if not future.done():  # after Ctrl-C as well
                self.leave()


def call(work: Callable[[], Result], stack: int) -> Result:
    """What ``work`` returns, from a thread of its own with ``stack`` bytes. Raises MemoryError where they are not to be had."""
    future: Future[Result] = Future()
    thread = threading.Thread(target=_do, args=[future, work], daemon=True)
    if not _start(thread, [stack]):
        raise MemoryError
    return future.result()


def _loop(waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
    while True:
        _do(*waiting.get())


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as ex:  # a panic in Rust is no Exception
        future.set_exception(ex if isinstance(ex, Exception) else RuntimeError(str(ex)))


def _start(thread: threading.Thread, stacks: Sequence[int] = _STACKS) -> bool:
    """Start it with the first of these sizes that can be had; whether one could."""
    with _sizes:  # the size is that of all threads that are started from now on
        before = threading.stack_size()
        try:
            for size in stacks:
                # Where address space is limited, a smaller one.
                with contextlib.suppress(ValueError, RuntimeError, MemoryError):
                    threading.stack_size(size)
                    thread.start()
                    return True
            return False
        finally:
            threading.stack_size(before)
