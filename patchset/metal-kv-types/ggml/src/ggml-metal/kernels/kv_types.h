#pragma once

#include "common.h"
#include "dequantize.h"

// types of a KV cache (ggml-kv-types.h): to floats, and from floats to the bytes that the CPU makes of them

constexpr constant static float kvalues_q3nl_f[8] = { GGML_KV_LEVELS_Q3_NL };

static inline float kv_scale_q3_nl(uint8_t d) {
    return (float) as_type<half>((ushort) (d << 8))/128.0f;
}

template <typename type4>
void dequantize_q6_0_t4(device const block_q6_0 * xb, short il, thread type4 & reg) {
    const float d = xb->d;

    for (short i = 0; i < 4; ++i) {
        const short lo = xb->qs[4*(il%4) + i] >> 4*(il/4) & 15;
        const short hi = xb->qh[4*(il%2) + i] >> 2*(il/2) & 3;

        reg[i] = d*((lo | hi << 4) - 32);
    }
}

template <typename type4x4>
void dequantize_q6_0(device const block_q6_0 * xb, short il, thread type4x4 & reg) {
    for (short i = 0; i < 4; ++i) {
        float4 tmp;
        dequantize_q6_0_t4(xb, 4*il + i, tmp);
        for (short j = 0; j < 4; ++j) {
            reg[i][j] = tmp[j];
        }
    }
}

template <typename type4>
void dequantize_q3_nl_t4(device const block_q3_nl * xb, short il, thread type4 & reg) {
    const float d = kv_scale_q3_nl(xb->d);

    for (short i = 0; i < 4; ++i) {
        const short lo = xb->qs[4*(il%2) + i] >> 2*(il/2) & 3;
        const short hi = xb->qh[il/2] >> (4*(il%2) + i) & 1;

        reg[i] = d*kvalues_q3nl_f[lo | hi << 2];
    }
}

template <typename type4x4>
void dequantize_q3_nl(device const block_q3_nl * xb, short il, thread type4x4 & reg) {
    for (short i = 0; i < 4; ++i) {
        float4 tmp;
        dequantize_q3_nl_t4(xb, 4*il + i, tmp);
        for (short j = 0; j < 4; ++j) {
            reg[i][j] = tmp[j];
        }
    }
}

// the functions below compute what ggml-kv-types-impl.h does, in the same order
// ref: ggml_kv_quantize_block_q6_0, ggml_kv_quantize_block_q3_nl

// the value with the largest magnitude
static inline float kv_extreme(device const float * x) {
    float most[QK_KV];
    for (short j = 0; j < QK_KV; ++j) {
        most[j] = x[j];
    }
    for (short w = QK_KV/2; w > 0; w /= 2) {
        for (short j = 0; j < w; ++j) {
            most[j] = fabs(most[j + w]) > fabs(most[j]) ? most[j + w] : most[j];
        }
    }
    return most[0];
}

// overwrites them
static inline float kv_sum(thread float * x) {
#pragma METAL fp math_mode(safe)
    for (short w = QK_KV/2; w > 0; w /= 2) {
        for (short j = 0; j < w; ++j) {
            x[j] += x[j + w];
        }
    }
    return x[0];
}

// the integer from -32 to 31 that is nearest to x/d
static inline float kv_nearest_q6_0(float x, float d) {
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
    const float id = d != 0.0f ? 1.0f/d : 0.0f;
    const float t  = x*id + 32.5f;
    return (float) (int) (t > 63.0f ? 63.0f : t > 0.0f ? t : 0.0f) - 32.0f;
}

void quantize_q6_0(device const float * src, device block_q6_0 & dst) {
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
    const float max = kv_extreme(src);

    float best = 0.0f;
    float d    = 0.0f;
    for (short side = 0; side < 2; ++side) {
        float xq[QK_KV];
        float qq[QK_KV];
        for (short j = 0; j < QK_KV; ++j) {
            const float q = kv_nearest_q6_0(src[j], max/(side == 0 ? -32.0f : 31.0f));
            xq[j] = src[j]*q;
            qq[j] = q*q;
        }
        const float c = kv_sum(xq);
        const float n = kv_sum(qq);
        if (n > 0.0f && c*c/n > best) {
            best = c*c/n;
            d    = c/n;
        }
    }
    dst.d = (half) d;

    for (short j = 0; j < QK_KV/4; ++j) {
        uint8_t u[4];
        for (short i = 0; i < 4; ++i) {
            u[i] = (uint8_t) (kv_nearest_q6_0(src[j + 8*i], (float) dst.d) + 32.0f);
        }
        dst.qs[j]     = (u[0] & 15) | (u[2] & 15) << 4;
        dst.qs[j + 8] = (u[1] & 15) | (u[3] & 15) << 4;
        dst.qh[j]     = u[0] >> 4 | (u[1] >> 4) << 2 | (u[2] >> 4) << 4 | (u[3] >> 4) << 6;
    }
}

void quantize_q3_nl(device const float * src, device block_q3_nl & dst) {
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
    const float max = kv_extreme(src);

    float   best = INFINITY;
    uint8_t d    = 0;
    ulong   qs   = 0;
    uint    qh   = 0;
    for (short side = 0; side < 2; ++side) {
        // the two scales below the one that takes the largest value to the last level, and the one above
        const ushort exact = as_type<ushort>((half) (128.0f*max/kvalues_q3nl_f[side == 0 ? 0 : 7]));
        const short  below = exact >> 8 & 0x7f;
        for (short i = below - 1; i <= below + 1; ++i) {
            const uint8_t di    = (exact >> 8 & 0x80) | (i < 0 ? 0 : i > 0x7b ? 0x7b : i);
            const float   scale = kv_scale_q3_nl(di);
            const float   id    = scale != 0.0f ? 1.0f/scale : 0.0f;

            float e[QK_KV];
            ulong lo = 0;
            uint  hi = 0;
            for (short j = 0; j < QK_KV; ++j) {
                const float t = src[j]*id;
                short n = 0;
                for (short l = 0; l < 7; ++l) {
                    n += t > 0.5f*(kvalues_q3nl_f[l] + kvalues_q3nl_f[l + 1]);
                }
                e[j] = src[j] - kvalues_q3nl_f[n]*scale;
                e[j] = e[j]*e[j];
                lo |= (ulong) (n & 3) << (8*(j%8) + 2*(j/8));
                hi |= (uint) (n >> 2) << j;
            }
            const float error = kv_sum(e);
            if (error < best) {
                best = error;
                d    = di;
                qs   = lo;
                qh   = hi;
            }
        }
    }

    dst.d = d;
    for (short j = 0; j < QK_KV/4; ++j) {
        dst.qs[j] = qs >> 8*j;
    }
    for (short j = 0; j < QK_KV/8; ++j) {
        dst.qh[j] = qh >> 8*j;
    }
}
