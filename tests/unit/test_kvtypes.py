"""Bits and cache types."""

import re

import pytest

from llm_kvsplit.kvtypes import (
    BITS,
    IQ4_NL,
    LADDER,
    Q4_0,
    TYPES,
    USUAL,
    CachePair,
    LayerMap,
    from_bits,
    on_library,
    parse,
)


def test_unknown_bits_name_the_known_ones():
    with pytest.raises(ValueError, match="16, 8, 6, 5, 4, 3, not 7"):
        from_bits(7)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0-3:8/8,4-29:8/4", "0-3:K8V8,4-29:K8V4"),
        (" 4 - 29 : K8V4 , 0-3:q8_0/q8_0", "0-3:K8V8,4-29:K8V4"),
        ("5:f16", "5:f16"),
        ("0-3:8,rest:q8_0/4", "0-3:K8V8,rest:K8V4"),
        ("rest:16", "rest:f16"),
        ("0:q8_0/q4_0,1:K8Viq4_nl,rest:q5_0", "0:K8Vq4_0,1:K8Viq4_nl,rest:Kq5_0Vq5_0"),
    ],
)
def test_a_layer_map_is_read_and_written(text, canonical):
    layer_map = LayerMap.parse(text)
    assert str(layer_map) == canonical and LayerMap.parse(canonical) == layer_map
    assert parse(canonical) == layer_map


def test_layers_that_a_map_does_not_name_take_the_rest():
    k8v8, k8v4, f16 = (CachePair.from_bits(*bits) for bits in ((8, 8), (8, 4), (16, 16)))
    assert LayerMap.parse("1:8/8").pairs(3) == (f16, k8v8, f16)
    assert LayerMap.parse("1:8/8", k8v4).pairs(3) == (k8v4, k8v8, k8v4)
    assert LayerMap.parse("1:8/8,rest:16/16", k8v4).pairs(3) == (f16, k8v8, f16)
    assert LayerMap.of([k8v4, k8v8, k8v8]).pairs(3) == (k8v4, k8v8, k8v8)
    assert str(LayerMap.of([k8v4, k8v8, k8v8])) == "0:K8V4,1-2:K8V8"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("0-3", "'0-3' is not layers:pair"),
        ("0-3:8/8,", "'' is not layers:pair"),
        ("a:8/8", "'a:8/8' is not layers:pair"),
        ("-1:8/8", "'-1:8/8' is not layers:pair"),
        ("3-1:8/4", "'3-1:8/4' ends before it begins"),
        ("0-3:8/7", "16, 8, 6, 5, 4, 3, not 7"),
        ("0-3:8/", "16, 8, 6, 5, 4, 3, not nothing"),
        ("0-3:8/8,3:8/4", "layer 3 is named twice"),
        ("rest:8/8,rest:8/4", "the rest is named twice"),
        ("99999999:8/8", "is not layers:pair"),
    ],
)
def test_what_is_no_layer_map(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        LayerMap.parse(text)


def test_a_layer_that_the_model_lacks():
    with pytest.raises(ValueError, match="it names layer 30, and the model has layers 0 to 29"):
        LayerMap.parse("4-30:8/4").pairs(30)


def test_bytes_of_a_map_are_those_of_its_layers():
    layer_map = LayerMap.parse("0-1:8/8,2:8/4,rest:4/4")
    keys, values = [64, 64, 128, 64], [64, 64, 64, 0]
    expected = 256 * (2 * (64 * 34 + 64 * 34) + (128 * 34 + 64 * 18) + 64 * 18) // 32
    assert layer_map.bytes(256, (keys, values)) == expected


def test_a_map_is_quantized_where_a_layer_is():
    assert not LayerMap.parse("0:16/16").quantized
    assert LayerMap.parse("0:8/16").quantized and not LayerMap.parse("0:8/16").quantized_values
    assert LayerMap.parse("rest:16/4").quantized_values


def test_the_usual_pairs_need_no_build():
    assert {str(pair) for pair in LADDER} >= {"K6V5", "K6V4", "K6V3", "K5V4"}
    assert not any(pair.features for pair in USUAL)


def test_types_of_the_series_have_numbers_that_upstream_does_not_reach():
    own = [cache for cache in BITS.values() if cache.feature]
    assert [(cache.name, cache.bits_per_value) for cache in own] == [("q6_0", 6.5), ("q3_nl", 3.25)]
    assert all(cache.ggml_id >= 500 for cache in own)
    assert CachePair.from_bits(8, 3).features == {"kv-types"}
    assert CachePair.from_bits(5, 4).features == set()
    assert LayerMap.parse("0:8/8,1:3/8").features == {"kv-types"}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("8/4", "K8V4"),
        ("q8_0/q4_0", "K8Vq4_0"),
        ("Q8_0/IQ4_NL", "K8Viq4_nl"),
        ("16/iq4_nl", "K16Viq4_nl"),
        ("kq5_0v4", "Kq5_0V4"),
        ("f16/16", "f16"),
    ],
)
def test_a_pair_by_bits_or_by_names(text, canonical):
    assert str(CachePair.parse(text)) == canonical
    assert CachePair.parse(canonical) == CachePair.parse(text)


def test_every_type_has_a_name_that_is_read():
    for key in TYPES:
        for value in TYPES:
            pair = CachePair.parse(f"{key.name}/{value.name}")
            assert [side.ggml_id for side in pair.types] == [key.ggml_id, value.ggml_id]
            assert CachePair.parse(str(pair)) == pair


def test_only_4_bits_by_number_are_what_the_library_says():
    asked = LayerMap.parse("0:8/4,1:4/q4_0,rest:iq4_nl/4")
    stored = on_library(asked, IQ4_NL)
    names = [[side.name for side in pair.types] for pair in stored.pairs(3)]
    assert names == [["q8_0", "iq4_nl"], ["iq4_nl", "q4_0"], ["iq4_nl", "iq4_nl"]]
    assert on_library(CachePair.from_bits(8, 4), Q4_0).v == Q4_0
    assert stored.bytes(256, ([64] * 3, [64] * 3)) == asked.bytes(256, ([64] * 3, [64] * 3))


def test_a_pair_of_both_sides_alike_is_not_mixed():
    assert not CachePair.parse("4/q4_0").mixed and CachePair.parse("iq4_nl/q4_0").mixed


def test_options_of_a_pair_say_what_was_asked_for():
    assert CachePair.parse("8/4").options() == {"kv_key_bits": "8", "kv_value_bits": "4"}
    assert CachePair.parse("8/q4_0").options() == {"kv_key_bits": "8", "kv_value_type": "q4_0"}
