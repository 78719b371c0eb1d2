"""What llama.cpp says in its log about what it allocated and where it computes.

The library has no function for it that C can call. A log is no interface: its words may change with any release. So a
line that is missing or worded otherwise makes the answer None, "not known", and never a zero or a guess. The lines
stand in llama-model.cpp (print_info), llama-kv-cache.cpp, llama-memory-recurrent.cpp and llama-context.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..kvtypes import TYPES

#: Bytes of a value by the name of its ggml type; others are what llama.cpp may choose itself.
_BYTES = {each.name: each.bits_per_value / 8 for each in TYPES} | {"f32": 4.0, "bf16": 2.0}


@dataclass(frozen=True)
class KvSize:
    """Bytes of a KV cache, and what it would take at f16; None where the log does not say."""

    bytes: int | None
    f16_bytes: int | None


@dataclass(frozen=True)
class Buffers:
    """What else a context allocates, in bytes, to the hundredth of a MiB that llama.cpp prints; None if not known."""

    #: Scratch space of the largest graph, on all devices.
    compute: int | None
    #: Logits of the tokens that are asked for at once: one, while text is generated.
    output: int | None
    #: State of recurrent layers and the like, the same for any length.
    state: int | None

    @property
    def total(self) -> int | None:
        if self.compute is None or self.output is None or self.state is None:
            return None
        return self.compute + self.output + self.state


@dataclass(frozen=True)
class Side:
    """Keys or values of a part of the cache."""

    #: Of all layers, or of each where they differ.
    type_names: tuple[str, ...]
    #: As printed, in hundredths.
    mib: float


@dataclass(frozen=True)
class CachePart:
    """One of the caches that make up a model's: layers with a sliding window have one of their own."""

    cells: int
    #: Layer -> name of the device that its keys and values lie on.
    devices: dict[int, str]
    k: Side
    v: Side


#: Values that one token has in the cache as keys and as values, for each layer of the model.
ValuesPerLayer = tuple[list[int], list[int]]


def values_per_layer(lines: list[str]) -> ValuesPerLayer | None:
    """From the lines of loading a model: "n_embd_k_gqa = 192", or "[192, 0, …]" where layers differ."""
    sides = []
    for side in ("k", "v"):
        text = _one_text(rf"\bn_embd_{side}_gqa += (\d+|\[[\d, ]+\])$", lines)
        n_layer = _one_text(r"\bn_layer_all += (\d+)$", lines)
        if text is None or n_layer is None:
            return None
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        sides.append(numbers * int(n_layer) if len(numbers) == 1 else numbers)
    return sides[0], sides[1]


_LAYER = re.compile(r"^llama_kv_cache: layer +(\d+): dev = (.+)$")
#: Printed by the patch series alone, and where layers have types of their own. The size then says "mixed".
_TYPES = re.compile(r"^llama_kv_cache: layer +(\d+): K \((\w+)\), V \((\w+)\)$")
_MIXED = "mixed"
_SIZE = re.compile(
    r"^llama_kv_cache: size = +[\d.]+ MiB \( *(\d+) cells, +(\d+) layers.*"
    r"K \((\w+)\): +([\d.]+) MiB, V \((\w+)\): +([\d.]+) MiB"
)


def cache_parts(lines: list[str], *, cached: bool) -> list[CachePart] | None:
    """The parts of the KV cache, from the lines of making a context.

    ``cached``: the model has a KV cache, so a part is expected. Each part names its layers and then its size: None when
    the two do not fit together, and when the first lines are missing.
    """
    if not _is_complete(lines):
        return None
    parts: list[CachePart] = []
    devices: dict[int, str] = {}
    types: dict[int, tuple[str, str]] = {}
    for line in lines:
        if layer := _LAYER.search(line):
            devices[int(layer[1])] = layer[2]
        elif own := _TYPES.search(line):
            types[int(own[1])] = own[2], own[3]
        elif size := _SIZE.search(line):
            cells, n_layer, k_type, k_mib, v_type, v_mib = size.groups()
            if len(devices) != int(n_layer) or (_MIXED in (k_type, v_type) and types.keys() != devices.keys()):
                return None
            k_types, v_types = (
                tuple(types[layer][side] for layer in devices) if name == _MIXED else (name,)
                for side, name in enumerate((k_type, v_type))
            )
            parts.append(CachePart(int(cells), devices, Side(k_types, float(k_mib)), Side(v_types, float(v_mib))))
            devices, types = {}, {}
        elif "KV buffer size" in line and not devices:
            return None  # a buffer for layers that were named in other words
    return None if devices or cached != bool(parts) else parts


