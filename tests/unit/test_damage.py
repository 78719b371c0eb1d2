"""Damage: what quantized caches change beyond the noise of roundings."""

import numpy as np
import pytest

from llm_kvsplit.bench import quality


def test_damage_by_hand():
    cache = {"kl_mean": [3.0], "kl_blocks": [2.0, 3.0, 3.0, 4.0]}
    nudged = {"kl_mean": [1.0], "kl_blocks": [1.0, 1.0, 1.0, 1.0]}
    value, low, high = quality.damage(cache, nudged)
    assert value == 2 and value - low == pytest.approx(high - value)
    # Student's t for three degrees of freedom is 3.18.
    assert high - value == pytest.approx(3.18 * np.std([1, 2, 2, 3], ddof=1) / 2, rel=0.05)


def test_too_few_places_say_nothing():
    assert quality.damage({"kl_mean": [0.0], "kl_blocks": [0.0]}, {"kl_mean": [0.0], "kl_blocks": [0.0]})[2] == float(
        "inf"
    )
