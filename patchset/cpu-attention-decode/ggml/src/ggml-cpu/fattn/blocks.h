#pragma once

// What a KV cache is made of: blocks of N values, value = d*int + m

#include "quants.h"
#include "simd.h"

struct fattn_f16 {
    static constexpr int  N       = 16;
    static constexpr bool has_d   = false;
    static constexpr bool has_m   = false;
    ggml_fp16_t h[16];

    static void floats(const fattn_f16 & b, x16 * y) { y[0] = x16_f16(b.h); }
    static ggml_half d(const fattn_f16 &) { return 0; }
    static ggml_half m(const fattn_f16 &) { return 0; }
};

// not of a cache: what a kernel has made of its blocks
struct fattn_f32 {
    static constexpr int  N       = 16;
    static constexpr bool has_d   = false;
    static constexpr bool has_m   = false;
    float f[16];

    static void floats(const fattn_f32 & b, x16 * y) { y[0] = x16_load(b.f); }
    static ggml_half d(const fattn_f32 &) { return 0; }
    static ggml_half m(const fattn_f32 &) { return 0; }
};

template <ggml_type TYPE, typename BLOCK, bool HAS_M>
struct fattn_quant {
    static constexpr int  N       = 32;
    static constexpr bool has_d   = true;
    static constexpr bool has_m   = HAS_M;
    BLOCK b;

    static ggml_half d(const fattn_quant & q) { return q.b.d; }
    static ggml_half m(const fattn_quant & q) {
        if constexpr (HAS_M) {
            return q.b.m;
        } else {
            GGML_UNUSED(q);
            return 0;
        }
    }

    static i8x32 ints(const fattn_quant & q) {
        if constexpr (TYPE == GGML_TYPE_Q8_0) {
            return i8x32_load(q.b.qs);
        } else if constexpr (TYPE == GGML_TYPE_Q5_1) {
            return i8x32_or(i8x32_nibbles(q.b.qs), i8x32_fifth_bits(q.b.qh));
        } else if constexpr (TYPE == GGML_TYPE_Q5_0) {
            return i8x32_sub(i8x32_or(i8x32_nibbles(q.b.qs), i8x32_fifth_bits(q.b.qh)), 16);
        } else if constexpr (TYPE == GGML_TYPE_Q4_1) {
            return i8x32_nibbles(q.b.qs);
        } else if constexpr (TYPE == GGML_TYPE_Q4_0) {
            return i8x32_sub(i8x32_nibbles(q.b.qs), 8);
        } else {
            static_assert(TYPE == GGML_TYPE_IQ4_NL, "unknown type");
            return i8x32_lookup(i8x32_nibbles(q.b.qs), kvalues());
        }
    }

    static void floats(const fattn_quant & q, x16 * y) {
        i8x32_float(ints(q), y);
    }

  private:
    static const int8_t * kvalues() {
        static constexpr int8_t values[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
        return values;
    }
};

typedef fattn_quant<GGML_TYPE_Q8_0,   block_q8_0,   false> fattn_q8_0;
typedef fattn_quant<GGML_TYPE_Q5_1,   block_q5_1,   true > fattn_q5_1;
typedef fattn_quant<GGML_TYPE_Q5_0,   block_q5_0,   false> fattn_q5_0;
typedef fattn_quant<GGML_TYPE_Q4_1,   block_q4_1,   true > fattn_q4_1;
typedef fattn_quant<GGML_TYPE_Q4_0,   block_q4_0,   false> fattn_q4_0;
typedef fattn_quant<GGML_TYPE_IQ4_NL, block_iq4_nl, false> fattn_iq4_nl;

// calls f with a null pointer to the block type of a cache; false where there is none
template <typename F>
static inline bool fattn_with_block(ggml_type type, F && f) {
    switch (type) {
        case GGML_TYPE_F16:    f((const fattn_f16    *) nullptr); return true;
        case GGML_TYPE_Q8_0:   f((const fattn_q8_0   *) nullptr); return true;
        case GGML_TYPE_Q5_1:   f((const fattn_q5_1   *) nullptr); return true;
        case GGML_TYPE_Q5_0:   f((const fattn_q5_0   *) nullptr); return true;
        case GGML_TYPE_Q4_1:   f((const fattn_q4_1   *) nullptr); return true;
        case GGML_TYPE_Q4_0:   f((const fattn_q4_0   *) nullptr); return true;
        case GGML_TYPE_IQ4_NL: f((const fattn_iq4_nl *) nullptr); return true;
        default:               return false;
    }
}

static inline bool fattn_knows(ggml_type type) {
    return fattn_with_block(type, [](auto *) {});
}

template <typename T>
static inline void fattn_values_of(const T & b, x16 * y) {
    T::floats(b, y);
    if constexpr (T::has_d) {
        const float d = GGML_CPU_FP16_TO_FP32(T::d(b));
        const x16   m = x16_set(T::has_m ? GGML_CPU_FP16_TO_FP32(T::m(b)) : 0.0f);
        for (int x = 0; x < T::N/16; ++x) {
            y[x] = T::has_m ? x16_fma(y[x], d, m) : x16_mul(y[x], d);
        }
    }
}
