"""The statistics of predictions, on numbers of which the answer is known."""

import pytest

from llm_kvsplit.bench.quality import windows


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

    from llm_kvsplit.bench.quality import quantile

    value, low, high = quantile(np.arange(10001.0), 0.999)
    assert value == pytest.approx(9990) and 9980 < low < value < high <= 10000


def test_a_text_that_is_too_short_is_told_with_the_numbers():
    from llm_kvsplit.errors import KvsplitError

    with pytest.raises(KvsplitError, match="has 10 tokens, and 3 x 4 are needed"):
        windows(list(range(10)), 4, 3)
