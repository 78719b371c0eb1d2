"""Small projectors (mmproj) with random weights, and a language model that counts positions in two dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from .ggufs import _add_layer, _byte_writer, _finish

#: Width of the encoders, their heads and layers.
_WIDTH, _HEADS, _LAYERS = 64, 2, 2
#: Frames that a Whisper encoder has positions for: 30 seconds.
_FRAMES = 1500


def write_llava(
    path: Path, n_embd: int, *, seed: int = 0, side: int = 56, audio: bool = False, positions: int = 0
) -> Path:
    """The plainest projector for pictures (LLaVA's): (side / 14)² tokens, whatever the picture's size.

    ``n_embd``: width of the language model. ``audio``: sound as well. ``positions``: other than there are patches.
    """
    writer, random = _writer(path, vision="mlp", side=side, audio="ultravox" if audio else None), _random(seed)
    _add_encoder(writer, random, "v", positions=positions or (side // 14) ** 2)
    _add(writer, random, "v.patch_embd.weight", _WIDTH, 3, 14, 14)
    _add_linear(writer, random, "mm.0", n_embd, _WIDTH)
    _add_linear(writer, random, "mm.2", n_embd, n_embd)
    if audio:
        _add_ultravox(writer, random, n_embd)
    return _finish(writer, path)


def write_idefics3(path: Path, n_embd: int, *, seed: int = 0) -> Path:
    """SmolVLM's: a large picture becomes tiles with text between them."""
    side = 56
    writer, random = _writer(path, vision="idefics3", side=side), _random(seed)
    writer.add_uint32("clip.vision.projector.scale_factor", 2)
    writer.add_uint32("clip.vision.preproc_image_size", 2 * side)
    _add_encoder(writer, random, "v", positions=(side // 14) ** 2)
    _add(writer, random, "v.patch_embd.weight", _WIDTH, 3, 14, 14)
    _add(writer, random, "mm.model.fc.weight", n_embd, 4 * _WIDTH)
    return _finish(writer, path)


def write_qwen2vl(path: Path, n_embd: int, *, seed: int = 0) -> Path:
    """Qwen2-VL's: as many tokens as the picture is large, which take fewer positions than tokens."""
    writer, random = _writer(path, vision="qwen2vl_merger", side=560), _random(seed)
    _add_encoder(writer, random, "v", positions=0)
    _add(writer, random, "v.patch_embd.weight", _WIDTH, 3, 14, 14)
    _add(writer, random, "v.patch_embd.weight.1", _WIDTH, 3, 14, 14)
    _add_linear(writer, random, "mm.0", 4 * _WIDTH, 4 * _WIDTH)
    _add_linear(writer, random, "mm.2", n_embd, 4 * _WIDTH)
    return _finish(writer, path)


def write_ultravox(path: Path, n_embd: int, *, seed: int = 0) -> Path:
    """A projector for sound alone: Whisper's encoder, with Ultravox's way into the language model."""
    writer, random = _writer(path, audio="ultravox"), _random(seed)
    _add_ultravox(writer, random, n_embd)
    return _finish(writer, path)


def write_qwen2vl_text(path: Path, *, chat_template: str, n_ctx: int = 2048, seed: int = 0) -> Path:
    """A qwen2vl-architecture GGUF with random weights: each token has four positions (M-RoPE)."""
    n_layer, n_embd, n_head, n_ff = 2, 128, 2, 256
    writer = _byte_writer(
        path,
        "qwen2vl",
        n_ctx=n_ctx,
        n_embd=n_embd,
        n_layer=n_layer,
        specials=("<|vision_start|>", "<|vision_end|>"),
    )
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_sections([16, 8, 8, 0])
    writer.add_chat_template(chat_template)
    random = _random(seed)
    writer.add_tensor("token_embd.weight", random.normal(0, 0.05, (259, n_embd)).astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(n_embd, np.float32))
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (n_embd, n_embd))
    shapes |= {"ffn_gate": (n_ff, n_embd), "ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff)}
    for i in range(n_layer):
        _add_layer(writer, random, i, {"attn_norm": n_embd, "ffn_norm": n_embd}, shapes)
        for side in "qkv":
            writer.add_tensor(f"blk.{i}.attn_{side}.bias", np.zeros(n_embd, np.float32))
    return _finish(writer, path)


def _random(seed: int):
    return np.random.default_rng(seed)


def _writer(path: Path, *, vision: str | None = None, side: int = 0, audio: str | None = None) -> GGUFWriter:
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    for room, projector in (("vision", vision), ("audio", audio)):
        writer.add_bool(f"clip.has_{room}_encoder", projector is not None)
        if projector is None:
            continue
        writer.add_string(f"clip.{room}.projector_type", projector)
        sizes = {"embedding_length": _WIDTH, "feed_forward_length": 2 * _WIDTH, "block_count": _LAYERS}
        for key, value in {**sizes, "projection_dim": _WIDTH, "attention.head_count": _HEADS}.items():
            writer.add_uint32(f"clip.{room}.{key}", value)
        writer.add_float32(f"clip.{room}.attention.layer_norm_epsilon", 1e-5)
    if vision:
        writer.add_bool("clip.use_gelu", True)
        writer.add_uint32("clip.vision.image_size", side)
        writer.add_uint32("clip.vision.patch_size", 14)
        writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
        writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    if audio:
        writer.add_uint32("clip.audio.num_mel_bins", 80)
        writer.add_uint32("clip.audio.projector.stack_factor", 4)
    return writer


def _add_ultravox(writer: GGUFWriter, random, n_embd: int) -> None:
    _add_encoder(writer, random, "a", positions=_FRAMES)
    _add(writer, random, "a.conv1d.1.weight", _WIDTH, 80, 3)
    _add(writer, random, "a.conv1d.2.weight", _WIDTH, _WIDTH, 3)
    for i in (1, 2):  # added to rows of the other order
        writer.add_tensor(f"a.conv1d.{i}.bias", np.zeros((_WIDTH, 1), np.float32))
    _add(writer, random, "mm.a.mlp.1.weight", 2 * _WIDTH, 4 * _WIDTH)
    _add(writer, random, "mm.a.mlp.2.weight", n_embd, _WIDTH)
    writer.add_tensor("mm.a.norm_pre.weight", np.ones(4 * _WIDTH, np.float32))
    writer.add_tensor("mm.a.norm_mid.weight", np.ones(_WIDTH, np.float32))


def _add_encoder(writer: GGUFWriter, random, prefix: str, *, positions: int) -> None:
    if positions:
        writer.add_tensor(
            f"{prefix}.position_embd.weight", random.normal(0, 0.3, (positions, _WIDTH)).astype(np.float32)
        )
    for i in range(_LAYERS):
        for norm in ("ln1", "ln2"):
            _add_norm(writer, f"{prefix}.blk.{i}.{norm}")
        for name in ("attn_q", "attn_v", "attn_out"):
            _add_linear(writer, random, f"{prefix}.blk.{i}.{name}", _WIDTH, _WIDTH)
        if prefix == "v":  # Whisper's keys have no bias
            _add_linear(writer, random, f"{prefix}.blk.{i}.attn_k", _WIDTH, _WIDTH)
        else:
            _add(writer, random, f"{prefix}.blk.{i}.attn_k.weight", _WIDTH, _WIDTH)
        _add_linear(writer, random, f"{prefix}.blk.{i}.ffn_up", 2 * _WIDTH, _WIDTH)
        _add_linear(writer, random, f"{prefix}.blk.{i}.ffn_down", _WIDTH, 2 * _WIDTH)
    _add_norm(writer, f"{prefix}.post_ln")


def _add_norm(writer: GGUFWriter, name: str) -> None:
    writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor(f"{name}.bias", np.zeros(_WIDTH, np.float32))


def _add_linear(writer: GGUFWriter, random, name: str, n_out: int, n_in: int) -> None:
    _add(writer, random, f"{name}.weight", n_out, n_in)
    writer.add_tensor(f"{name}.bias", random.normal(0, 0.1, n_out).astype(np.float32))


def _add(writer: GGUFWriter, random, name: str, *shape: int) -> None:
    # Wide enough that another picture makes another answer.
    spread = 1 / np.sqrt(np.prod(shape[1:]))
    writer.add_tensor(name, random.normal(0, spread, shape).astype(np.float16))
