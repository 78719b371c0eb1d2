"""Rounding one layer in an f16 cache, against caches that llama.cpp really quantizes, and heads against its softmax."""

import numpy as np
import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import attention, layers, quality
from llm_kvsplit.engine import rows
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.tap import Tap
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import F16, IQ4_NL, Q3_NL, Q4_0, Q5_1, Q6_0, Q8_0, CachePair
from tests.support.ggufs import write_deepseek2, write_gemma2, write_mamba

N_CTX = 512


@pytest.fixture(scope="module")
def weights():
    weights = Weights(LoadOptions(demo.MODEL, use_extra_bufts=False))
    yield weights
    weights.close()


@pytest.fixture(scope="module")
def tokens(weights):
    return weights.tokenize(demo.SMOKE_TEXT.read_text(), add_special=True, parse_special=False)


@pytest.mark.parametrize(
    ("pair", "side", "cache_type"),
    [
        ("q4_0/f16", "k", Q4_0),
        ("f16/q4_0", "v", Q4_0),
        ("f16/iq4_nl", "v", IQ4_NL),
        ("q6_0/f16", "k", Q6_0),
        ("f16/q3_nl", "v", Q3_NL),
    ],
)
def test_rounding_every_layer_is_a_quantized_cache(weights, tokens, pair, side, cache_type):
    pair = CachePair.parse(pair)
    texts = quality.windows(tokens, N_CTX, 4)
    really = quality.measure(weights, [pair], texts)[pair].kl.mean()
    rounding = layers.Rounding(weights, N_CTX, None)
    found = []
    for window in texts:
        plain, _ = rounding.run(window, (), cache_type)
        ours, _ = rounding.run(window, [(layer, side) for layer in rounding.layers], cache_type)
        found.append(quality.divergences(ours, plain)[:-1].mean())
    rounding.context.close()
    # Over a quantized cache a CPU multiplies bytes or bf16, which 6 bits show beside their own error.
    assert np.mean(found) == pytest.approx(really, rel=0.1, abs=2e-4)


def test_nothing_rounded_changes_nothing(weights, tokens):
    rounding = layers.Rounding(weights, N_CTX, None)
    plain, outputs = rounding.run(tokens[:N_CTX], (), Q4_0)
    again, same = rounding.run(tokens[:N_CTX], (), Q4_0)
    rounding.context.close()
    assert np.array_equal(plain, again)
    assert all(np.array_equal(outputs[name], same[name]) for name in outputs)


def test_a_layer_changes_itself_and_what_is_above_it(weights, tokens):
    rounding = layers.Rounding(weights, N_CTX, None)
    _, before = rounding.run(tokens[:N_CTX], (), Q4_0)
    _, after = rounding.run(tokens[:N_CTX], [(3, "v")], Q4_0)
    rounding.context.close()
    changed = [not np.array_equal(before[f"kqv_out-{layer}"], after[f"kqv_out-{layer}"]) for layer in range(6)]
    assert changed == [False, False, False, True, True, True]


def test_more_bits_do_less(weights, tokens):
    kl = [
        layers.measure(weights, tokens, 256, 1, None, cache_type=cache_type)["rows"][2]["k"]["kl"]
        for cache_type in (F16, Q8_0, Q5_1, Q4_0)
    ]
    assert kl[0] == pytest.approx(0, abs=1e-9)
    assert kl[0] < kl[1] < kl[2] < kl[3]


def test_gemma2_can_be_measured_by_layers(tmp_path):
    weights = Weights(LoadOptions(write_gemma2(tmp_path / "g.gguf", window=64), use_extra_bufts=False))
    found = layers.measure(weights, list(range(200)) * 2, 256, 1, None)
    assert all(row[side]["error"] > 0 for row in found["rows"] for side in ("k", "v"))
    weights.close()


@pytest.mark.parametrize("write", [write_deepseek2, write_mamba])
def test_what_has_no_keys_and_values_of_its_own_is_told(tmp_path, write):
    weights = Weights(LoadOptions(write(tmp_path / "m.gguf"), use_extra_bufts=False))
    with pytest.raises(KvsplitError, match="leave out --layers"):
        layers.measure(weights, list(range(200)) * 2, 256, 1, None)
    weights.close()


def test_attention_is_llama_cpps_own_softmax(weights, tokens):
    found = attention.patterns(weights, CachePair.from_bits(16, 16), tokens[:96], None)
    tap = Tap({f"kq_soft_max-{layer}" for layer in range(6)})
    context = Context(weights, ContextOptions(CachePair.from_bits(16, 16), 96, flash_attn=False), tap)
    context.evaluate(tokens[:96])
    theirs = np.stack([tap.values[f"kq_soft_max-{layer}"].reshape(4, 96, -1)[:, :, :96] for layer in range(6)])
    context.close()
    assert np.abs(found - theirs).max() < 0.005


def test_quantized_keys_move_attention(weights, tokens):
    found = attention.measure(weights, tokens[:96], None)
    for head in found["heads"]:
        assert 0 < head["moved"]["K8V4"] < head["moved"]["K4V8"] < 1
        kept = attention.unpack(head["patterns"]["f16"])
        exact = attention.patterns(weights, CachePair.from_bits(16, 16), tokens[:96], None)[head["layer"], head["head"]]
        assert np.abs(kept - exact).max() < 0.005


@pytest.mark.parametrize("cache_type", [Q8_0, Q5_1, Q4_0])
def test_the_rows_of_a_state_are_what_was_stored(weights, tokens, cache_type):
    pair = CachePair(cache_type, cache_type)
    context = Context(weights, ContextOptions(pair, 256, flash_attn=True))
    context.evaluate(tokens[:100])
    state = rows.of_context(context)
    context.close()
    plain = Context(weights, ContextOptions(CachePair.from_bits(16, 16), 256, flash_attn=True))
    plain.evaluate(tokens[:100])
    exact = rows.of_context(plain)
    plain.close()
    # The lowest layer gets the same input: its rows are f16's, turned and rounded.
    for side, ours, theirs in (("k", exact.k[0], state.k[0]), ("v", exact.v[0], state.v[0])):
        turned = rows.rotated(rows.values(ours), rows.rotation(64, keys=side == "k"))
        error = np.linalg.norm(rows.values(theirs) - turned) / np.linalg.norm(turned)
        assert 0 < error < 3 * 2.0**-cache_type.bits
