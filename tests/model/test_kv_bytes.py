"""The bytes that llama.cpp allocates for a cache, against the published table."""

import pytest

from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import BITS, CachePair
from tests.support.ggufs import write_llama


@pytest.fixture(scope="module")
def tinyllama_shape(tmp_path_factory):
    """The cache shape of TinyLlama-1.1B (22 layers, 4 KV heads of dim 64) on otherwise small random weights."""
    path = tmp_path_factory.mktemp("gguf") / "shape.gguf"
    write_llama(path, n_layer=22, n_embd=256, n_head=4, n_head_kv=4, n_ctx=8192)
    weights = Weights(LoadOptions(path))
    yield weights
    weights.close()


@pytest.mark.parametrize(
    ("key_bits", "value_bits", "mib"),
    [(16, 16, 176.00), (8, 8, 93.50), (8, 4, 71.50), (4, 8, 71.50), (4, 4, 49.50)],
)
def test_the_published_table(tinyllama_shape, key_bits, value_bits, mib):
    pair = CachePair.from_bits(key_bits, value_bits)
    context = Context(tinyllama_shape, ContextOptions(pair, 8192))
    try:
        assert context.kv_size.bytes == mib * 2**20
        assert context.kv_size.f16_bytes == 176 * 2**20
    finally:
        context.close()


#: Tokens -> MiB of f16, K8V8, K8V4, K4V8, K4V4. 128 tokens get 256 cells: llama.cpp pads a context to a multiple of that.
SHORTER = {
    128: (5.50, 2.92, 2.23, 2.23, 1.55),
    2048: (44, 23.38, 17.88, 17.88, 12.38),
    4096: (88, 46.75, 35.75, 35.75, 24.75),
}


@pytest.mark.parametrize("n_ctx", SHORTER)
def test_the_shorter_rows_of_the_published_table(tinyllama_shape, n_ctx):
    for bits, mib in zip(((16, 16), (8, 8), (8, 4), (4, 8), (4, 4)), SHORTER[n_ctx]):
        context = Context(tinyllama_shape, ContextOptions(CachePair.from_bits(*bits), n_ctx))
        try:
            assert context.kv_size.bytes / 2**20 == pytest.approx(mib, abs=0.006)
        finally:
            context.close()


@pytest.mark.parametrize("n_ctx", [256, 512, 2048])
@pytest.mark.parametrize("key_bits", BITS)
@pytest.mark.parametrize("value_bits", BITS)
def test_small_caches_to_the_byte(tinyllama_shape, key_bits, value_bits, n_ctx):
    pair = CachePair.from_bits(key_bits, value_bits)
    context = Context(tinyllama_shape, ContextOptions(pair, n_ctx))
    try:
        values = 22 * 4 * 64 * n_ctx
        assert context.kv_size.bytes == values * (pair.k.bits_per_value + pair.v.bits_per_value) / 8
    finally:
        context.close()
