"""Ctrl-C while llama.cpp computes.

Python handles a signal as soon as it runs again. Within a function that llama.cpp calls, its log or a tap, that is too
early: ctypes passes no exception on through C, so it prints it, C goes on, and the interruption is lost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def held() -> Iterator[Callable[[], bool] | None]:
    """Within the block, Ctrl-C is noted, and raised when the block ends. Yields what tells whether it was pressed.

    Where Ctrl-C has another meaning already (an answer's, or an outer block's), that one stays, and None is yielded.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield None
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda _number, _frame: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if pressed.is_set():
            raise KeyboardInterrupt
