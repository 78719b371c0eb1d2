"""The search of a map: exact on the damage that was predicted, and within its bytes."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import F16, IQ4_NL, Q3_NL, Q4_0, Q5_1, Q8_0, TYPES, CachePair, LayerMap
from llm_kvsplit.tune import goal, knapsack, prediction, sides
from llm_kvsplit.tune.sides import Side

#: Up to five items with one to four choices each: (bytes, damage).
ITEMS = st.lists(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 1000)), min_size=1, max_size=4), min_size=1, max_size=5
)


def every_choice(items):
    """Bytes and damage of each way to choose, by brute force."""
    return [(sum(cost for cost, _ in choice), sum(harm for _, harm in choice)) for choice in itertools.product(*items)]


def split(items, factor=1):
    costs = [[factor * cost for cost, _ in item] for item in items]
    return costs, [[float(harm) for _, harm in item] for item in items]


def totals(items, choices):
    chosen = [item[at] for item, at in zip(items, choices)]
    return sum(cost for cost, _ in chosen), sum(harm for _, harm in chosen)


@settings(deadline=None)
@given(ITEMS, st.integers(0, 320), st.sampled_from([1, 6, 1024]))
def test_no_choice_within_the_bytes_does_less(items, budget, factor):
    choices = knapsack.frontier(*split(items, factor)).best(budget * factor)
    fitting = [harm for cost, harm in every_choice(items) if cost <= budget]
    if not fitting:
        assert choices is None
    else:
        cost, harm = totals(items, choices)
        assert cost <= budget and harm == min(fitting)


@settings(deadline=None)
@given(ITEMS, st.integers(0, 5000))
def test_no_choice_within_the_limit_is_smaller(items, limit):
    choices = knapsack.frontier(*split(items)).smallest(limit)
    fitting = [cost for cost, harm in every_choice(items) if harm <= limit]
    if not fitting:
        assert choices is None
    else:
        cost, harm = totals(items, choices)
        assert harm <= limit and cost == min(fitting)


def test_many_bytes_without_a_common_unit_stay_within_the_budget():
    """More steps than are counted in: rounded up, so nothing is too large, and little is given away."""
    costs = [[10_000_019 + 7 * i, 5_000_011 + 3 * i] for i in range(40)]
    damages = [[0.0, 1.0 + i] for i in range(40)]
    solved = knapsack.frontier(costs, damages)
    assert len(solved.least) < 1 << 17
    budget = 300_000_000
    choices = solved.best(budget)
    cost = sum(row[at] for row, at in zip(costs, choices))
    # By hand: 19 items can be coarse at the cost of the smallest damages, or the budget is missed.
    assert cost <= budget and sum(row[at] for row, at in zip(damages, choices)) <= sum(range(1, 22))


def of_layers(n_layer, values=192 * 256):
    return [Side(layer, name, values) for layer in range(n_layer) for name in "kv"]


def test_bytes_of_a_map_are_those_of_its_layers():
    every = of_layers(4)
    for cache in (CachePair(Q8_0, Q4_0), LayerMap.parse("0-1:8/8,2:6/3,rest:8/4")):
        as_map = LayerMap.of(cache.pairs(4))
        assert sides.bytes_of(every, cache) == as_map.bytes(256, ([192] * 4, [192] * 4))


def test_a_map_of_sides_leaves_the_others_in_f16():
    every = of_layers(3)
    layer_map = sides.layer_map(3, {every[2]: Q3_NL, every[5]: Q8_0})
    assert str(layer_map) == "0:f16,1:K3V16,2:K16V8"


@pytest.mark.parametrize(
    ("text", "share"),
    [("41%", 0.41), ("6.5bits", 6.5 / 16), ("4 bits", 0.25), ("40.625%", 6.5 / 16), ("384KiB", 0.5), ("1 bit", None)],
)
def test_budgets(text, share):
    every = of_layers(4)
    f16 = sides.bytes_of(every, CachePair(F16, F16))
    assert f16 == 768 * 1024
    if share is None:
        with pytest.raises(KvsplitError, match="less than q3_nl takes in all layers"):
            goal.of(text, None, every, TYPES)
    else:
        assert goal.of(text, None, every, TYPES).budget == int(f16 * share)


def test_without_a_goal_it_is_as_large_as_k8v4():
    every = of_layers(4)
    asked = goal.of(None, None, every, TYPES)
    assert asked.budget == sides.bytes_of(every, CachePair(Q8_0, Q4_0)) == sides.bytes_of(every, asked.pair)


@pytest.mark.parametrize(
    ("budget", "limit", "words"),
    [
        ("10%", 0.1, "two goals"),
        ("100%", None, "has room for the f16 cache"),
        ("1TiB", None, "has room for the f16 cache"),
        ("0%", None, "less than q3_nl"),
        ("much", None, "is no share, bits or size"),
        ("-3%", None, "is no share, bits or size"),
        ("nan%", None, "is no share, bits or size"),
        ("1e3%", None, "is no share, bits or size"),
        ("", None, "is no share, bits or size"),
        (None, 0.0, "must be more than 0"),
        (None, float("nan"), "must be more than 0"),
        (None, float("inf"), "must be more than 0"),
    ],
)
def test_what_is_no_goal(budget, limit, words):
    with pytest.raises(KvsplitError, match=words) as raised:
        goal.of(budget, limit, of_layers(4), TYPES)
    assert "\n" not in str(raised.value)


ERRORS = {F16: 0.0, Q8_0: 0.1, Q5_1: 4.0, IQ4_NL: 16.0, Q4_0: 20.0, Q3_NL: 64.0}


def plan(n_layer=2):
    return prediction.Plan(n_layer, tuple(of_layers(n_layer)), tuple(ERRORS))


def measured_of(per_side, whole):
    """What a model does whose every side was given, and whose sums are ``whole``."""

    def damage(cache):
        if isinstance(cache, CachePair):
            return whole["k" if cache.k is not F16 else "v", (cache.k if cache.k is not F16 else cache.v)]
        (place,) = [
            (layer, name)
            for layer, pair in enumerate(cache.pairs(2))
            for name in "kv"
            if getattr(pair, name) is not F16
        ]
        return per_side[place]

    return damage


def test_prediction_is_the_share_of_a_side_times_what_all_do():
    per_side = {(0, "k"): 0.03, (1, "k"): 0.01, (0, "v"): 0.001, (1, "v"): 0.001}
    whole = {("k", IQ4_NL): 0.016, ("k", Q3_NL): 0.1, ("v", IQ4_NL): 0.004, ("v", Q3_NL): 0.01}
    assert plan().probe is Q3_NL and plan().finer is IQ4_NL
    first, values, second, _ = prediction.damages(plan(), measured_of(per_side, whole), [ERRORS] * 4)
    assert first[Q3_NL] + second[Q3_NL] == pytest.approx(0.1) and first[Q3_NL] == pytest.approx(0.075)
    # Finer types follow the squared error from the finer of the two that were measured.
    assert first[IQ4_NL] == pytest.approx(0.012) and first[Q5_1] == pytest.approx(0.003)
    assert first[Q4_0] == pytest.approx(0.015) and first[F16] == 0
    assert values[Q3_NL] == pytest.approx(0.005)


def test_rows_that_bear_a_type_worse_than_others():
    """Values of layer 0 that 3 bits suit badly: what 4 bits do to them is less than their share in 3 bits says."""
    per_side = {(0, "k"): 0.01, (1, "k"): 0.01, (0, "v"): 0.003, (1, "v"): 0.001}
    whole = {("k", IQ4_NL): 0.01, ("k", Q3_NL): 0.04, ("v", IQ4_NL): 0.001, ("v", Q3_NL): 0.004}
    errors = [ERRORS, {**ERRORS, Q3_NL: 192.0}, ERRORS, ERRORS]
    _, first, _, second = prediction.damages(plan(), measured_of(per_side, whole), errors)
    assert (first[Q3_NL], second[Q3_NL]) == (pytest.approx(0.003), pytest.approx(0.001))
    assert first[IQ4_NL] == pytest.approx(second[IQ4_NL]) == pytest.approx(0.0005)


def test_a_side_whose_damage_drowned_in_noise_is_not_free():
    per_side = {(0, "k"): 0.03, (1, "k"): -0.001, (0, "v"): -0.001, (1, "v"): 0.0}
    whole = {("k", IQ4_NL): 0.016, ("k", Q3_NL): 0.1, ("v", IQ4_NL): -0.002, ("v", Q3_NL): 0.01}
    first, values, second, others = prediction.damages(plan(), measured_of(per_side, whole), [ERRORS] * 4)
    assert 0 < second[Q3_NL] < first[Q3_NL] and second[Q3_NL] + first[Q3_NL] == pytest.approx(0.1)
    assert values[Q3_NL] == others[Q3_NL] == pytest.approx(0.005)
    assert values[Q8_0] >= 0


def test_what_is_measured_first():
    caches = list(map(str, plan().caches()))
    assert caches == [
        "Kiq4_nlV16",
        "K3V16",
        "K16Viq4_nl",
        "K16V3",
        "0:K3V16,1:f16",
        "0:K16V3,1:f16",
        "0:f16,1:K3V16",
        "0:f16,1:K16V3",
    ]
