#include "kv-types.h"

#include "ggml-kv-types-impl.h"
#include "quants.h"

#include <assert.h>

void quantize_row_q6_0(const float * x, void * y, int64_t k) {
    assert(k % QK_KV == 0);
    for (int64_t i = 0; i < k/QK_KV; ++i) {
        ggml_kv_quantize_block_q6_0(x + i*QK_KV, (block_q6_0 *) y + i);
    }
}

void quantize_row_q3_nl(const float * x, void * y, int64_t k) {
    assert(k % QK_KV == 0);
    for (int64_t i = 0; i < k/QK_KV; ++i) {
        ggml_kv_quantize_block_q3_nl(x + i*QK_KV, (block_q3_nl *) y + i);
    }
}

// attention has kernels of its own (fattn/); these are for products without it, and for fewer keys than it takes

static inline float ggml_kv_vec_dot_q8_0(enum ggml_type type, int n, const void * vx, const void * vy) {
    const block_q6_0  * x6 = (const block_q6_0  *) vx;
    const block_q3_nl * x3 = (const block_q3_nl *) vx;
    const block_q8_0  * y  = (const block_q8_0  *) vy;
    assert(n % QK_KV == 0);
    float sum = 0.0f;
    for (int i = 0; i < n/QK_KV; ++i) {
        int dot = 0;
        for (int j = 0; j < QK_KV; ++j) {
            dot += (type == GGML_TYPE_Q6_0 ? ggml_kv_int_q6_0(x6 + i, j) : ggml_kv_int_q3_nl(x3 + i, j))*y[i].qs[j];
        }
        const float d = type == GGML_TYPE_Q6_0 ? GGML_FP16_TO_FP32(x6[i].d) : ggml_kv_scale_q3_nl(x3[i].d);
        sum += d*GGML_FP16_TO_FP32(y[i].d)*dot;
    }
    return sum;
}

void ggml_vec_dot_q6_0_q8_0(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    assert(nrc == 1);
    *s = ggml_kv_vec_dot_q8_0(GGML_TYPE_Q6_0, n, vx, vy);
    GGML_UNUSED(bs);
    GGML_UNUSED(bx);
    GGML_UNUSED(by);
    GGML_UNUSED(nrc);
}

void ggml_vec_dot_q3_nl_q8_0(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    assert(nrc == 1);
    *s = ggml_kv_vec_dot_q8_0(GGML_TYPE_Q3_NL, n, vx, vy);
    GGML_UNUSED(bs);
    GGML_UNUSED(bx);
    GGML_UNUSED(by);
    GGML_UNUSED(nrc);
}
