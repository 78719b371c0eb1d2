#pragma once

// Flash attention over a KV cache whose K and V are each f16 or quantized, alike or not

#include "ggml-cpu-impl.h"

#ifdef __cplusplus
extern "C" {
#endif

// whether a GGML_OP_FLASH_ATTN_EXT has the types and sizes that the functions below know
bool ggml_fattn_supported(const struct ggml_tensor * op);

// bytes of params->wdata for n_tasks threads or fewer
size_t ggml_fattn_work_size(const struct ggml_tensor * op, int n_tasks);

void ggml_compute_forward_fattn(const struct ggml_compute_params * params, struct ggml_tensor * op);

#ifdef __cplusplus
}
#endif
