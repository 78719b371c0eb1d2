#pragma once

#include "common.cuh"

// Blocks of the quantized types of a KV cache, each quantized by a warp that has a value of it in each thread. Only for NVIDIA.

#define SET_ROWS_KV_TYPES(X) X(Q8_0) X(Q6_0) X(Q5_1) X(Q5_0) X(Q4_1) X(Q4_0) X(IQ4_NL) X(Q3_NL)

typedef block_q8_0   block_Q8_0;
typedef block_q6_0   block_Q6_0;
typedef block_q5_1   block_Q5_1;
typedef block_q5_0   block_Q5_0;
typedef block_q4_1   block_Q4_1;
typedef block_q4_0   block_Q4_0;
typedef block_iq4_nl block_IQ4_NL;
typedef block_q3_nl  block_Q3_NL;

// The value with the largest magnitude, of equal ones that of the lowest lane.
static __device__ __forceinline__ float set_rows_kv_extreme(const float x) {
    const float    amax = warp_reduce_max(fabsf(x));
    const uint32_t has  = __ballot_sync(0xFFFFFFFF, fabsf(x) == amax);
    return __shfl_sync(0xFFFFFFFF, x, max(__ffs(has) - 1, 0), WARP_SIZE);
}

// Nibbles: 16 bytes, each with the lower 4 bits of the lane's number and of that 16 lanes on.
static __device__ __forceinline__ void set_rows_kv_nibbles(const int u, const int lane, uint8_t * qs) {
    const int upper = __shfl_down_sync(0xFFFFFFFF, u, 16, WARP_SIZE);
    if (lane < 16) {
        qs[lane] = (u & 15) | (upper & 15) << 4;
    }
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q8_0 * y) {
    const float d  = warp_reduce_max(fabsf(x)) / 127.0f;
    const float id = d != 0.0f ? 1.0f/d : 0.0f;
    y->qs[lane] = roundf(x*id);
    if (lane == 0) {
        y->d = d;
    }
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q4_0 * y) {
    const float d  = set_rows_kv_extreme(x) / -8.0f;
    const float id = d != 0.0f ? 1.0f/d : 0.0f;
    set_rows_kv_nibbles(min(15, (int) (x*id + 8.5f)), lane, y->qs);
    if (lane == 0) {
        y->d = d;
    }
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q5_0 * y) {
    const float    d  = set_rows_kv_extreme(x) / -16.0f;
    const float    id = d != 0.0f ? 1.0f/d : 0.0f;
    const int      u  = min(31, (int) (x*id + 16.5f));
    const uint32_t qh = __ballot_sync(0xFFFFFFFF, u & 16);
    set_rows_kv_nibbles(u, lane, y->qs);
    if (lane == 0) {
        y->d = d;
        memcpy(y->qh, &qh, sizeof(qh));
    }
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q4_1 * y) {
    const float min_x = -warp_reduce_max(-x);
    const float d     = (warp_reduce_max(x) - min_x) / 15.0f;
    const float id    = d != 0.0f ? 1.0f/d : 0.0f;
    set_rows_kv_nibbles(min(15, (int) ((x - min_x)*id + 0.5f)), lane, y->qs);
    if (lane == 0) {
        y->dm = make_half2(d, min_x);
    }
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q5_1 * y) {
    const float    min_x = -warp_reduce_max(-x);
    const float    d     = (warp_reduce_max(x) - min_x) / 31.0f;
    const float    id    = d != 0.0f ? 1.0f/d : 0.0f;
    const int      u     = min(31, (int) ((x - min_x)*id + 0.5f));
    const uint32_t qh    = __ballot_sync(0xFFFFFFFF, u & 16);
    set_rows_kv_nibbles(u, lane, y->qs);
    if (lane == 0) {
        y->dm = make_half2(d, min_x);
        memcpy(y->qh, &qh, sizeof(qh));
    }
}

