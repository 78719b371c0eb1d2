"""Write the trained demo model as a GGUF file that llama.cpp loads.

python convert.py --weights model.npz --tokenizer data/tokenizer.json --out kvsplit-demo.gguf
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
from prepare import END_OF_TEXT, PRE_TOKENIZER


def add_metadata(writer: gguf.GGUFWriter, shape: dict) -> None:
    writer.add_name("kvsplit-demo")
    writer.add_description("5.5M weights, trained on CPython's library and documentation: a toy for tests")
    writer.add_license("PSF-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(shape["vocab"])
    writer.add_context_length(shape["context"])
    writer.add_block_count(shape["layers"])
    writer.add_embedding_length(shape["width"])
    writer.add_feed_forward_length(shape["ff"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(shape["rope_base"])
    writer.add_layer_norm_rms_eps(shape["norm_eps"])


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    """The BPE as llama.cpp wants it: tokens in id order, merges as "left right"."""
    bpe = json.loads(path.read_text("utf-8"))["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    kinds = [gguf.TokenType.CONTROL if t == END_OF_TEXT else gguf.TokenType.NORMAL for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    # The separator ends every training document and so also stands before the next: one token for both.
    end = bpe["vocab"][END_OF_TEXT]
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def convert(weights: Path, tokenizer: Path, out: Path) -> None:
    arrays = dict(np.load(weights))
    shape = json.loads(str(arrays.pop("shape")))
    writer = gguf.GGUFWriter(out, "llama")
    add_metadata(writer, shape)
    add_tokenizer(writer, tokenizer)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="train.py's output")
    parser.add_argument("--tokenizer", type=Path, required=True, help="prepare.py's tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    convert(args.weights, args.tokenizer, args.out)
    print(hashlib.sha256(args.out.read_bytes()).hexdigest(), args.out)


if __name__ == "__main__":
    main()
