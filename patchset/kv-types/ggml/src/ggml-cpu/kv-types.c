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

void ggml_vec_dot_q6_0_q8_0(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    const block_q6_0 * x = (const block_q6_0 *) vx;
    const block_q8_0 * y = (const block_q8_0 *) vy;
    assert(n % QK_KV == 0 && nrc == 1);
    GGML_UNUSED(nrc);
    GGML_UNUSED(bx);
    GGML_UNUSED(by);
    GGML_UNUSED(bs);
    float sum = 0.0f;
    for (int i = 0; i < n/QK_KV; ++i) {
        int dot = 0;
        for (int j = 0; j < QK_KV; ++j) {
            dot += ggml_kv_int_q6_0(x + i, j)*y[i].qs[j];
        }
        sum += GGML_FP16_TO_FP32(x[i].d)*GGML_FP16_TO_FP32(y[i].d)*dot;
    }
    *s = sum;
}

void ggml_vec_dot_q3_nl_q8_0(int n, float * s, size_t bs, const void * vx, size_t bx, const void * vy, size_t by, int nrc) {
    const block_q3_nl * x = (const block_q3_nl *) vx;
    const block_q8_0  * y = (const block_q8_0  *) vy;
    assert(n % QK_KV == 0 && nrc == 1);
    GGML_UNUSED(nrc);
    GGML_UNUSED(bx);
    GGML_UNUSED(by);
    GGML_UNUSED(bs);
    float sum = 0.0f;
    for (int i = 0; i < n/QK_KV; ++i) {
        int dot = 0;
        for (int j = 0; j < QK_KV; ++j) {
            dot += ggml_kv_int_q3_nl(x + i, j)*y[i].qs[j];
        }
        sum += ggml_kv_scale_q3_nl(x[i].d)*GGML_FP16_TO_FP32(y[i].d)*dot;
    }
    *s = sum;
}
