"""Read, and change, tensors while llama.cpp computes them, by the names it gives them ("Kcur-3", "kqv_out-0")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import library

if TYPE_CHECKING:
    import numpy as np


class Tap:
    """The last values of the tensors with these ``names``, and a hand in what they become.

    A name may stand for several steps of one graph, such as keys before and after rotary embedding. Only the last is
    changed. Source: ggml_backend_sched_eval_callback in ggml-backend.h.
    """

    def __init__(self, names: set[str]) -> None:
        self.names = names
        #: Name -> its last values: float32, flat.
        self.values: dict[str, np.ndarray] = {}
        #: Name -> how many steps have been computed.
        self.computed: Counter[str] = Counter()
        #: Name -> how many steps one graph has.
        self.steps: dict[str, int] = {}
        #: Name -> what gets its values, and returns those that the computation goes on with.
        self.changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        #: What one of ``changes`` raised; the computation ended there.
        self.error: Exception | None = None
        lib = library.load()
        self._name, self._bytes = lib.ggml_get_name, lib.ggml_nbytes
        self._get, self._set = lib.ggml_backend_tensor_get, lib.ggml_backend_tensor_set
        # Given to a context, which lives no longer than this.
        self.callback = lib.ggml_backend_sched_eval_callback(self._called)

    def _called(self, tensor: int, ask: bool, _data: Any) -> bool:
        import numpy as np

        name = self._name(tensor).decode()
        if ask:
            return name in self.names
        if name in self.names:
            self.computed[name] += 1
            values = np.empty(self._bytes(tensor) // 4, np.float32)
            self._get(tensor, values.ctypes.data, 0, values.nbytes)
            if name in self.changes and self.computed[name] % self.steps[name] == 0:
                try:
                    values = np.ascontiguousarray(self.changes[name](values), np.float32)
                except Exception as error:  # C cannot pass it on
                    self.error = error
                    return False
                self._set(tensor, values.ctypes.data, 0, values.nbytes)
            self.values[name] = values
        return True
