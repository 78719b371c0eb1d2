#pragma once

#include "common.cuh"

// The scale of a block of a KV cache, searched as in ggml-kv-types-impl.h, which says how.

// The number of the level that is nearest to x, of n in rising order, and the level.
template <int n>
static __device__ __forceinline__ int kv_level(const float x, const int8_t (&levels)[n], float & level) {
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

// Integers from first to first + n - 1. Returns the number of the one that is nearest to x/d, and the integer.
template <int first, int n>
static __device__ __forceinline__ int kv_nearest_int(const float x, const float d, float & level) {
    const float t = x*(d != 0.0f ? 1.0f/d : 0.0f) + (0.5f - first);
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
        return kv_level(x*(d != 0.0f ? 1.0f/d : 0.0f), levels, level);
    }
};

// Of the block's values a thread has n; sum_t adds theirs, and those of the other threads. max is the block's largest value.
template <typename levels_t, typename sum_t, int n>
static __device__ __forceinline__ half kv_search_scale(const float (&x)[n], const float max) {
    float best = 0.0f;
    float d    = 0.0f;
#pragma unroll
    for (int i = 0; i < levels_t::n_ends; ++i) {
        float xq[n];
        float qq[n];
#pragma unroll
        for (int j = 0; j < n; ++j) {
            float q;
            levels_t::nearest(x[j], max/levels_t::end(i), q);
            xq[j] = x[j]*q;
            qq[j] = q*q;
        }
        const float c = sum_t::sum(xq);
        const float m = sum_t::sum(qq);
        if (m > 0.0f && c*c/m > best) {
            best = c*c/m;
            d    = c/m;
        }
    }
    return __float2half(d);
}
