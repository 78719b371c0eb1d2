#pragma once

// What the CPU backend does with the types in ggml-kv-types.h

#include "ggml-kv-types.h"

#ifdef __cplusplus
extern "C" {
#endif

void quantize_row_q6_0 (const float * x, void * y, int64_t k);
void quantize_row_q3_nl(const float * x, void * y, int64_t k);

void ggml_vec_dot_q6_0_q8_0 (int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc);
void ggml_vec_dot_q3_nl_q8_0(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc);

#define GGML_KV_TYPE_TRAITS_CPU                          \
    [GGML_TYPE_Q6_0] = {                                 \
        .from_float               = quantize_row_q6_0,   \
        .vec_dot                  = ggml_vec_dot_q6_0_q8_0, \
        .vec_dot_type             = GGML_TYPE_Q8_0,      \
        .nrows                    = 1,                   \
    },                                                   \
    [GGML_TYPE_Q3_NL] = {                                \
        .from_float               = quantize_row_q3_nl,  \
        .vec_dot                  = ggml_vec_dot_q3_nl_q8_0, \
        .vec_dot_type             = GGML_TYPE_Q8_0,      \
        .nrows                    = 1,                   \
    },

#ifdef __cplusplus
}
#endif
