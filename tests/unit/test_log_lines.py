"""What single lines of llama.cpp's log say."""

import pytest

from llm_kvsplit.engine import log_lines
from llm_kvsplit.engine.log_lines import Buffers, attention_place, graph_splits


@pytest.mark.parametrize(
    ("line", "splits"),
    [
        ("sched_reserve: graph: nodes = 264, splits = 14, input objects = 4, input tensors = 7", 14),
        (
            "sched_reserve: graph (pp bs=512, tg bs=1): nodes = 264, splits = 14 / 2, input objects = 4, input tensors = 7",
            14,
        ),
        ("sched_reserve: graph: nodes = 264, parts = 14, input objects = 4", None),
        ("", None),
    ],
)
def test_splits(line, splits):
    assert graph_splits([line]) == splits


def part(*devices):
    side = log_lines.Side(("f16",), 1.0)
    return log_lines.CachePart(256, dict(enumerate(devices)), side, side)


@pytest.mark.parametrize(
    ("devices", "splits", "place"),
    [
        (["CPU"] * 6, 1, "CPU"),
        (["CPU"] * 6, None, "CPU"),  # the cache lies in the host's memory
        (["CUDA0"] * 6, 2, "GPU"),
        (["CUDA0"] * 6, 1, "GPU"),
        (["CUDA0"] * 6, 14, "CPU"),  # there and back for each layer
        (["CUDA0"] * 6, None, None),  # never a yes
        (["CUDA0"] * 6, 5, None),  # something else falls back
        (["CPU"] * 3 + ["CUDA0"] * 3, 2, None),  # here and there
        (["CUDA0"] * 3 + ["CUDA1"] * 3, 3, "GPU"),  # a part for each GPU
        (["CUDA0"] * 3 + ["CUDA1"] * 3, 4, None),
        (["CUDA0"] * 3 + ["CUDA1"] * 3, 15, "CPU"),
        ([], 2, None),  # no attention
    ],
)
def test_where_attention_runs(devices, splits, place):
    assert attention_place([part(*devices)] if devices else [], splits) == place
    assert attention_place(None, splits) is None


def test_the_parts_of_a_total_must_all_be_known():
    assert Buffers(1, 2, 3).total == 6
    assert Buffers(1, None, 3).total is None


MIXED = [
    "llama_context: constructing llama_context",
    "llama_kv_cache: layer   0: dev = CPU",
    "llama_kv_cache: layer   0: K (q8_0), V (q8_0)",
    "llama_kv_cache: layer   1: dev = CPU",
    "llama_kv_cache: layer   1: K (q8_0), V (q4_0)",
    "llama_kv_cache: size =    0.09 MiB (   256 cells,   2 layers,  1/1 seqs), K (q8_0):    0.07 MiB, V (mixed):    0.03 MiB",
]


def test_layers_of_different_types_are_counted_each():
    parts = log_lines.cache_parts(MIXED, cached=True)
    taken = 256 * (2 * 128 * 34 + 64 * 34 + 64 * 18) // 32
    assert log_lines.kv_size(parts, ([128] * 2, [64] * 2)) == log_lines.KvSize(taken, 256 * 2 * (128 + 64) * 2)


def test_without_the_types_of_each_layer_a_mixed_size_is_not_known():
    for i in (2, 4):
        assert log_lines.cache_parts(MIXED[:i] + MIXED[i + 1 :], cached=True) is None
