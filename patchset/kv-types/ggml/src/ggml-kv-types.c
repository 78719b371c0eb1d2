#include "ggml-kv-types-impl.h"

#include <assert.h>

void quantize_row_q6_0_ref(const float * x, block_q6_0 * y, int64_t k) {
    assert(k % QK_KV == 0);
    for (int64_t i = 0; i < k/QK_KV; ++i) {
        ggml_kv_quantize_block_q6_0(x + i*QK_KV, y + i);
    }
}

void quantize_row_q3_nl_ref(const float * x, block_q3_nl * y, int64_t k) {
    assert(k % QK_KV == 0);
    for (int64_t i = 0; i < k/QK_KV; ++i) {
        ggml_kv_quantize_block_q3_nl(x + i*QK_KV, y + i);
    }
}

void dequantize_row_q6_0(const block_q6_0 * x, float * y, int64_t k) {
    assert(k % QK_KV == 0);
    for (int64_t i = 0; i < k/QK_KV; ++i) {
        const float d = GGML_FP16_TO_FP32(x[i].d);
        for (int j = 0; j < QK_KV; ++j) {
            y[i*QK_KV + j] = d*ggml_kv_int_q6_0(x + i, j);
        }
    }
}

void dequantize_row_q3_nl(const block_q3_nl * x, float * y, int64_t k) {
    assert(k % QK_KV == 0);
    for (int64_t i = 0; i < k/QK_KV; ++i) {
        const float d = ggml_kv_scale_q3_nl(x[i].d);
        for (int j = 0; j < QK_KV; ++j) {
            y[i*QK_KV + j] = d*ggml_kv_int_q3_nl(x + i, j);
        }
    }
}

size_t quantize_q6_0(const float * src, void * dst, int64_t nrows, int64_t n_per_row, const float * imatrix) {
    GGML_UNUSED(imatrix);
    quantize_row_q6_0_ref(src, (block_q6_0 *) dst, nrows*n_per_row);
    return nrows*ggml_row_size(GGML_TYPE_Q6_0, n_per_row);
}

size_t quantize_q3_nl(const float * src, void * dst, int64_t nrows, int64_t n_per_row, const float * imatrix) {
    GGML_UNUSED(imatrix);
    quantize_row_q3_nl_ref(src, (block_q3_nl *) dst, nrows*n_per_row);
    return nrows*ggml_row_size(GGML_TYPE_Q3_NL, n_per_row);
}
