"""What llama.cpp allocates for models whose layers are not all alike, to the byte."""

import numpy
import pytest
from gguf import GGUFWriter, TokenType

from llm_kvsplit import gguf
from llm_kvsplit.engine.context import Context, ContextOptions
from llm_kvsplit.engine.log_lines import KvSize
from llm_kvsplit.engine.weights import LoadOptions, Weights
from llm_kvsplit.kvtypes import CachePair
from tests.support.ggufs import byte_alphabet

#: The context is no longer than a window and a batch, up to which layers with a sliding window are allocated in full.
N_EMBD, N_FF, N_CTX = 128, 256, 1024


def write(path, arch, dims, kv_heads, norms, own, extra):
    """Random weights for a model with 2 heads of ``dims[i]`` and ``kv_heads[i]`` KV heads in layer i.

    ``norms`` are each layer's own; ``extra(i)`` gives more tensors of layer i as name -> shape, -1 for the whole model.
    """
    writer = GGUFWriter(path, arch)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(len(dims))
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(2)
    writer.add_head_count_kv(kv_heads if len(set(kv_heads)) > 1 else kv_heads[0])
    writer.add_key_length(max(dims))
    writer.add_value_length(max(dims))
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in own.items():
        add = {list: writer.add_array, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(f"{arch}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_alphabet(), "<eos>"])
    writer.add_token_types([TokenType.NORMAL] * 256 + [TokenType.CONTROL])
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)

    shapes = {"token_embd": (257, N_EMBD), **extra(-1)}
    for i, (dim, heads) in enumerate(zip(dims, kv_heads, strict=True)):
        layer = dict.fromkeys(("attn_norm", "ffn_norm", *norms), (N_EMBD,)) | extra(i)
        if heads:
            layer |= {"attn_q": (2 * dim, N_EMBD), "attn_output": (N_EMBD, 2 * dim)}
            layer |= dict.fromkeys(("attn_k", "attn_v"), (heads * dim, N_EMBD))
        layer |= {"ffn_gate": (N_FF, N_EMBD), "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    random = numpy.random.default_rng(0)
    for name, shape in shapes.items():
        kind = numpy.float32 if len(shape) == 1 or "conv.conv" in name else numpy.float16
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.02, shape).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gemma3(path):
    """A sliding window on five layers of six."""

    def extra(i):
        return {"output_norm": (N_EMBD,)} if i < 0 else {"attn_q_norm": (64,), "attn_k_norm": (64,)}

    norms = ("post_attention_norm", "post_ffw_norm")
    write(path, "gemma3", [64] * 7, [1] * 7, norms, {"attention.sliding_window": 512}, extra)


def gemma4(path):
    """Windowed layers with heads of another size, and two last layers that read the cache of earlier ones."""
    dims = [64, 128] * 3

    def extra(i):
        if i < 0:
            return {"output_norm": (N_EMBD,), "rope_freqs": (64,)}
        return {"attn_q_norm": (dims[i],), "attn_k_norm": (dims[i],), "layer_output_scale": (1,)}

    own = {
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": [True, False] * 3,
        "attention.key_length_swa": 64,
        "attention.value_length_swa": 64,
        "attention.shared_kv_layers": 2,
        "embedding_length_per_layer_input": 0,
        "rope.freq_base_swa": 1e4,
        "rope.dimension_count": 128,
        "rope.dimension_count_swa": 64,
    }
    write(path, "gemma4", dims, [1] * 6, ("post_attention_norm", "post_ffw_norm"), own, extra)


def lfm2(path):
    """Convolutions in every second layer, which have no KV cache."""
    kv_heads = [0, 1, 0, 1]

    def extra(i):
        if i < 0:
            return {"token_embd_norm": (N_EMBD,)}
        if kv_heads[i]:
            return {"attn_q_norm": (64,), "attn_k_norm": (64,)}
        conv = {"conv": (N_EMBD, 3), "in_proj": (3 * N_EMBD, N_EMBD), "out_proj": (N_EMBD, N_EMBD)}
        return {f"shortconv.{name}": shape for name, shape in conv.items()}

    write(path, "lfm2", [64] * 4, kv_heads, (), {"shortconv.l_cache": 3}, extra)


def nanbeige(path):
    """Two rounds through its layers."""

    def extra(i):
        return {"output_norm": (N_EMBD,), "output": (257, N_EMBD)} if i < 0 else {}

    write(path, "nanbeige", [64] * 2, [1] * 2, (), {"num_loops": 2, "rope.dimension_count": 64}, extra)


#: Values that a token has as keys, and as many as values, over all layers with a cache of their own.
VALUES = {gemma3: 7 * 64, gemma4: 2 * (64 + 128), lfm2: 2 * 64, nanbeige: 2 * 2 * 64}


@pytest.mark.parametrize("make", VALUES)
def test_bytes_of_a_cache_of_several_parts_are_exact(tmp_path, make):
    path = tmp_path / "model.gguf"
    make(path)
    assert sum(layer.n_head_kv * layer.head_dim_k for layer in gguf.read(path).layers) == VALUES[make]
    weights = Weights(LoadOptions(path))
    try:
        for bits in ((16, 16), (8, 4), (4, 8), (5, 5)):
            pair = CachePair.from_bits(*bits)
            context = Context(weights, ContextOptions(pair, N_CTX))
            try:
                bytes_of_a_token = VALUES[make] * (pair.k.bits_per_value + pair.v.bits_per_value) / 8
                assert context.kv_size == KvSize(N_CTX * bytes_of_a_token, N_CTX * VALUES[make] * 4)
            finally:
                context.close()
    finally:
        weights.close()
