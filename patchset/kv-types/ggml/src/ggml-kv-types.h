#pragma once

// Types of a KV cache, for values that a Hadamard matrix has turned (llama-kv-cache.cpp): they come close to normal ones.
//
//   q6_0   6.5  bits: 32 values in 6 bits and a scale, as in q5_0
//   q3_nl  3.25 bits: 32 values that are one of 8 levels, and a scale of 8 bits
//
// Their numbers lie far behind GGML_TYPE_COUNT, where upstream counts on. Files with arrays by type include this.

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// an array by type, and a check of a type, reach as far as these types
#define GGML_TYPE_COUNT GGML_TYPE_KV_COUNT

GGML_API void quantize_row_q6_0_ref (const float * x, block_q6_0  * y, int64_t k);
GGML_API void quantize_row_q3_nl_ref(const float * x, block_q3_nl * y, int64_t k);

GGML_API void dequantize_row_q6_0 (const block_q6_0  * x, float * y, int64_t k);
GGML_API void dequantize_row_q3_nl(const block_q3_nl * x, float * y, int64_t k);

GGML_API size_t quantize_q6_0 (const float * src, void * dst, int64_t nrows, int64_t n_per_row, const float * imatrix);
GGML_API size_t quantize_q3_nl(const float * src, void * dst, int64_t nrows, int64_t n_per_row, const float * imatrix);

#define GGML_KV_TYPE_TRAITS                                                 \
    [GGML_TYPE_Q6_0] = {                                                    \
        .type_name                = "q6_0",                                 \
        .blck_size                = QK_KV,                                  \
        .type_size                = sizeof(block_q6_0),                     \
        .is_quantized             = true,                                   \
        .to_float                 = (ggml_to_float_t) dequantize_row_q6_0,  \
        .from_float_ref           = (ggml_from_float_t) quantize_row_q6_0_ref, \
    },                                                                      \
    [GGML_TYPE_Q3_NL] = {                                                   \
        .type_name                = "q3_nl",                                \
        .blck_size                = QK_KV,                                  \
        .type_size                = sizeof(block_q3_nl),                    \
        .is_quantized             = true,                                   \
        .to_float                 = (ggml_to_float_t) dequantize_row_q3_nl, \
        .from_float_ref           = (ggml_from_float_t) quantize_row_q3_nl_ref, \
    },

#ifdef __cplusplus
}
#endif
