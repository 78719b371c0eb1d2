"""What bench measures in which order, and which cache its results recommend."""

import copy
import re

import pytest

from llm_kvsplit.bench import jobs, results, subject, summary
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import USUAL


def test_the_usual_lengths_and_the_deep_ones():
    assert jobs.lengths(None) == [128, 2048, 4096, 8192]
    assert jobs.lengths(131072)[4:] == [16384, 32768, 65536, 131072]
    assert jobs.lengths(20000)[4:] == [16384]


def test_speeds_are_measured_in_turns():
    planned = list(jobs.planned(subject.named("kvsplit-demo"), list(USUAL), [128], 2, {}, layers=False))
    assert [job.name for job in planned[:6]] == [
        "f16/128/speed/0", "K8V8/128/speed/0", "K8V4/128/speed/0", "K4V8/128/speed/0", "K4V4/128/speed/0", "f16/128/speed/1",
    ]  # fmt: skip


def made(**changed):
    """Results with one length, K8V4's and K4V4's quality changed as given; f16 nudged has the same KL in every block."""
    speed = {"kv_bytes": 100, "buffer_bytes": 1, "cells": 256, "timed": dict.fromkeys(
        ("prompt_tps", "last_batch_tps", "generation_tps", "peak_bytes"), 1.0)}  # fmt: skip
    quality = {
        "ppl": 2.0, "ppl_change": [0.0, -0.1, 0.1], "kl_999": [0.1] * 3, "moved_999": [0.2] * 3, "same_top": [0.9] * 3,
    }  # fmt: skip

    def kl(*blocks):
        mean = sum(blocks) / len(blocks)
        return quality | {"kl_mean": [mean] * 3, "kl_blocks": list(blocks)}

    runs = {"f16/128/quality": kl(*[0.0035] * 8)}
    blocks = {"K8V4": [0.008] * 8, "K4V4": [0.045] * 8} | changed
    for pair, taken in (("f16", 100), ("K8V4", 41), ("K4V4", 28)):
        runs[f"{pair}/128/speed/0"] = copy.deepcopy(speed) | {"kv_bytes": taken}
        if pair != "f16":
            runs[f"{pair}/128/quality"] = kl(*blocks[pair])
    return results.Results("unused", {}, runs)


def test_the_smallest_cache_that_surely_does_little_damage_is_recommended():
    assert summary.recommended(made(), 128)["pair"] == "K8V4"
    assert "moves at least 20% of the probability" in summary.advice(made(), 128)


def test_the_noise_of_roundings_is_not_held_against_a_cache():
    assert summary.recommended(made(K8V4=[0.0125] * 8), 128)["pair"] == "K8V4"
    assert summary.recommended(made(K8V4=[0.0140] * 8), 128)["pair"] == "f16"


def test_what_cannot_be_told_is_said():
    near = made(K4V4=[0.002, 0.02] * 4)
    assert summary.recommended(near, 128)["pair"] == "K8V4"
    assert "K4V4 is smaller still, and its damage (0.00750 ± " in summary.advice(near, 128)


def test_f16_is_recommended_when_everything_does_harm():
    bad = made(K8V4=[0.02] * 8)
    assert summary.recommended(bad, 128)["pair"] == "f16"
    assert summary.advice(bad, 128).startswith("Recommended: stay with f16")


def test_layer_maps_stand_beside_pairs():
    named = subject.parse_caches("f16,8,0-1:8/8,rest:8/4,K4V4;0:8/8;1:8/8")
    assert list(map(str, named)) == ["f16", "K8V8", "0-1:K8V8,rest:K8V4", "K4V4", "0:K8V8", "1:K8V8"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8/4,0-1:8/7", "'0-1:8/7' is no layer map: cache bits must be one of"),
        ("0:8/8,0:8/4", "layer 0 is named twice"),
        ("8/4;", "'' is not a pair of cache bits"),
        ("8/4,0-1", "'0-1' is not a pair of cache bits"),
    ],
)
def test_what_is_neither_a_pair_nor_a_map(text, words):
    with pytest.raises(KvsplitError, match=re.escape(words)):
        subject.parse_caches(text)


def test_maps_come_after_pairs_and_can_be_recommended():
    mapped = made()
    for name in [name for name in mapped.runs if name.startswith("K8V4/")]:
        mapped.runs[name.replace("K8V4", "0-1:K8V8,rest:K4V4")] = mapped.runs.pop(name)
    assert mapped.pairs() == ["f16", "K4V4", "0-1:K8V8,rest:K4V4"]
    assert summary.recommended(mapped, 128)["pair"] == "0-1:K8V8,rest:K4V4"
    assert "0-1:K8V8,rest:K4V4" in summary.plain(summary.rows(mapped, 128))
