"""Which tree is built: the whole series, some of it, or upstream's own."""

from kvsplit_patch.series import patchset, trees
from tests.support.release import HERE, fetch


def names(source):
    return [patch["name"] for patch in source.patches]


def test_exact_leaves_out_what_stands_on_a_patch_that_changes_every_result():
    fetch(HERE)
    numerics = {patch.name: patch.header.changes_numerics for patch in patchset.load().patches}
    assert numerics["cpu-attention-decode"] == ("all",) and numerics["cpu-attention-simd"] == ()
    left = names(trees.exact())
    assert not [name for name in left if name.startswith("cpu-attention")]
    assert {"marker", "kvq-args", "amx-tile-config", "metal-mixed-kv", "amx-read-ahead", "rpc-errors"} <= set(left)
    # kv-types changes a file of theirs, and these name its types.
    assert not {"kv-types", "metal-kv-types", "rpc-kv-types", "cuda-mixed-kv", "cuda-kv-store", "cuda-rotation"} & set(
        left
    )


def test_through_ends_at_a_patch():
    fetch(HERE)
    order = patchset.load().names()
    source = trees.through("cpu-attention-prefill")
    assert names(source) == order[: order.index("cpu-attention-prefill") + 1]
    assert (source.folder / "ggml/src/ggml-cpu/fattn/prefill.cpp").is_file()
    assert not (source.folder / "ggml/src/ggml-cpu/fattn/read-ahead.h").exists()
