"""Run as a program: what llama-cpp-python's own bindings make of a prompt with media, greedily.

MODEL PROJECTOR TOKENS PROMPT FILE… : the prompt has libmtmd's marker for each file. The library is the one that
LLAMA_CPP_LIB_PATH and MTMD_CPP_LIB name; what is written goes to stdout as bytes.
"""

import ctypes
import sys

import llama_cpp
from llama_cpp import mtmd_cpp


def main(model_path: str, projector_path: str, n_tokens: str, prompt: str, *files: str) -> None:
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 2048, 2048, 2, 2
    context = llama_cpp.llama_init_from_model(model, params)
    projector = mtmd_cpp.mtmd_init_from_file(projector_path.encode(), model, mtmd_cpp.mtmd_context_params_default())
    options = mtmd_cpp.mtmd_helper_init_opt_default()
    bitmaps = [mtmd_cpp.mtmd_helper_bitmap_init_from_file(projector, file.encode(), False, options) for file in files]
    text = prompt.encode()
    given = mtmd_cpp.mtmd_input_text(text=text, text_len=len(text), add_special=False, parse_special=True)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    array = (mtmd_cpp.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
    assert mtmd_cpp.mtmd_tokenize(projector, chunks, ctypes.byref(given), array, len(bitmaps)) == 0
    past = llama_cpp.llama_pos(0)
    assert mtmd_cpp.mtmd_helper_eval_chunks(projector, context, chunks, 0, 0, 2048, True, ctypes.byref(past)) == 0
    sampler = llama_cpp.llama_sampler_init_greedy()
    vocab = llama_cpp.llama_model_get_vocab(model)
    for position in range(past.value, past.value + int(n_tokens)):
        token = llama_cpp.llama_sampler_sample(sampler, context, -1)
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            break
        piece = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(vocab, token, piece, 64, 0, False)
        sys.stdout.buffer.write(piece.raw[:size])
        tokens, positions = (llama_cpp.llama_token * 1)(token), (llama_cpp.llama_pos * 1)(position)
        batch = llama_cpp.llama_batch_get_one(tokens, 1)  # which points to them
        batch.pos = positions
        assert llama_cpp.llama_decode(context, batch) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
