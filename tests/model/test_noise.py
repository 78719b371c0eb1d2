"""Damage is told from the noise of roundings: with weights of any type it is what the same cache does to f16 weights."""

import numpy as np
import pytest

from llm_kvsplit import demo
from llm_kvsplit.bench import noise, quality
from llm_kvsplit.bench.quality import F16
from llm_kvsplit.bench.summary import LARGEST_DAMAGE
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.tap import Tap
from llm_kvsplit.engine.weights import LoadOptions, Weights, quantize
from llm_kvsplit.kvtypes import CachePair
from tests.support.ggufs import write_deepseek2, write_mamba

N_CTX, WINDOWS = 512, 6
PAIRS = {f"K{k}V{v}": CachePair.from_bits(k, v) for k, v in ((8, 8), (8, 4), (4, 8), (4, 4))}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The bundled model with its own f16 weights, and with those in q8_0."""
    path = tmp_path_factory.mktemp("weights") / "q8_0.gguf"
    quantize(demo.MODEL, path)
    made = {"f16": Weights(LoadOptions(demo.MODEL)), "q8_0": Weights(LoadOptions(path, use_extra_bufts=False))}
    yield made
    for weights in made.values():
        weights.close()


def texts(weights):
    tokens = weights.tokenize(demo.SMOKE_TEXT.read_text(), add_special=True, parse_special=False)
    return quality.windows(tokens, N_CTX, WINDOWS)


@pytest.fixture(scope="module")
def measured(models):
    """By type of the weights, by pair: summaries."""
    found = {}
    for kind, weights in models.items():
        divergences = quality.measure(weights, [F16, *PAIRS.values()], texts(weights))
        found[kind] = {str(pair): divergence.summary() for pair, divergence in divergences.items()}
    return found


def contrast(weights, others):
    """Mean KL divergence from f16 by name, of contexts that are made here and closed here."""
    contexts = {None: Context(weights, ContextOptions(F16, N_CTX)), **others}
    parts = [quality.window(contexts, text, lambda *_: _nothing()) for text in texts(weights)]
    for context in contexts.values():
        context.close()
    return {name: quality.joined(part[name] for part in parts).summary() for name in others}


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_each_attention_output_is_moved_by_a_ten_thousandth(models):
    plain = Tap({"kqv_out-0"})
    context = Context(models["f16"], ContextOptions(F16, N_CTX), plain)
    nudged = noise.nudged(models["f16"], N_CTX, None)
    for each in (context, nudged):
        each.evaluate(list(range(300)))
        each.synchronize()
    change = nudged.tap.values["kqv_out-0"] / plain.values["kqv_out-0"] - 1
    context.close()
    nudged.close()
    assert change.std() == pytest.approx(1e-4, rel=0.05)
    assert abs(change.mean()) < 1e-5


def test_a_nudge_of_nothing_changes_nothing_and_the_same_is_the_same(models):
    weights = models["q8_0"]
    of = {
        name: noise.nudged(weights, N_CTX, None, share)
        for name, share in (("none", 0.0), ("once", 1e-4), ("again", 1e-4))
    }
    found = contrast(weights, of)
    assert found["none"]["kl_mean"][0] == pytest.approx(0, abs=1e-7)
    assert found["once"] == found["again"] and found["once"]["kl_mean"][0] > 1e-5


def test_roundings_move_predictions_by_the_same_whatever_the_nudge(models):
    weights = models["q8_0"]
    found = contrast(weights, {share: noise.nudged(weights, N_CTX, None, share) for share in (1e-5, 1e-4, 1e-3)})
    kl = [each["kl_mean"][0] for each in found.values()]
    print(kl)
    assert max(kl) < 1.5 * min(kl)


def test_f16_weights_have_no_noise_to_speak_of_and_q8_0_weights_have(measured):
    noises = {kind: each["f16"]["kl_mean"][0] for kind, each in measured.items()}
    print(noises, {kind: each["K8V8"]["kl_mean"][0] for kind, each in measured.items()})
    assert noises["f16"] < 0.1 * measured["f16"]["K8V8"]["kl_mean"][0]
    assert noises["q8_0"] > 20 * noises["f16"]


@pytest.mark.parametrize("pair", PAIRS)
def test_damage_does_not_depend_on_the_weights_type(measured, pair):
    one, other = (quality.damage(each[pair], each["f16"]) for each in (measured["f16"], measured["q8_0"]))
    print(pair, one, other)
    # Within their intervals, or by less than a hundredth of what the rule allows.
    slack = LARGEST_DAMAGE / 100
    assert one[1] <= other[2] + slack and other[1] <= one[2] + slack


def test_the_order_of_damage(measured):
    for each in measured.values():
        damage = {pair: quality.damage(each[pair], each["f16"])[0] for pair in PAIRS}
        assert damage["K8V8"] < damage["K8V4"] < LARGEST_DAMAGE < damage["K4V8"]


def wrong(weights, change):
    """An f16 cache whose values are ``change``d on their way into it, as a fault of a kernel would."""
    names = {f"Vcur-{layer}" for layer in range(weights.header.n_layer)}
    tap = Tap(names)
    tap.steps, tap.changes = dict.fromkeys(names, 1), dict.fromkeys(names, change)
    return Context(weights, ContextOptions(F16, N_CTX), tap)


def test_a_kernel_that_reads_with_the_wrong_scale_does_damage(models):
    """Values read with a scale that is another row's: each block of 32 by its neighbour's largest value."""

    def another_scale(values):
        blocks = values.reshape(-1, 32)
        largest = np.abs(blocks).max(axis=1, keepdims=True) + 1e-9
        return (blocks / largest * np.roll(largest, 1, axis=0)).reshape(-1)

    for weights in models.values():
        nudged = noise.nudged(weights, N_CTX, None)
        faults = {"scale": wrong(weights, another_scale), "a tenth": wrong(weights, lambda values: 1.1 * values)}
        found = contrast(weights, {"f16": nudged, **faults})
        damage = {name: quality.damage(found[name], found["f16"]) for name in faults}
        print(damage)
        assert damage["scale"][1] > LARGEST_DAMAGE
        assert damage["a tenth"][1] > 0  # a small fault is seen above the noise


@pytest.mark.parametrize("write", [write_deepseek2, write_mamba])
def test_other_kinds_of_models_can_be_nudged(tmp_path, write):
    weights = Weights(LoadOptions(write(tmp_path / "m.gguf"), use_extra_bufts=False))
    found = quality.measure(weights, [F16], [list(range(200)) + list(range(56))])[F16]
    weights.close()
    assert np.isfinite(found.kl).all()