def kv_size(parts: list[CachePart] | None, values: ValuesPerLayer | None) -> KvSize:
    """Bytes of all parts: cells x the sum over the part's layers of values of a token x bytes of a value.

    llama.cpp prints the size of each side in hundredths of a MiB. Where the product is another (caches that some models
    keep for other things than keys and values), the size is what is printed, within 5.3 kB a side.
    """
    if parts is None:
        return KvSize(None, None)
    total = 0.0
    f16: float | None = 0.0
    for part in parts:
        for side, per_layer in ((part.k, values and values[0]), (part.v, values and values[1])):
            taken, as_f16 = _side_bytes(part, side, per_layer)
            total += taken
            f16 = None if f16 is None or as_f16 is None else f16 + as_f16
    return KvSize(round(total), None if f16 is None else round(f16))


def _side_bytes(part: CachePart, side: Side, per_layer: list[int] | None) -> tuple[float, float | None]:
    """Bytes of one side of a part, and what it would take at f16 (None if not known).

    That is what its layers make if the print agrees, or what is printed.
    """
    printed = side.mib * 2**20
    bytes_per_value = [_BYTES.get(name) for name in side.type_names]
    if None in bytes_per_value:
        return printed, None
    each = [width for width in bytes_per_value if width] * (len(part.devices) // len(bytes_per_value))
    if per_layer is not None and set(part.devices) <= set(range(len(per_layer))):
        # Half a hundredth is lost by printing, and as much as a float forgets before that.
        tolerance = 0.00501 * 2**20 + printed * 2**-23
        layers = [per_layer[i] for i in part.devices]
        # Without flash attention, values of layers with other sizes are padded to the largest ([TAG_V_CACHE_VARIABLE]).
        for counts in (layers, [max(per_layer, default=0)] * len(layers)):
            exact = part.cells * sum(n * width for n, width in zip(counts, each))
            if abs(exact - printed) <= tolerance:
                return exact, part.cells * sum(counts) * 2.0
    return (printed, printed / each[0] * 2) if len(set(each)) == 1 else (printed, None)


_BUFFER = re.compile(r"(\w+) buffer size = +([\d.]+) MiB")


def buffers(lines: list[str], *, recurrent: bool) -> Buffers:
    """Bytes of a context beside its KV cache, from the lines of making it.

    ``recurrent``: the model has layers with a state, so a line for it is expected.
    """
    if not _is_complete(lines):
        return Buffers(None, None, None)
    mib: dict[str, float] = {}
    for line in lines:
        if buffer := _BUFFER.search(line):
            kind = buffer[1] if buffer[1] in ("compute", "output", "KV") else "state"
            mib[kind] = mib.get(kind, 0.0) + float(buffer[2])
    if not recurrent:
        mib.setdefault("state", 0.0)
    compute, output, state = (
        round(mib[kind] * 2**20) if kind in mib else None for kind in ("compute", "output", "state")
    )
    return Buffers(compute, output, state)


def graph_splits(lines: list[str]) -> int | None:
    """Parts that the compute graph is cut into where the next step runs on another device; None if not known.

    "graph: nodes = 264, splits = 14, …", or "14 / 2" where reading and writing differ: the larger number.
    """
    text = _one_text(r"\bgraph\b.*: nodes = .*\bsplits = (\d+(?: / \d+)?),", lines)
    return None if text is None else max(int(number) for number in text.split(" / "))


def attention_place(parts: list[CachePart] | None, splits: int | None) -> str | None:
    """Where attention runs: "GPU", "CPU", or None when the log does not settle it (or there is no attention).

    The scheduler cuts the graph wherever the next step runs on another device (ggml_backend_sched_split_graph). One part
    is the host's, where embeddings are looked up, and each GPU has one. Attention that falls back to the CPU is two cuts
    for each layer whose cache lies on a GPU, there and back. In between, something else falls back.
    """
    devices = [device for part in parts or [] for device in part.devices.values()]
    if not devices:
        return None
    on_gpu = sum(device != "CPU" for device in devices)
    if on_gpu == 0:
        return "CPU"
    if splits is None or on_gpu < len(devices):
        return None
    if splits <= 1 + len(set(devices)):
        return "GPU"
    return "CPU" if splits > 2 * on_gpu else None


def _is_complete(lines: list[str]) -> bool:
    """Whether the log of making a context is here from its first line: only the last lines are kept of a long one."""
    return any("constructing llama_context" in line for line in lines)


def _one_text(pattern: str, lines: list[str]) -> str | None:
    """The group of ``pattern``, which one line has; None without one, or with several that disagree."""
    texts = {match[1] for line in lines if (match := re.search(pattern, line.rstrip()))}
    return texts.pop() if len(texts) == 1 else None
