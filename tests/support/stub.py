"""Upstream's headers with something planted in them, and a library compiled with those: no llama.cpp, but its C interface.

The library fills its default structures with numbers by the names of their fields, and says whether it is given back what
the plugin means to give. Every other function of the list is exported and does nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from llm_kvsplit.builds import interface

#: Enough of a tree for its headers to be read.
FOLDERS = ("include", "ggml/include", "ggml/src", "tools/mtmd", "common")
SUFFIX = "dylib" if sys.platform == "darwin" else "so"


def headers(tree: Path, folder: Path) -> Path:
    """A copy of a tree's headers, to change."""
    for name in FOLDERS:
        for file in (tree / name).glob("*.h"):
            target = folder / name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return folder


def plant(tree: Path, file: str, old: str, new: str) -> None:
    """Replace what a pattern finds once."""
    text = (tree / file).read_text()
    assert len(re.findall(old, text)) == 1, old
    (tree / file).write_text(re.sub(old, new, text))


_REAL = """
#include "llama.h"
#include <cstring>
extern "C" {
llama_context_params llama_context_default_params() {
    llama_context_params p;
    memset(&p, 0, sizeof(p));
    p.n_ctx = 512; p.n_batch = 2048; p.n_ubatch = 512; p.n_seq_max = 1;
    p.n_threads = p.n_threads_batch = 4;
    p.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
    p.type_k = p.type_v = GGML_TYPE_F16;
    p.offload_kqv = p.swa_full = true;
    return p;
}
llama_model_params llama_model_default_params() {
    llama_model_params p;
    memset(&p, 0, sizeof(p));
    p.n_gpu_layers = -1; p.use_extra_bufts = true;
    return p;
}
llama_model_quantize_params llama_model_quantize_default_params() {
    llama_model_quantize_params p;
    memset(&p, 0, sizeof(p));
    p.ftype = LLAMA_FTYPE_MOSTLY_Q8_0; p.quantize_output_tensor = true;
    return p;
}
llama_sampler_chain_params llama_sampler_chain_default_params() { return { true }; }
// Not null when each field holds what the test puts into the field of that name.
llama_context * llama_init_from_model(llama_model * model, llama_context_params p) {
    bool right = p.n_ctx == 1024 && p.n_batch == 256 && p.n_ubatch == 128 && p.n_seq_max == 7
        && p.n_threads == 3 && p.n_threads_batch == 5 && p.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_ENABLED
        && p.type_k == GGML_TYPE_Q8_0 && p.type_v == GGML_TYPE_Q4_0 && p.offload_kqv && !p.swa_full && p.kv_unified
        && p.cb_eval && p.cb_eval((ggml_tensor *) 16, true, nullptr);
    return right ? (llama_context *) model : nullptr;
}
llama_batch llama_batch_get_one(llama_token * tokens, int32_t n) {
    llama_batch b;
    memset(&b, 0, sizeof(b));
    b.n_tokens = n; b.token = tokens;
    return b;
}
llama_batch llama_batch_init(int32_t, int32_t, int32_t) {
    static llama_token token[2]; static llama_pos pos[2]; static int32_t n[2]; static llama_seq_id id[2];
    static llama_seq_id * ids[] = { id, id + 1, nullptr }; static int8_t logits[2];
    llama_batch b = llama_batch_get_one(token, 0);
    b.pos = pos; b.n_seq_id = n; b.seq_id = ids; b.logits = logits;
    return b;
}
int32_t llama_decode(llama_context *, llama_batch b) { return b.n_tokens ? b.token[b.n_tokens - 1] : -1; }
}
"""


def library(tree: Path, folder: Path, more: tuple[str, ...] = ()) -> Path:
    """Compile it with the headers of ``tree``; its file in ``folder``. ``more``: further names to export."""
    folder.mkdir(parents=True, exist_ok=True)
    defined = set(re.findall(r"\b(llama_\w+)\([^;{}]*\) \{", _REAL))
    text = (tree / "include" / "llama.h").read_text()
    # A function that the headers have lost is none that the library exports.
    lost = {name for name in interface.FUNCTIONS if name.startswith("llama_") and not re.search(rf"\b{name}\b", text)}
    names = {*interface.FUNCTIONS, *more} - defined - lost
    (folder / "real.cpp").write_text(_REAL)
    (folder / "empty.c").write_text("".join(f"void {name}(void) {{}}\n" for name in sorted(names)))
    file = folder / f"libllama.{SUFFIX}"
    include = [f"-I{tree / name}" for name in FOLDERS]
    compiler, c = os.environ.get("CXX", "c++"), os.environ.get("CC", "cc")
    subprocess.run([c, "-fPIC", "-fno-builtin", "-w", "-c", folder / "empty.c", "-o", folder / "empty.o"], check=True)
    command = [compiler, "-std=c++17", "-O2", "-w", "-shared", "-fPIC", *include]
    subprocess.run([*command, folder / "real.cpp", folder / "empty.o", "-o", file], check=True)
    return file
