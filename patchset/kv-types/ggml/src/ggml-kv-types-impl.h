#pragma once

// Blocks of the types in ggml-kv-types.h, to and from floats. ggml-base and each variant of the CPU backend compile it for
// themselves: the loops are plain ones over 32 values, which compilers turn into the vectors of the CPU they compile for.

#include "ggml-impl.h"
#include "ggml-kv-types.h"

#include <math.h>
#include <string.h>

static const float ggml_kv_levels_q3_nl[8] = { GGML_KV_LEVELS_Q3_NL };

// the value with the largest magnitude
static inline float ggml_kv_extreme(const float * x) {
    float most[QK_KV];
    for (int j = 0; j < QK_KV; ++j) {
        most[j] = x[j];
    }
    for (int w = QK_KV/2; w > 0; w /= 2) {
        for (int j = 0; j < w; ++j) {
            most[j] = fabsf(most[j + w]) > fabsf(most[j]) ? most[j + w] : most[j];
        }
    }
    return most[0];
}

// overwrites them
static inline float ggml_kv_sum(float * x) {
    for (int w = QK_KV/2; w > 0; w /= 2) {
        for (int j = 0; j < w; ++j) {
            x[j] += x[j + w];
        }
    }
    return x[0];
}

// q[j] = the integer from -32 to 31 that is nearest to x[j]/d
static inline void ggml_kv_nearest_q6_0(const float * x, float d, float * q) {
    const float id = d != 0.0f ? 1.0f/d : 0.0f;
    for (int j = 0; j < QK_KV; ++j) {
        const float t = x[j]*id + 32.5f;
        q[j] = (float) (int) (t > 63.0f ? 63.0f : t > 0.0f ? t : 0.0f) - 32.0f;
    }
}

static inline void ggml_kv_quantize_block_q6_0(const float * x, block_q6_0 * y) {
    // -32 or 31 for the largest, and then the scale with the smallest error for the integers that come of it:
    // with c = sum x*q and n = sum q*q it is c/n, and takes c*c/n from the sum of squares
    const float max = ggml_kv_extreme(x);
    float best = 0.0f;
    float d    = 0.0f;
    for (int side = 0; side < 2; ++side) {
        float q[QK_KV], xq[QK_KV];
        ggml_kv_nearest_q6_0(x, max/(side == 0 ? -32.0f : 31.0f), q);
        for (int j = 0; j < QK_KV; ++j) {
            xq[j] = x[j]*q[j];
            q[j]  = q[j]*q[j];
        }
        const float c = ggml_kv_sum(xq);
        const float n = ggml_kv_sum(q);
        if (n > 0.0f && c*c/n > best) {
            best = c*c/n;
            d    = c/n;
        }
    }
    y->d = GGML_FP32_TO_FP16(d);

    float q[QK_KV];
    uint8_t u[QK_KV];
    ggml_kv_nearest_q6_0(x, GGML_FP16_TO_FP32(y->d), q);
    for (int j = 0; j < QK_KV; ++j) {
        u[j] = (uint8_t) (int) (q[j] + 32.0f);
    }
    for (int j = 0; j < 16; ++j) {
        y->qs[j] = (u[j] & 15) | (u[j + 16] & 15) << 4;
    }
    for (int j = 0; j < 8; ++j) {
        y->qh[j] = u[j] >> 4 | (u[j + 8] >> 4) << 2 | (u[j + 16] >> 4) << 4 | (u[j + 24] >> 4) << 6;
    }
}

static inline int ggml_kv_int_q6_0(const block_q6_0 * x, int j) {
    return ((x->qs[j%16] >> j/16*4 & 15) | (x->qh[j%8] >> j/8*2 & 3) << 4) - 32;
}

static inline float ggml_kv_scale_q3_nl(uint8_t d) {
    return GGML_FP16_TO_FP32((ggml_fp16_t) (d << 8))/128.0f;
}

static inline void ggml_kv_quantize_block_q3_nl(const float * x, block_q3_nl * y) {
    static const float * L = ggml_kv_levels_q3_nl;
    const float max = ggml_kv_extreme(x);
    float   best = INFINITY;
    uint8_t kept[QK_KV] = { 0 };
    y->d = 0;
    for (int side = 0; side < 2; ++side) {
        // the two scales below the one that takes the largest value to the last level, and the one above
        const ggml_fp16_t exact = GGML_FP32_TO_FP16(128.0f*max/L[side == 0 ? 0 : 7]);
        const int sign  = exact >> 8 & 0x80;
        const int below = exact >> 8 & 0x7f;
        for (int i = below - 1; i <= below + 1; ++i) {
            const uint8_t d = (uint8_t) (sign | (i < 0 ? 0 : i > 0x7b ? 0x7b : i));
            const float scale = ggml_kv_scale_q3_nl(d);
            const float id    = scale != 0.0f ? 1.0f/scale : 0.0f;
            float   e[QK_KV];
            uint8_t u[QK_KV];
            for (int j = 0; j < QK_KV; ++j) {
                const float t = x[j]*id;
                float   q = L[0];
                uint8_t n = 0;
                for (int l = 0; l < 7; ++l) {
                    const bool above = t > 0.5f*(L[l] + L[l + 1]);
                    q += above ? L[l + 1] - L[l] : 0.0f;
                    n += above;
                }
                e[j] = x[j] - q*scale;
                e[j] = e[j]*e[j];
                u[j] = n;
            }
            const float error = ggml_kv_sum(e);
            if (error < best) {
                best = error;
                y->d = d;
                memcpy(kept, u, QK_KV);
            }
        }
    }
    for (int j = 0; j < 8; ++j) {
        y->qs[j] = (kept[j] & 3) | (kept[j + 8] & 3) << 2 | (kept[j + 16] & 3) << 4 | (kept[j + 24] & 3) << 6;
    }
    for (int j = 0; j < 4; ++j) {
        y->qh[j] = 0;
        for (int i = 0; i < 8; ++i) {
            y->qh[j] |= (kept[8*j + i] >> 2) << i;
        }
    }
}

static inline int ggml_kv_int_q3_nl(const block_q3_nl * x, int j) {
    static const int8_t levels[8] = { GGML_KV_LEVELS_Q3_NL };
    return levels[(x->qs[j%8] >> j/8*2 & 3) | (x->qh[j/8] >> j%8 & 1) << 2];
}
