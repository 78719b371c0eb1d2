"""Call a function on a stack that is deep enough for it.

llama.cpp splits a text into words by regular expressions, and GCC's std::regex recurses for each character of a match:
about 350 bytes a letter (unicode_regex_split_stl in unicode.cpp). A word of 30,000 letters overflows the usual 8 MiB,
which ends the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ..errors import KvsplitError

T = TypeVar("T")

#: Bytes of text that any stack has room for: a thread's has 512 KiB on a Mac.
SHALLOW = 1000
#: Bytes of stack for a byte of text, thrice what was seen. Only what is used takes memory.
_EACH = 1024
_LEAST = 1 << 23

_lock = threading.Lock()


def call(function: Callable[[], T], n_bytes: int) -> T:
    """What ``function`` returns or raises, with room for a text of ``n_bytes``. Raises KvsplitError without the memory."""
    if n_bytes <= SHALLOW:
        return function()
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as raised:
            failure.append(raised)

    with _lock:  # the size is that of all threads begun from now on
        before = threading.stack_size(_LEAST + _EACH * n_bytes // 4096 * 4096)
        thread = threading.Thread(target=work, name="kvsplit tokenizer")
        try:
            thread.start()
        except (RuntimeError, MemoryError) as no_memory:
            raise KvsplitError(
                f"A text of {n_bytes} bytes needs more memory than there is to be split into tokens: give a shorter one."
            ) from no_memory
        finally:
            threading.stack_size(before)
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
