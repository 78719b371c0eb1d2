"""Small GGUF models made for the tests: real files, run by the real llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType


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
    chat_template: str | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    seed: int = 0,
) -> Path:
    """A llama-architecture GGUF with a byte vocabulary and random f16 weights, some of them given.

    ``specials`` are control tokens, ``user_tokens`` are matched as a whole in any text; ids follow the 256 bytes and
    ``<eos>``, in that order. ``tensors`` replaces weights by name.
    """
    head_dim = head_dim or n_embd // n_head
    n_ff = 2 * n_embd
    vocabulary = [*byte_alphabet(), "<eos>", *specials, *user_tokens]
    types = [TokenType.NORMAL] * 256 + [TokenType.CONTROL] * (1 + len(specials)) + [TokenType.USER_DEFINED] * len(user_tokens)
    writer = GGUFWriter(path, "llama")
    writer.add_name(path.stem)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_block_count(n_layer)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(types)
    writer.add_token_merges(["! !"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(256)
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> None:
        given = (tensors or {}).get(name)
        value = random.normal(0, 0.02, shape) if given is None else given
        writer.add_tensor(name, value.astype(np.float32 if len(shape) == 1 else np.float16))

    weight("token_embd.weight", len(vocabulary), n_embd)
    weight("output.weight", len(vocabulary), n_embd)
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
