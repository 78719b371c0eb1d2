"""Machines that compute for this one through llama.cpp's RPC backend: their devices, and what becomes of them.

llama.cpp sends a server its share of the weights, and of each graph. The patch rpc-errors has a connection that is lost
fail what goes through it; without that patch llama.cpp ends the process, so a library without it is refused.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..builds import choice, pair_speed
from ..errors import KvsplitError
from . import interrupts, library

# enum ggml_status in ggml.h
_SUCCESS, _ABORTED = 0, 1
#: The cause where ``_Patience`` had it so (rpc_dispatcher::wait).
_GIVEN_UP = "aborted"
#: Seconds after Ctrl-C in which a server may still finish its token: a connection that is given up costs the weights.
_GRACE = 1.0


@dataclass(frozen=True)
class Device:
    endpoint: str
    #: llama.cpp's, such as RPC0.
    name: str
    #: Bytes.
    free: int
    total: int


class ServerError(KvsplitError):
    """A server cannot be used; ``cause`` is why, as a clause."""

    def __init__(self, endpoint: str, cause: str, *, lost: bool = False) -> None:
        what, step = ("was lost", _LOST) if lost else ("cannot be used", _step(cause))
        super().__init__(f"The RPC server {endpoint} {what} ({cause}): {step}")
        self.cause = cause


_LOST = "see there what it printed, start it anew, and ask again."


def _step(cause: str) -> str:
    if "cannot connect" in cause:
        return "start it there with 'llm kvsplit rpc-server', and check address, tunnel and firewall."
    if "protocol" in cause:
        return "run the same llm-kvsplit on both machines."
    if "no answer" in cause:
        return "it hangs, or serves someone else, since it serves one at a time; end that, or start it anew."
    return "see there what it printed, run the same llm-kvsplit on both machines, and start it anew."


def supported() -> bool:
    """Whether the library can use servers, and survives the loss of one."""
    return hasattr(library.load(), "ggml_backend_rpc_get_status")


def devices(endpoints: Sequence[str]) -> list[Device]:
    """The devices of all servers, in order, each asked for its memory. Raises KvsplitError for one that cannot be used."""
    with interruptible():
        return [device for _, device in _devices(endpoints)]


def free_bytes(endpoints: Sequence[str]) -> int:
    """What all their devices have free together. Raises KvsplitError for one that cannot be used."""
    return sum(device.free for device in devices(endpoints)) if endpoints else 0


def pointers(endpoints: Sequence[str]) -> Any:
    """The servers' devices and this machine's GPUs, as ``llama_model_params.devices`` wants them: NULL behind the last.

    Servers come first, as in llama.cpp, so that the least travels.
    """
    lib = library.load()
    local = (lib.ggml_backend_dev_get(index) for index in range(lib.ggml_backend_dev_count()))
    kinds = (lib.GGML_BACKEND_DEVICE_TYPE_GPU, lib.GGML_BACKEND_DEVICE_TYPE_IGPU)
    everywhere = [pointer for pointer, _ in _devices(endpoints)]
    everywhere += [pointer for pointer in local if lib.ggml_backend_dev_type(pointer) in kinds]
    return (ctypes.c_void_p * (len(everywhere) + 1))(*everywhere, None)


def _devices(endpoints: Sequence[str]) -> Iterator[tuple[Any, Device]]:
    if not supported():
        raise KvsplitError(
            f"{choice.describe(choice.current())} cannot use other machines: '{pair_speed.MEND}' gets a build of the "
            "patch series that can, or leave out -o rpc."
        )
    lib = library.load()
    _installed()
    for endpoint in endpoints:
        with library.log.capture() as lines:
            registry = lib.ggml_backend_rpc_add_server(endpoint.encode())
        if not registry:
            raise _unusable(endpoint, lines)
        for index in range(lib.ggml_backend_reg_dev_count(registry)):
            pointer = lib.ggml_backend_reg_dev_get(registry, index)
            free, total = ctypes.c_uint64(), ctypes.c_uint64()
            with library.log.capture() as lines:  # a server that was known before is asked again here
                lib.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
            if not total.value:
                raise _unusable(endpoint, lines)
            yield pointer, Device(endpoint, lib.ggml_backend_dev_name(pointer).decode(), free.value, total.value)


def _unusable(endpoint: str, lines: list[tuple[int, str]]) -> BaseException:
    cause = _cause(endpoint, lines) or "it has no device"
    return KeyboardInterrupt() if cause.endswith(_GIVEN_UP) else ServerError(endpoint, cause)


def _cause(endpoint: str, lines: list[tuple[int, str]]) -> str:
    """What llama.cpp said first of why it lost a server; nothing where it did not."""
    head = f"RPC server {endpoint}: "
    return next((text.strip().removeprefix(head) for _, text in lines if text.startswith(head)), "")


def lost(endpoints: Sequence[str]) -> bool:
    """Whether a connection that something is held on is gone."""
    return any(library.load().ggml_backend_rpc_get_status(each.encode()) != _SUCCESS for each in endpoints)


def given_up(endpoints: Sequence[str]) -> bool:
    """Whether it is gone because the person did not want to wait."""
    return any(library.load().ggml_backend_rpc_get_status(each.encode()) == _ABORTED for each in endpoints)


def check(endpoints: Sequence[str]) -> None:
    """Raise ServerError for a server that was lost, KeyboardInterrupt where the person had no more patience."""
    if lost(endpoints):
        refuse(endpoints, library.log.lines)


def refuse(endpoints: Sequence[str], lines: list[tuple[int, str]]) -> None:
    """Raise the same where llama.cpp says in ``lines`` that it lost one: what failed may hold no connection any more."""
    for endpoint in endpoints:
        if cause := _cause(endpoint, lines):
            raise KeyboardInterrupt if cause.endswith(_GIVEN_UP) else ServerError(endpoint, cause, lost=True)
    if lost(endpoints):
        raise ServerError(" or ".join(endpoints), "llama.cpp does not say why", lost=True)


class _Patience:
    """Asked about ten times a second while a server is waited for: whether to go on.

    It is asked in the thread that waits. In the main thread that is where Python handles Ctrl-C.
    """

    def __init__(self) -> None:
        self.stopped: Callable[[], bool] = lambda: False
        self._since: float | None = None

    def ended(self, _data: Any = None) -> bool:
        if not self.stopped():
            self._since = None
            return False
        now = time.monotonic()
        self._since = self._since or now
        return now - self._since > _GRACE


_patience = _Patience()


@contextmanager
def waiting_until(stopped: Callable[[], bool]) -> Iterator[None]:
    """Within the block, what waits for a server ends a second after ``stopped()`` is true."""
    before, _patience.stopped = _patience.stopped, stopped
    try:
        yield
    finally:
        _patience.stopped = before


def stopped() -> bool:
    """Whether the person wants no more of it."""
    return _patience.stopped()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, Ctrl-C ends what waits for a server, and is raised when the block ends.

    Where Ctrl-C has a meaning already (an answer's), that one stays.
    """
    with interrupts.held() as pressed, waiting_until(pressed or _patience.stopped):
        yield


@functools.cache
def _installed() -> Any:
    """Have llama.cpp ask ``_patience``. The callback is kept here, since ctypes keeps no reference of its own."""
    lib = library.load()
    callback = lib.ggml_abort_callback(_patience.ended)
    lib.ggml_backend_rpc_set_abort_callback(callback, None)
    return callback


def served() -> dict[int, dict[str, Any]]:
    """This machine's GPUs, or its CPU where it has none: as ``library.devices`` lists them, by their place there."""
    listed = dict(enumerate(library.devices()))
    gpus = {index: device for index, device in listed.items() if device["type"] in ("gpu", "igpu")}
    return gpus or {index: device for index, device in listed.items() if device["type"] == "cpu"}


def serve(endpoint: str, threads: int, cache: str | None) -> None:
    """Serve what ``served`` lists until the process ends. Returns only where it cannot."""
    lib = library.load()
    pointers = [lib.ggml_backend_dev_get(index) for index in served()]
    array = (ctypes.c_void_p * len(pointers))(*pointers)
    folder = cache.encode() if cache else None
    lib.ggml_backend_rpc_start_server(endpoint.encode(), folder, threads, len(pointers), array)
