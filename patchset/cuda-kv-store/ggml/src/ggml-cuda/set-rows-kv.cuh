#pragma once

#include "common.cuh"

// SET_ROWS into the quantized types of a KV cache, with a warp for each block of 32 values.

bool ggml_cuda_set_rows_kv_supported(const ggml_tensor * dst);

void ggml_cuda_set_rows_kv(ggml_backend_cuda_context & ctx, ggml_tensor * dst);
