"""The claim the project stands on, measured on the bundled model: keys need more precision than values."""

import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench.quality import measure, windows
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair


@pytest.fixture(scope="module")
def measured():
    weights = Weights(LoadOptions(demo.MODEL))
    tokens = weights.tokenize(demo.SMOKE_TEXT.read_text(), add_special=False, parse_special=False)
    pairs = {f"K{k}V{v}": CachePair.from_bits(k, v) for k, v in ((8, 8), (8, 4), (4, 8), (4, 4))}
    found = measure(weights, list(pairs.values()), windows(tokens, 2048, 3))
    weights.close()
    return {name: found[pair] for name, pair in pairs.items()}


def test_keys_need_more_precision_than_values(measured):
    kl = {name: divergence.kl.mean() for name, divergence in measured.items()}
    print({name: round(value, 5) for name, value in kl.items()})
    assert 0 < kl["K8V8"] < kl["K8V4"] < kl["K4V8"]
    assert kl["K4V8"] <= 1.05 * kl["K4V4"]  # the values' share is small beside the keys', so nearly a tie
    assert kl["K4V8"] >= 3 * kl["K8V4"]


def test_top_one_agreement_follows(measured):
    same = {name: divergence.same_top.mean() for name, divergence in measured.items()}
    assert same["K8V8"] > same["K8V4"] > same["K4V8"] > 0.5


def test_all_pairs_are_compared_with_the_same_f16(measured):
    assert len({divergence.perplexity_f16 for divergence in measured.values()}) == 1
    assert {len(divergence.kl) for divergence in measured.values()} == {3 * 1023}
