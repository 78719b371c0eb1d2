"""Write GGUF files from scratch: small, and wrong in any way that a test wants."""

import struct

FORMATS = {int: ("I", 4), float: ("f", 6), bool: ("?", 7)}

LLAMA = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "ü"],
}

F16, Q4_K = 1, 12
TENSORS = (("token_embd.weight", (256, 3), F16), ("output.weight", (256, 3), Q4_K))
SIZES = {F16: (1, 2), Q4_K: (256, 144)}


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item) -> bytes:
    if isinstance(item, (str, bytes)):
        return struct.pack("<I", 8) + string(item)
    if isinstance(item, list):
        kind = 8 if isinstance(item[0], str) else FORMATS[type(item[0])][1]
        body = b"".join(value(each)[4:] for each in item)
        return struct.pack("<IIQ", 9, kind, len(item)) + body
    fmt, kind = FORMATS[type(item)]
    return struct.pack("<I" + fmt, kind, item)


def gguf_bytes(
    changes: dict | None = None, tensors=TENSORS, version: int = 3, fill: int = 0, order: str = "<"
) -> bytes:
    """A GGUF of LLAMA's metadata with ``changes`` (None drops a key), and ``fill`` more bytes of tensor data."""
    meta = {key: item for key, item in {**LLAMA, **(changes or {})}.items() if item is not None}
    tensors = list(tensors) + ([("fill", (fill // 2,), F16)] if fill else [])
    head = b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(meta))
    head += b"".join(string(key) + value(item) for key, item in meta.items())
    data = b""
    for name, shape, kind in tensors:
        head += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        count = 1
        for extent in shape:
            count *= extent
        block, size = SIZES[kind]
        data += bytes(i % 251 for i in range(count // block * size))
        data += bytes(-len(data) % 32)
    return head + bytes(-len(head) % 32) + data


def change_arch(name: str, own: dict) -> dict:
    """Changes that make LLAMA's metadata that of architecture ``name`` with ``own`` keys on top."""
    changes = {"general.architecture": name}
    for key, item in LLAMA.items():
        if key.startswith("llama."):
            changes[key] = None
            changes[name + key[len("llama") :]] = item
    return changes | {f"{name}.{key}": item for key, item in own.items()}


def part(number, count=3, tensors=()):
    changes = {"split.no": number, "split.count": count}
    if number:
        changes |= dict.fromkeys(LLAMA)
    return gguf_bytes(changes, tensors=tensors, fill=64)


def twice(data: bytes, key: str) -> bytes:
    """``data`` with the first of its keys written as ``key``, of the same length, which is there already."""
    first = b"general.name"
    assert len(first) == len(key) and data.count(first) == 1
    return data.replace(first, key.encode())


DAMAGED = {
    "key twice": (twice(gguf_bytes({"general.type": "model"}), "general.type"), "states 'general.type' twice"),
    "tensor twice": (
        gguf_bytes(tensors=[("a.weight", (256, 3), 1), ("a.weight", (256, 3), 1)]),
        "two tensors 'a.weight'",
    ),
    "gap": (
        gguf_bytes().replace((1536).to_bytes(8, "little"), (1600).to_bytes(8, "little")) + bytes(64),
        "stands at 1600 where 1536 is its place",
    ),
    "long name": (gguf_bytes(tensors=[("n" * 64, (256, 3), 1)]), "too long"),
    "cut short": (gguf_bytes()[:-40], "24 of its 2480 bytes are missing"),
}  # fmt: skip
