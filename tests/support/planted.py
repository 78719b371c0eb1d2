"""Faults that a patch could bring, planted as patches: each compiles, and each silently means something else."""

from dataclasses import dataclass
from pathlib import Path

from .worlds import run


@dataclass(frozen=True)
class Fault:
    name: str
    path: str
    #: (what stands there once, what the fault makes of it)
    edits: tuple[tuple[str, str], ...]


SWAPPED_TYPES = Fault(
    "swapped-types",
    "src/llama-kv-cache.cpp",
    (
        (
            "ggml_new_tensor_3d(ctx, types.k, n_embd_k_gqa, kv_size",
            "ggml_new_tensor_3d(ctx, TYPE_V, n_embd_k_gqa, kv_size",
        ),
        (
            "ggml_new_tensor_3d(ctx, types.v, n_embd_v_gqa, kv_size",
            "ggml_new_tensor_3d(ctx, types.k, n_embd_v_gqa, kv_size",
        ),
        (
            "ggml_new_tensor_3d(ctx, TYPE_V, n_embd_k_gqa, kv_size",
            "ggml_new_tensor_3d(ctx, types.v, n_embd_k_gqa, kv_size",
        ),
    ),
)
V_WITH_K_BLOCKS = Fault(
    "v-with-k-blocks",
    "ggml/src/ggml-cpu/fattn/decode.cpp",
    (("fattn_with_block(f.v->type", "fattn_with_block(f.k->type"),),
)
SCALES_DROPPED = Fault(
    "scales-dropped",
    "ggml/src/ggml-cpu/fattn/blocks.h",
    (
        (
            "{ return byte_d ? q.b.d << 8 : q.b.d; }",
            "{ return TYPE == GGML_TYPE_Q4_0 ? 0x3c00 : byte_d ? q.b.d << 8 : q.b.d; }",
        ),
    ),
)
ROTATION_OFF_FOR_V = Fault(
    "rotation-off-for-v",
    "src/llama-kv-cache.cpp",
    (("        attn_rot_v =\n            !attn_rot_disable &&", "        attn_rot_v =\n            false &&"),),
)
# What llama.cpp#27390 does to patches like ours: V is converted by the pipeline of K's type. On Metal alone.
V_CONVERTED_AS_K = Fault(
    "v-converted-as-k",
    "ggml/src/ggml-metal/ggml-metal-ops.cpp",
    (
        (
            "            ggml_metal_encoder_set_buffer  (enc, bid_v_f16,       2);\n",
            "            ggml_metal_encoder_set_buffer  (enc, bid_v_f16,       2);\n"
            "            ggml_metal_encoder_set_pipeline(enc, pipeline0);\n",
        ),
    ),
)
#: Those that any machine's own smoke notices.
FAULTS = (SWAPPED_TYPES, V_WITH_K_BLOCKS, SCALES_DROPPED, ROTATION_OFF_FOR_V)


def plant(fault: Fault, folder: Path) -> None:
    """Make the fault the last patch of the checkout's series, the way a maintainer makes a patch."""
    run("apply", str(folder))
    file = folder / fault.path
    text = file.read_text()
    for old, new in fault.edits:
        assert text.count(old) == 1, f"{fault.path} holds {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    file.write_text(text)
    run("new", fault.name, str(folder), "--description", "A planted fault.", "--author", "Test <test@example.com>")
