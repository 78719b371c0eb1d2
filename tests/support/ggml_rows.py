"""Run as a program: ``ggml_rows.py LIBRARIES DEVICE DEVICE``: what two devices of a build make of the same rows, as JSON.

``{type: {kind of rows: [blocks that differ, values that differ when they are read, blocks]}}``. Rows are written with
SET_ROWS, and read with CPY to f32 and to f16. There is no operation from f16 blocks on the CPU: there f32 is rounded.
"""

import ctypes as c
import json
import sys
from pathlib import Path

import numpy as np

TYPES = {"iq4_nl": 20, "q6_0": 500, "q3_nl": 501}
F32, F16, I64 = 0, 1, 27  # enum ggml_type
VALUES, ROWS, BLOCK = 256, 8192, 32


class InitParams(c.Structure):
    _fields_ = [("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool)]


class Ggml:
    """ggml's functions, called by name: they take and return pointers, where nothing else is said."""

    def __init__(self, folder: Path) -> None:
        self.libraries = [c.CDLL(str(folder / f"lib{name}.so"), mode=c.RTLD_GLOBAL) for name in ("ggml-base", "ggml")]

    def __call__(self, name, *arguments, returns=c.c_void_p):
        function = next(getattr(each, name) for each in self.libraries if hasattr(each, name))
        function.restype = returns
        return function(*(c.c_void_p(each) if isinstance(each, int) else each for each in arguments))


def rows() -> dict[str, np.ndarray]:
    """Kinds of rows; "ties" are values of equal magnitude, and values half way between two levels."""
    random = np.random.default_rng(7)
    normal = random.standard_normal((ROWS, VALUES))
    kinds = {
        "normal": normal,
        "heavy-tailed": normal**3,
        "ties": random.integers(-3, 4, (ROWS, VALUES)) / 2,
        "mostly zero": normal * (random.random((ROWS, VALUES)) < 0.03),
        "small": normal * 1e-6,
        "large": normal * 1e4,
        "zero": np.zeros((ROWS, VALUES)),
    }
    return {kind: np.ascontiguousarray(values, np.float32) for kind, values in kinds.items()}


def through(ggml: Ggml, device: str, ggml_type: int, values: np.ndarray, read_as: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of a cache that the device has written the rows to, and the values that it reads there."""
    backend = ggml("ggml_backend_init_by_name", device.encode(), None)
    context = ggml("ggml_init", InitParams(1 << 20, None, True))

    def tensor(kind: int) -> int:
        return ggml("ggml_new_tensor_2d", context, c.c_int(kind), c.c_int64(VALUES), c.c_int64(ROWS))

    cache, source, floats = tensor(ggml_type), tensor(F32), tensor(read_as)
    places = ggml("ggml_new_tensor_1d", context, c.c_int(I64), c.c_int64(ROWS))
    graph = ggml("ggml_new_graph", context)
    read = ggml("ggml_cpy", context, ggml("ggml_set_rows", context, cache, source, places), floats)
    ggml("ggml_build_forward_expand", graph, read)
    buffer = ggml("ggml_backend_alloc_ctx_tensors", context, backend)

    def move(name: str, of: int, data: np.ndarray) -> np.ndarray:
        ggml(name, of, data.ctypes.data_as(c.c_void_p), c.c_size_t(0), c.c_size_t(data.nbytes), returns=None)
        return data

    move("ggml_backend_tensor_set", source, values)
    move("ggml_backend_tensor_set", places, np.arange(ROWS)[::-1].copy())
    if ggml("ggml_backend_graph_compute", backend, graph, returns=c.c_int):
        sys.exit(f"{device} did not compute the graph")
    size = ggml("ggml_nbytes", cache, returns=c.c_size_t)
    blocks = move("ggml_backend_tensor_get", cache, np.empty(size, np.uint8))
    back = move("ggml_backend_tensor_get", floats, np.empty(values.shape, np.float32 if read_as == F32 else np.float16))
    ggml("ggml_backend_buffer_free", buffer, returns=None)
    ggml("ggml_free", context, returns=None)
    ggml("ggml_backend_free", backend, returns=None)
    return blocks.reshape(values.size // BLOCK, -1), back


def main(folder: str, device: str, cpu: str) -> None:
    ggml = Ggml(Path(folder))
    result: dict[str, dict[str, list[int]]] = {}
    for name, ggml_type in TYPES.items():
        for kind, values in rows().items():
            blocks, floats = through(ggml, device, ggml_type, values, F32)
            _, halves = through(ggml, device, ggml_type, values, F16)
            wanted, plain = through(ggml, cpu, ggml_type, values, F32)
            same = (blocks == wanted).all(axis=1)
            values_differ = (floats != plain) | (halves != plain.astype(np.float16))
            result.setdefault(name, {})[kind] = [int((~same).sum()), int(values_differ.sum()), len(same)]
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
