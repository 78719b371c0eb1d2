#pragma once

#include "common.cuh"

// The scale of a block of a KV cache, searched as in ggml-kv-types-impl.h, which says how. Divisions are rounded as there, and
// no product is joined with a sum, so that of two levels or scales that are nearly as good both take the same.

static __device__ __forceinline__ float kv_inverse(const float d) {
    return d != 0.0f ? __frcp_rn(d) : 0.0f;
}

// Integers from first to first + n - 1. Returns the number of the one that is nearest to x/d, and the integer.
template <int first, int n>
static __device__ __forceinline__ int kv_nearest_int(const float x, const float d, float & level) {
    const float t = __fadd_rn(__fmul_rn(x, kv_inverse(d)), 0.5f - first);
    const int   u = (int) fminf(fmaxf(t, 0.0f), n - 1.0f);
    level = u + first;
    return u;
}

struct kv_levels_q6_0 {
    static constexpr int n_ends = 2;
    static __device__ __forceinline__ float end(const int i) {
        constexpr float ends[n_ends] = { -32.0f, 31.0f };
        return ends[i];
    }
    static __device__ __forceinline__ int nearest(const float x, const float d, float & level) {
        return kv_nearest_int<-32, 64>(x, d, level);
    }
};

struct kv_levels_q5_0 {
    static constexpr int n_ends = 4;
    static __device__ __forceinline__ float end(const int i) {
        constexpr float ends[n_ends] = { GGML_KV_ENDS_Q5_0 };
        return ends[i];
    }
    static __device__ __forceinline__ int nearest(const float x, const float d, float & level) {
        return kv_nearest_int<-16, 32>(x, d, level);
    }
};

struct kv_levels_iq4_nl {
    static constexpr int n_ends = 4;
    static __device__ __forceinline__ float end(const int i) {
        constexpr float ends[n_ends] = { GGML_KV_ENDS_IQ4_NL };
        return ends[i];
    }
    static __device__ __forceinline__ int nearest(const float x, const float d, float & level) {
        constexpr int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
        const float t = x*kv_inverse(d);
        int u = 0;
#pragma unroll
        for (int l = 0; l < 15; ++l) {
            u += t > 0.5f*(levels[l] + levels[l + 1]);
        }
        // the level from four registers of levels
        const int lower = __byte_perm(0xBFAD9881, 0xF6EADDCF, u & 7);
        const int upper = __byte_perm(0x26190D01, 0x71594535, u & 7);
        level = (int8_t) (u < 8 ? lower : upper);
        return u;
    }
};

// Of the block's values a thread has n; sum_t adds theirs, and those of the other threads. max is the block's largest value.
template <typename levels_t, typename sum_t, int n>
static __device__ __forceinline__ half kv_search_scale(const float (&x)[n], const float max) {
    float best = 0.0f;
    float d    = 0.0f;
#pragma unroll 1
    for (int i = 0; i < levels_t::n_ends; ++i) {
        const float scale = __fdiv_rn(max, levels_t::end(i));
        float xq[n];
        float qq[n];
#pragma unroll
        for (int j = 0; j < n; ++j) {
            float q;
            levels_t::nearest(x[j], scale, q);
            xq[j] = __fmul_rn(x[j], q);
            qq[j] = q*q;
        }
        const float c = sum_t::sum(xq);
        const float m = sum_t::sum(qq);
        const float gain = m > 0.0f ? __fdiv_rn(c*c, m) : 0.0f;
        if (gain > best) {
            best = gain;
            d    = __fdiv_rn(c, m);
        }
    }
    return __float2half(d);
}
