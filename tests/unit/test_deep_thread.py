"""Work in a thread of its own."""

import os
import signal
import sys
import threading
import time

import pytest

from llm_kvsplit.deep_thread import DeepThread


def test_results_and_errors_come_back():
    thread = DeepThread("counting")
    assert thread.call(sum, [1, 2], seconds=10) == 3
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0, seconds=10)
    assert thread.call(sum, [3, 4], seconds=10) == 7


def test_waiting_ends():
    with pytest.raises(TimeoutError, match=r"sleeping takes more than 0\.1 s"):
        DeepThread("sleeping").call(time.sleep, 5, seconds=0.1)


def test_ctrl_c_leaves_the_thread_to_what_it_is_at():
    """What comes next would wait behind it."""
    thread, released = DeepThread("waiting"), threading.Event()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            thread.call(released.wait, seconds=60)
        assert thread.call(sum, [1, 2], seconds=30) == 3
    finally:
        released.set()
        signal.signal(signal.SIGINT, before)


def test_the_stack_is_deep():
    """JSON's decoder in C recurses; the interpreter's own limit is lifted for the thread alone to show the stack."""

    def descend(n):
        return n if n == 0 else max((descend(n - 1),), key=lambda value: value)

    before = sys.getrecursionlimit()
    sys.setrecursionlimit(60_000)
    try:
        assert DeepThread("descending").call(descend, 20_000, seconds=60) == 0
    finally:
        sys.setrecursionlimit(before)
