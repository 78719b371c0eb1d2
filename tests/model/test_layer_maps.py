"""A cache type for each layer: what llama.cpp makes of a map, and what the plugin says of it."""

import numpy as np
import pytest

from llm_kvsplit import demo, fit, registry
from llm_kvsplit.engine import layer_types
from llm_kvsplit.engine.context import Context, ContextError, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.errors import KvsplitError
from llm_kvsplit.kvtypes import CachePair, LayerMap
from llm_kvsplit.sessions import recall
from tests.support.ggufs import write_deepseek2, write_gemma2, write_lfm2, write_llama, write_mamba

from .test_gguf_architectures import gemma3, gemma4

F16, K8V8, K8V4, K4V8 = (CachePair.from_bits(*bits) for bits in ((16, 16), (8, 8), (8, 4), (4, 8)))

#: Sliding windows make two caches, gemma4's last layers use others', lfm2 has layers without one.
MODELS = {
    "demo": lambda path: path.write_bytes(demo.MODEL.read_bytes()),
    "llama": lambda path: write_llama(path, n_layer=3, n_head=4, n_head_kv=1, n_embd=256),
    "gemma2": lambda path: write_gemma2(path, window=64),
    "gemma3": gemma3,
    "gemma4": gemma4,
    "lfm2": write_lfm2,
}


