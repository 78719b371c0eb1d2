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


def test_intervals_hold_the_true_mean_though_neighbours_are_alike():
    import numpy as np

    from llm_kvsplit.bench.quality import _interval

    random, held = np.random.default_rng(0), 0
    for _ in range(300):
        noise = random.normal(size=4096)
        for i in range(1, len(noise)):
            noise[i] += 0.7 * noise[i - 1]
        _, low, high = _interval(noise)
        held += low < 0 < high
    assert 0.90 < held / 300 < 0.99


def test_a_quantile_lies_in_its_interval():
    import numpy as np

    from llm_kvsplit.bench.quality import _quantile

    value, low, high = _quantile(np.arange(10001.0), 0.999)
    assert value == pytest.approx(9990) and 9980 < low < value < high <= 10000


def test_a_text_that_is_too_short_is_told_with_the_numbers():
    from llm_kvsplit.errors import KvsplitError

    with pytest.raises(KvsplitError, match="has 10 tokens, and 3 x 4 are needed"):
        windows(list(range(10)), 4, 3)
