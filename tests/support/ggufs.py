"""Small GGUF models made for the tests: real files, run by the real llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in byte order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    spare = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(spare)) for b in range(256)]


def write_llama(
    path: Path,
    *,
    n_layer: int = 2,
    n_embd: int = 128,
    n_head: int = 2,
    n_head_kv: int = 2,
    head_dim: int | None = None,
    n_ctx: int = 512,
    specials: tuple[str, ...] = (),
    user_tokens: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    chat_template: str | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    seed: int = 0,
    pooling: PoolingType | None = None,
    add_bos: bool = False,
    add_eos: bool = False,
) -> Path:
    """A llama-architecture GGUF with a byte vocabulary and random f16 weights, some of them given.

    ``specials`` are control tokens, ``user_tokens`` are matched as a whole in any text; ids follow the 256 bytes and
    ``<eos>``, in that order. ``words`` are further tokens, in the alphabet's letters, which only the model writes.
    ``tensors`` replaces weights by name. ``add_bos`` and ``add_eos``: the header wants ``<eos>`` before, or behind, a text.
    """
    head_dim = head_dim or n_embd // n_head
    n_ff = 2 * n_embd
    n_vocab = 257 + len(specials) + len(user_tokens) + len(words)
    writer = _byte_writer(
        path,
        "llama",
        n_ctx=n_ctx,
        n_embd=n_embd,
        n_layer=n_layer,
        specials=specials,
        user_tokens=user_tokens,
        words=words,
        add_bos=add_bos,
    )
    writer.add_add_eos_token(add_eos)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    if pooling is not None:
        writer.add_pooling_type(pooling)

    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> None:
        given = (tensors or {}).get(name)
        value = random.normal(0, 0.02, shape) if given is None else given
        writer.add_tensor(name, value.astype(np.float32 if len(shape) == 1 else np.float16))

    weight("token_embd.weight", n_vocab, n_embd)
    weight("output.weight", n_vocab, n_embd)
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    for i in range(n_layer):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(n_embd, np.float32))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", np.ones(n_embd, np.float32))
        weight(f"blk.{i}.attn_q.weight", n_head * head_dim, n_embd)
        weight(f"blk.{i}.attn_k.weight", n_head_kv * head_dim, n_embd)
        weight(f"blk.{i}.attn_v.weight", n_head_kv * head_dim, n_embd)
        weight(f"blk.{i}.attn_output.weight", n_embd, n_head * head_dim)
        weight(f"blk.{i}.ffn_gate.weight", n_ff, n_embd)
        weight(f"blk.{i}.ffn_up.weight", n_ff, n_embd)
        weight(f"blk.{i}.ffn_down.weight", n_embd, n_ff)
    return _finish(writer, path)


def _byte_writer(
    path: Path,
    architecture: str,
    *,
    n_ctx: int,
    n_embd: int,
    n_layer: int,
    specials: tuple[str, ...] = (),
    user_tokens: tuple[str, ...] = (),
    words: tuple[str, ...] = (),
    add_bos: bool = False,
) -> GGUFWriter:
    """A writer with the size of the model and a vocabulary of bytes."""
    writer = GGUFWriter(path, architecture)
    writer.add_name(path.stem)
    writer.add_file_type(1)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*byte_alphabet(), "<eos>", *specials, *user_tokens, *words])
    controls = [TokenType.CONTROL] * (1 + len(specials))
    texts = [TokenType.USER_DEFINED] * len(user_tokens) + [TokenType.NORMAL] * len(words)
    writer.add_token_types([TokenType.NORMAL] * 256 + controls + texts)
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    writer.add_add_bos_token(add_bos)
    return writer


def _add_layer(writer: GGUFWriter, random, i: int, norms: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
    """Layer ``i``: norms of one, by width, and random f16 weights, by shape."""
    for name, width in norms.items():
        writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(width, np.float32))
    for name, shape in shapes.items():
        writer.add_tensor(f"blk.{i}.{name}.weight", random.normal(0, 0.05, shape).astype(np.float16))


def _finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_scripted(path: Path, scripts: dict[str, list[str]], *, chat_template: str | None = None, **shape) -> Path:
    """A model that recites: after the token ``key`` it says ``scripts[key]``, token by token, then ends.

    Embeddings are one-hot, attention and feed-forward add nothing, and the output matrix maps each token to the one
    that follows, so the answer is a matter of weights and is computed as any other.
    """
    keys = tuple(scripts)
    said = tuple(dict.fromkeys(token for script in scripts.values() for token in script))
    tokens = [*byte_alphabet(), "<eos>", *keys, *said]
    n_embd = -(-len(tokens) // 64) * 64
    token_id = {token: i for i, token in enumerate(tokens)}
    embeddings = np.eye(len(tokens), n_embd)
    output = np.zeros((len(tokens), n_embd))
    followed: dict[str, str] = {}
    for key, script in scripts.items():
        for before, after in zip([key, *script], [*script, "<eos>"]):
            assert followed.setdefault(before, after) == after, f"{before!r} is followed by two tokens"
            output[token_id[after], token_id[before]] = 1
    for token in tokens:
        if token not in followed:
            output[256, token_id[token]] = 1
    n_layer = shape.setdefault("n_layer", 1)
    zero = {f"blk.{i}.attn_output.weight": np.zeros((n_embd, n_embd)) for i in range(n_layer)}
    zero |= {f"blk.{i}.ffn_down.weight": np.zeros((n_embd, 2 * n_embd)) for i in range(n_layer)}
    return write_llama(
        path,
        n_embd=n_embd,
        n_head=n_embd // 64,
        n_head_kv=n_embd // 64,
        specials=keys,
        user_tokens=said,
        chat_template=chat_template,
        tensors={"token_embd.weight": embeddings, "output.weight": output, **zero},
        **shape,
    )


#: A plain chat template: each message behind its role, then the assistant's turn, told apart after a tool's result.
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[call {{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "{% endfor %}{% if tools %}[tools {{ tools | map(attribute='function.name') | join(',') }}]{% endif %}"
    "{% if messages[-1].role == 'tool' %}<after-tool>{% else %}<answer>{% endif %}"
)


def write_gemma2(path: Path, *, window: int, n_ctx: int = 2048, seed: int = 0) -> Path:
    """A gemma2-architecture GGUF with random weights: every second layer sees a sliding window only."""
    n_layer, n_embd, n_head, head_dim, n_ff = 4, 128, 2, 64, 256
    writer = _byte_writer(path, "gemma2", n_ctx=n_ctx, n_embd=n_embd, n_layer=n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(window)
    random = np.random.default_rng(seed)
    shapes = {
        "attn_q": (n_head * head_dim, n_embd),
        "attn_k": (n_head * head_dim, n_embd),
        "attn_v": (n_head * head_dim, n_embd),
        "attn_output": (n_embd, n_head * head_dim),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    norms = dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), n_embd)
    writer.add_tensor("token_embd.weight", random.normal(0, 0.05, (257, n_embd)).astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    for i in range(n_layer):
        _add_layer(writer, random, i, norms, shapes)
    return _finish(writer, path)


def write_mamba(path: Path, *, n_ctx: int = 2048, seed: int = 0) -> Path:
    """A mamba-architecture GGUF with random weights: a recurrent state that cannot go back."""
    n_layer, n_embd, n_inner, n_conv, n_state, n_rank = 2, 64, 128, 4, 16, 8
    writer = _byte_writer(path, "mamba", n_ctx=n_ctx, n_embd=n_embd, n_layer=n_layer)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    writer.add_layer_norm_rms_eps(1e-5)
    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int, dtype=np.float16) -> None:
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(dtype))

    weight("token_embd.weight", 257, n_embd)
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    for i in range(n_layer):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(n_embd, np.float32))
        weight(f"blk.{i}.ssm_in.weight", 2 * n_inner, n_embd)
        weight(f"blk.{i}.ssm_conv1d.weight", n_inner, n_conv, dtype=np.float32)
        weight(f"blk.{i}.ssm_conv1d.bias", n_inner, dtype=np.float32)
        weight(f"blk.{i}.ssm_x.weight", n_rank + 2 * n_state, n_inner)
        weight(f"blk.{i}.ssm_dt.weight", n_inner, n_rank, dtype=np.float32)
        weight(f"blk.{i}.ssm_dt.bias", n_inner, dtype=np.float32)
        writer.add_tensor(f"blk.{i}.ssm_a", -np.exp(random.normal(0, 0.3, (n_inner, n_state))).astype(np.float32))
        writer.add_tensor(f"blk.{i}.ssm_d", np.ones(n_inner, np.float32))
        weight(f"blk.{i}.ssm_out.weight", n_embd, n_inner)
    return _finish(writer, path)


def write_deepseek2(path: Path, *, n_ctx: int = 4096, seed: int = 0) -> Path:
    """A deepseek2-architecture GGUF with random weights and dense layers: multi-head latent attention."""
    n_layer, n_embd, n_head, n_ff = 3, 128, 4, 256
    q_rank, kv_rank, rope, nope, value = 96, 128, 32, 32, 32
    writer = _byte_writer(path, "deepseek2", n_ctx=n_ctx, n_embd=n_embd, n_layer=n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(1)
    writer.add_key_length(kv_rank + rope)
    writer.add_value_length(kv_rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(value)
    writer.add_q_lora_rank(q_rank)
    writer.add_kv_lora_rank(kv_rank)
    writer.add_rope_dimension_count(rope)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_leading_dense_block_count(n_layer)
    writer.add_expert_feed_forward_length(n_ff)
    writer.add_expert_shared_count(0)
    random = np.random.default_rng(seed)
    norms = {"attn_norm": n_embd, "attn_q_a_norm": q_rank, "attn_kv_a_norm": kv_rank, "ffn_norm": n_embd}
    shapes = {
        "attn_q_a": (q_rank, n_embd),
        "attn_q_b": (n_head * (nope + rope), q_rank),
        "attn_kv_a_mqa": (kv_rank + rope, n_embd),
        "attn_k_b": (n_head, kv_rank, nope),
        "attn_v_b": (n_head, value, kv_rank),
        "attn_output": (n_embd, n_head * value),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    writer.add_tensor("token_embd.weight", random.normal(0, 0.05, (257, n_embd)).astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    for i in range(n_layer):
        _add_layer(writer, random, i, norms, shapes)
    return _finish(writer, path)


def write_lfm2(path: Path, *, n_ctx: int = 2048, seed: int = 0) -> Path:
    """An lfm2-architecture GGUF with random weights: layers of attention and of short convolutions take turns."""
    n_embd, n_head, head_dim, n_ff, kernel = 128, 2, 64, 256, 3
    heads_kv = [0, 1, 0, 1]
    writer = _byte_writer(path, "lfm2", n_ctx=n_ctx, n_embd=n_embd, n_layer=len(heads_kv))
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(heads_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_shortconv_l_cache(kernel)
    random = np.random.default_rng(seed)
    dense = {"ffn_gate": (n_ff, n_embd), "ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff)}
    attention = {
        "attn_q": (n_embd, n_embd),
        "attn_k": (head_dim, n_embd),
        "attn_v": (head_dim, n_embd),
        "attn_output": (n_embd, n_embd),
    }
    convolution = {"shortconv.in_proj": (3 * n_embd, n_embd), "shortconv.out_proj": (n_embd, n_embd)}
    writer.add_tensor("token_embd.weight", random.normal(0, 0.05, (257, n_embd)).astype(np.float16))
    writer.add_tensor("token_embd_norm.weight", np.ones(n_embd, np.float32))
    for i, n_head_kv in enumerate(heads_kv):
        norms = {"attn_norm": n_embd, "ffn_norm": n_embd}
        if n_head_kv:
            norms |= {"attn_q_norm": head_dim, "attn_k_norm": head_dim}
        else:
            taps = random.normal(0, 0.5, (n_embd, kernel)).astype(np.float32)
            writer.add_tensor(f"blk.{i}.shortconv.conv.weight", taps)
        _add_layer(writer, random, i, norms, dense | (attention if n_head_kv else convolution))
    return _finish(writer, path)
