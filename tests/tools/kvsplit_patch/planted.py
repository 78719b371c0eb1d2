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
        ("ggml_new_tensor_3d(ctx, type_k, n_embd_k_gqa, kv_size", "ggml_new_tensor_3d(ctx, TYPE_V, n_embd_k_gqa, kv_size"),
        ("ggml_new_tensor_3d(ctx, type_v, n_embd_v_gqa, kv_size", "ggml_new_tensor_3d(ctx, type_k, n_embd_v_gqa, kv_size"),
        ("ggml_new_tensor_3d(ctx, TYPE_V, n_embd_k_gqa, kv_size", "ggml_new_tensor_3d(ctx, type_v, n_embd_k_gqa, kv_size"),
    ),
)
V_WITH_K_BLOCKS = Fault(
    "v-with-k-blocks",
    "ggml/src/ggml-cpu/ops.cpp",
    (
        (
            "const char * v_data = ((const char *) v->data + (ic*nbv1 + iv2*nbv2 + iv3*nbv3));",
            "const char * v_data = ((const char *) v->data + (ic*nbk1 + iv2*nbv2 + iv3*nbv3));",
        ),
    ),
)
SCALES_DROPPED = Fault(
    "scales-dropped",
    "ggml/src/ggml-quants.c",
    (
        (
            "    static const int qk = QK4_0;\n\n    assert(k % qk == 0);\n\n    const int nb = k / qk;\n\n"
            "    for (int i = 0; i < nb; i++) {\n        const float d = GGML_FP16_TO_FP32(x[i].d);",
            "    static const int qk = QK4_0;\n\n    assert(k % qk == 0);\n\n    const int nb = k / qk;\n\n"
            "    for (int i = 0; i < nb; i++) {\n        const float d = 1.0f;",
        ),
    ),
)
ROTATION_OFF_FOR_V = Fault(
    "rotation-off-for-v",
    "src/llama-kv-cache.cpp",
    (("        attn_rot_v =\n            !attn_rot_disable &&", "        attn_rot_v =\n            false &&"),),
)
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
