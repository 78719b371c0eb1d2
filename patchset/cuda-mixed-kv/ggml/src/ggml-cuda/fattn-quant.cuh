#pragma once

#include "common.cuh"
#include "convert.cuh"

// Only for NVIDIA: the code counts on warps of 32.
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
#define FATTN_QUANT_AVAILABLE
#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

// FlashAttention over a KV cache whose K and V are quantized, each in a type of its own, for few queries: K and V are read
// as they are and unpacked in registers, once for all query heads that share them.

// Whether the operation is one that ggml_cuda_flash_attn_ext_quant computes, and computes faster than the other kernels.
bool ggml_cuda_flash_attn_ext_quant_supported(int device, const ggml_tensor * dst);

void ggml_cuda_flash_attn_ext_quant(ggml_backend_cuda_context & ctx, ggml_tensor * dst);

// Whether K or V may be of this type, read as it is or converted by the functions below.
bool ggml_cuda_fattn_quant_type_supported(ggml_type type);

// For the kernels that compute with K and V in f16: the types above, 8 values a thread. For other types convert.cu's.
to_fp16_cuda_t    ggml_cuda_fattn_get_to_fp16(ggml_type type);
to_fp16_nc_cuda_t ggml_cuda_fattn_get_to_fp16_nc(ggml_type type);
