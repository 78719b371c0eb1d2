"""Read, and change, tensors while llama.cpp computes them, by the names it gives them ("Kcur-3", "kqv_out-0")."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import library

if TYPE_CHECKING:
    import numpy as np


class Tap:
    """Keeps the last f32 values of each tensor named in ``wanted``, flat, in ``found``.

    ``change``, by name, gets those values and returns what the computation is to go on with. A name may stand for
    several steps, such as keys before and after rotary embedding: ``seen`` counts them, ``steps`` says how many there
    are in one graph, and only the last is changed. What ``change`` raises is in ``failed``. Source: ggml_backend_sched_eval_callback in ggml-backend.h.
    """

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.found: dict[str, np.ndarray] = {}
        self.seen: Counter[str] = Counter()
        self.steps: dict[str, int] = {}
        self.failed: Exception | None = None
        self.change: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        lib = library.load()
        place = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._name = bind(lib, "ggml_get_name", ctypes.c_char_p, [ctypes.c_void_p])
        self._bytes = bind(lib, "ggml_nbytes", ctypes.c_size_t, [ctypes.c_void_p])
        self._get = bind(lib, "ggml_backend_tensor_get", None, place)
        self._set = bind(lib, "ggml_backend_tensor_set", None, place)
        # Given to a context, which lives no longer than this.
        self.callback = lib.ggml_backend_sched_eval_callback(self._called)

    def _called(self, tensor: int, ask: bool, _data: Any) -> bool:
        import numpy as np

        name = self._name(tensor).decode()
        if ask:
            return name in self.wanted
        if name in self.wanted:
            self.seen[name] += 1
            values = np.empty(self._bytes(tensor) // 4, np.float32)
            self._get(tensor, values.ctypes.data, 0, values.nbytes)
            if name in self.change and self.seen[name] % self.steps[name] == 0:
                try:
                    values = np.ascontiguousarray(self.change[name](values), np.float32)
                except Exception as error:  # C cannot pass it on
                    self.failed = error
                    return False
                self._set(tensor, values.ctypes.data, 0, values.nbytes)
            self.found[name] = values
        return True


def bind(lib: Any, name: str, restype: Any, argtypes: list[Any]) -> Any:
    """A C function of llama.cpp's libraries that the bindings do not declare."""
    function = getattr(lib._lib, name)
    function.restype, function.argtypes = restype, argtypes
    return function