// The number of the level that is nearest to x, of n in rising order, and the level.
template <int n>
static __device__ __forceinline__ int set_rows_kv_level(const float x, const int8_t (&levels)[n], float & level) {
    int u = 0;
    level = levels[0];
#pragma unroll
    for (int l = 0; l < n - 1; ++l) {
        const bool above = x > 0.5f*(levels[l] + levels[l + 1]);
        u    += above;
        level = above ? levels[l + 1] : level;
    }
    return u;
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_iq4_nl * y) {
    constexpr int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const float d  = set_rows_kv_extreme(x) / levels[0];
    const float id = d != 0.0f ? 1.0f/d : 0.0f;
    float level;
    const int   u     = set_rows_kv_level(x*id, levels, level);
    const float sumqx = warp_reduce_sum(x*x*level*x);
    const float sumq2 = warp_reduce_sum(x*x*level*level);
    set_rows_kv_nibbles(u, lane, y->qs);
    if (lane == 0) {
        y->d = sumq2 > 0.0f ? sumqx/sumq2 : d;
    }
}

// These two as in ggml-kv-types-impl.h, which says how they come about.
static __device__ __forceinline__ float set_rows_kv_nearest_q6_0(const float x, const float d) {
    const float t = x*(d != 0.0f ? 1.0f/d : 0.0f) + 32.5f;
    return (float) (int) fminf(fmaxf(t, 0.0f), 63.0f) - 32.0f;
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q6_0 * y) {
    const float extreme = set_rows_kv_extreme(x);
    float best = 0.0f;
    float d    = 0.0f;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
        const float q = set_rows_kv_nearest_q6_0(x, extreme/(side == 0 ? -32.0f : 31.0f));
        const float c = warp_reduce_sum(x*q);
        const float n = warp_reduce_sum(q*q);
        if (n > 0.0f && c*c/n > best) {
            best = c*c/n;
            d    = c/n;
        }
    }
    const half d16 = __float2half(d);
    const int  u   = (int) (set_rows_kv_nearest_q6_0(x, __half2float(d16)) + 32.0f);

    set_rows_kv_nibbles(u, lane, y->qs);
    int qh = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        qh |= (__shfl_sync(0xFFFFFFFF, u, lane % 8 + 8*i, WARP_SIZE) >> 4) << 2*i;
    }
    if (lane < 8) {
        y->qh[lane] = qh;
    }
    if (lane == 0) {
        y->d = d16;
    }
}

static __device__ __forceinline__ void set_rows_kv_block(const float x, const int lane, block_q3_nl * y) {
    constexpr int8_t levels[8] = { GGML_KV_LEVELS_Q3_NL };
    const float extreme = set_rows_kv_extreme(x);
    float best   = INFINITY;
    int   best_d = 0;
    int   best_u = 0;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
        const uint32_t exact = __half_as_ushort(__float2half(128.0f*extreme/levels[side == 0 ? 0 : 7]));
        const int sign  = exact >> 8 & 0x80;
        const int below = exact >> 8 & 0x7f;
        for (int i = below - 1; i <= below + 1; ++i) {
            const int   d     = sign | min(max(i, 0), 0x7b);
            const float scale = __half2float(__ushort_as_half((unsigned short) (d << 8)))/128.0f;
            float level;
            const int   u     = set_rows_kv_level(x*(scale != 0.0f ? 1.0f/scale : 0.0f), levels, level);
            const float e     = x - level*scale;
            const float error = warp_reduce_sum(e*e);
            if (error < best) {
                best   = error;
                best_d = d;
                best_u = u;
            }
        }
    }
    const uint32_t qh = __ballot_sync(0xFFFFFFFF, best_u & 4);
    int qs = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        qs |= (__shfl_sync(0xFFFFFFFF, best_u, lane % 8 + 8*i, WARP_SIZE) & 3) << 2*i;
    }
    if (lane < 8) {
        y->qs[lane] = qs;
    }
    if (lane < 4) {
        y->qh[lane] = qh >> 8*lane;
    }
    if (lane == 0) {
        y->d = best_d;
    }
}