@pytest.fixture(params=MODELS, scope="module")
def weights(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    MODELS[request.param](path)
    weights = Weights(LoadOptions(path))
    yield weights
    weights.close()


def alternating(n_layer, *pairs):
    return LayerMap.of([pairs[i % len(pairs)] for i in range(n_layer)])


def tokens_of(weights, count):
    return [int(token) for token in np.random.default_rng(0).integers(0, 256, count)]


def greedy(context, tokens, n=8):
    """The logits after ``tokens``, and after each of ``n`` that follow."""
    context.evaluate(tokens)
    rows = []
    for _ in range(n):
        row = context.lib.llama_get_logits(context.pointer)
        rows.append(np.ctypeslib.as_array(row, (context.weights.n_vocab,)).copy())
        context.evaluate([int(rows[-1].argmax())])
    return np.array(rows)


@pytest.fixture
def open_context(weights):
    opened = []

    def make(cache, n_ctx=512, **options):
        opened.append(Context(weights, ContextOptions(cache, n_ctx, 2, **options)))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


@pytest.mark.parametrize("pair", [F16, K8V8, K8V4, K4V8], ids=str)
def test_the_same_pair_in_all_layers_is_that_pair(weights, open_context, pair):
    tokens = tokens_of(weights, 300)
    mapped, plain = open_context(LayerMap.of([pair] * weights.header.n_layer)), open_context(pair)
    assert mapped.kv_size == plain.kv_size and mapped.kv_size.bytes
    assert np.array_equal(greedy(mapped, tokens), greedy(plain, tokens))


def test_bytes_are_those_of_the_layers(weights, open_context):
    """Each cell of each layer in its own type: of two maps, one is what the other is not."""
    n_layer = weights.header.n_layer
    one, other = open_context(alternating(n_layer, K8V4, K8V8)), open_context(alternating(n_layer, K8V8, K8V4))
    parts = [open_context(pair).kv_size for pair in (K8V4, K8V8)]
    assert one.kv_size.bytes + other.kv_size.bytes == sum(part.bytes for part in parts)
    assert one.kv_size.f16_bytes == parts[0].f16_bytes
    if not weights.n_swa and not weights.hybrid:
        assert one.kv_size.bytes == one.options.cache.bytes(one.n_ctx, weights.values_per_layer)
        assert one.kv_size.bytes != other.kv_size.bytes or n_layer % 2 == 0


def test_a_mixed_map_is_as_near_to_f16_as_its_types_are(weights, open_context):
    """A layer whose queries were turned and whose keys were not would be far off."""
    tokens = tokens_of(weights, 300)
    f16, coarse, mixed = (
        greedy(open_context(cache), tokens, 1)
        for cache in (F16, K8V4, alternating(weights.header.n_layer, K8V8, F16, K8V4))
    )
    assert not np.array_equal(mixed, f16) and not np.array_equal(mixed, coarse)
    print(np.square(mixed - f16).sum(), np.square(coarse - f16).sum())
    assert np.square(mixed - f16).sum() < 2 * np.square(coarse - f16).sum()


def test_a_restored_state_is_the_one_stored(weights, open_context):
    tokens = tokens_of(weights, 300)
    layer_map = alternating(weights.header.n_layer, K8V8, F16, K8V4)
    first, second = open_context(layer_map), open_context(layer_map)
    first.evaluate(tokens)
    state = first.state()
    assert second.restore(state, tokens)
    assert np.array_equal(second.state(), state)
    # A window's cells stand elsewhere in the new context, and their sums are rounded in another order.
    tolerance = 2e-3 if weights.n_swa else 0
    np.testing.assert_allclose(greedy(second, [65]), greedy(first, [65]), rtol=0, atol=tolerance)


def test_another_map_does_not_take_the_state(weights, open_context):
    tokens = tokens_of(weights, 300)
    first = open_context(alternating(weights.header.n_layer, K8V8, F16, K8V4))
    first.evaluate(tokens)
    state = first.state()
    for other in (alternating(weights.header.n_layer, F16, K8V4, K8V8), F16):
        context = open_context(other)
        assert not context.restore(state, tokens) and context.tokens == []
        greedy(context, [65], 2)


def test_stored_states_are_found_by_their_map(user_path):
    weights = Weights(LoadOptions(demo.MODEL))
    n_layer, tokens = weights.header.n_layer, tokens_of(weights, 64)

    def found(cache):
        return recall.find(weights, ContextOptions(cache, 512, 2), tokens, 512)

    context = Context(weights, ContextOptions(LayerMap.parse("0-1:8/8,rest:8/4"), 512, 2))
    context.evaluate(tokens)
    assert recall.deferred_save(context, "m", "c")() is not None
    assert found(LayerMap.parse(f"0:8/8,1:8/8,2-{n_layer - 1}:8/4"))  # the same, written otherwise
    for other in (K8V4, K8V8, LayerMap.parse("0:8/8,rest:8/4"), LayerMap.parse("1-2:8/8,rest:8/4")):
        assert found(other) is None
    context.close()
    weights.close()


def test_a_grown_context_keeps_its_map(weights, open_context):
    tokens = tokens_of(weights, 200)
    context = open_context(alternating(weights.header.n_layer, K8V8, K8V4), n_ctx=256)
    context.evaluate(tokens)
    before = context.state()
    context.grow(512)
    assert context.tokens == tokens and np.array_equal(context.state(), before)


def test_the_next_context_has_no_map(weights, open_context):
    mapped = open_context(alternating(weights.header.n_layer, K8V8, K8V4))
    assert open_context(F16).kv_size.bytes == mapped.kv_size.f16_bytes


def test_a_map_is_used_up_by_a_context_that_cannot_be_made(weights, open_context):
    with pytest.raises(ContextError, match="flash_attn"):
        open_context(LayerMap.parse("0:16/4"), flash_attn=False)
    plain = open_context(F16, flash_attn=False)
    assert plain.kv_size.bytes == plain.kv_size.f16_bytes


def test_a_layer_that_is_not_there(weights, open_context):
    n_layer = weights.header.n_layer
    with pytest.raises(
        layer_types.Refused, match=f"names layer {n_layer}, and the model has layers 0 to {n_layer - 1}"
    ):
        open_context(LayerMap.parse(f"0-{n_layer}:8/8"))


def test_what_fit_says_is_what_is_allocated(weights, open_context):
    layer_map = alternating(weights.header.n_layer, K8V8, K8V4)
    with fit.simulation(weights.options) as simulated:
        assert fit.footprint(simulated, layer_map, 512).kv == open_context(layer_map).kv_size.bytes


def test_latent_attention_wants_the_same_on_both_sides(tmp_path):
    weights = Weights(LoadOptions(write_deepseek2(tmp_path / "latent.gguf")))
    n_layer = weights.header.n_layer
    with pytest.raises(ContextError, match="layer 0 cannot have different K"):
        Context(weights, ContextOptions(LayerMap.of([K8V4] * n_layer), 256))
    context = Context(weights, ContextOptions(alternating(n_layer, K8V8, F16), 256))
    assert np.isfinite(greedy(context, tokens_of(weights, 100))).all()
    context.close()
    weights.close()


def test_a_model_without_a_cache(tmp_path):
    weights = Weights(LoadOptions(write_mamba(tmp_path / "mamba.gguf")))
    with pytest.raises(layer_types.Refused, match="has no KV cache"):
        Context(weights, ContextOptions(LayerMap.parse("0:8/8"), 256))
    weights.close()


@pytest.mark.feature("layers")
def test_an_answer_with_a_map(llm, logged):
    llm("-m", "kvsplit-demo", "-o", "kv_layers", "0-1:8/8,rest:8/4", "-o", "max_tokens", "2", "Hello")
    cache = logged()["response_json"]["kv_cache"]
    assert (cache["key_type"], cache["value_type"]) == ("q8_0", "mixed")
    assert cache["layers"] == "0-1:K8V8,rest:K8V4"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("0-99:8/8", "names layer 99"),
        ("0-3:8/7", "16, 8, 6, 5, 4, 3, not 7"),
        ("0-3:8/8,2:8/4", "layer 2 is named twice"),
    ],
)
def test_what_is_no_map_of_the_model(llm, text, words):
    line = llm("-m", "kvsplit-demo", "-o", "kv_layers", text, "x", code=1).stderr.strip()
    assert words in line and "\n" not in line
    assert words in llm("kvsplit", "add", str(demo.MODEL), "--name", "m", "--kv-layers", text, code=1).stderr


def test_what_o_says_goes_before_what_is_registered(user_path):
    from llm_kvsplit.options import Options, effective_settings

    entry = registry.Entry("m", demo.MODEL, kv_key_bits=8, kv_value_bits=4, kv_layers="0:8/8")

    def cache(**options):
        return str(effective_settings(Options(**options), entry).cache)

    assert cache() == "0:K8V8,rest:K8V4"
    assert cache(kv_value_bits=8) == "K8V8"
    assert cache(kv_layers="1:4/4") == "1:K4V4,rest:K8V4"
    assert cache(kv_layers="1:4/4", kv_key_bits=16) == "1:K4V4,rest:K16V4"
    with pytest.raises(KvsplitError, match="needs flash attention"):
        cache(flash_attn=False)
