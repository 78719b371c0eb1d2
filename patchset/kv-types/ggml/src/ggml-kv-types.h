#pragma once

// Types of a KV cache, for values that a Hadamard matrix has turned (llama-kv-cache.cpp): they come close to normal ones.
//
//   q6_0   6.5  bits: 32 values in 6 bits and a scale, as in q5_0
//   q3_nl  3.25 bits: 32 values that are one of 8 levels, and a scale of 8 bits
//
// Their numbers lie far behind GGML_TYPE_COUNT, where upstream counts on. Files with arrays by type include this.

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// an array by type, and a check of a type, reach as far as these types
#define GGML_TYPE_COUNT GGML_TYPE_KV_COUNT

#define QK_KV 32

typedef struct {
    ggml_fp16_t d;       // value = d*(q - 32)
    uint8_t     qh[8];   // upper 2 bits: of values j, j + 8, j + 16, j + 24
    uint8_t     qs[16];  // lower 4 bits: of values j, j + 16
} block_q6_0;

typedef struct {
    uint8_t d;           // upper half of an f16; value = d/128*level
    uint8_t qh[4];       // upper bit of each level's number
    uint8_t qs[8];       // lower 2 bits: of values j, j + 8, j + 16, j + 24
} block_q3_nl;

// The levels with the smallest squared error for 32 normal values, their scale and its sign chosen with them (Lloyd's
// iteration). They are not symmetric: the sign of the scale says which side has the largest value.
#define GGML_KV_LEVELS_Q3_NL -127, -76, -44, -18, 7, 33, 63, 104

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
