#pragma once

// 16 floats at a time, and blocks of 32 quants, whatever the registers of the CPU

#include "simd-mappings.h"
#include "vec.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic ignored "-Wuninitialized"       // of its own headers:
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#endif

// one register

// those without a size can be no members
#if defined(GGML_SIMD) && !defined(__ARM_FEATURE_SVE) && !defined(__riscv_v_intrinsic)

typedef GGML_F32_VEC freg;
static constexpr int FREG = GGML_F32_EPR;

static inline freg freg_set (float x)                { return GGML_F32_VEC_SET1(x); }
static inline freg freg_load(const float * x)        { return GGML_F32_VEC_LOAD(x); }
static inline void freg_store(float * x, freg a)     { GGML_F32_VEC_STORE(x, a); }
static inline freg freg_add (freg a, freg b)         { return GGML_F32_VEC_ADD(a, b); }
static inline freg freg_mul (freg a, freg b)         { return GGML_F32_VEC_MUL(a, b); }
static inline freg freg_fma (freg a, freg b, freg c) { return GGML_F32_VEC_FMA(c, a, b); }

#else

typedef float freg;
static constexpr int FREG = 1;

static inline freg freg_set (float x)                { return x; }
static inline freg freg_load(const float * x)        { return *x; }
static inline void freg_store(float * x, freg a)     { *x = a; }
static inline freg freg_add (freg a, freg b)         { return a + b; }
static inline freg freg_mul (freg a, freg b)         { return a * b; }
static inline freg freg_fma (freg a, freg b, freg c) { return a * b + c; }

#endif

// 16 floats

struct x16 {
    static constexpr int N = 16/FREG;
    freg r[N];
};

#define X16_EACH for (int i = 0; i < x16::N; ++i)

static inline x16 x16_set (float x)             { x16 y; X16_EACH y.r[i] = freg_set(x);                      return y; }
static inline x16 x16_load(const float * x)     { x16 y; X16_EACH y.r[i] = freg_load(x + i*FREG);            return y; }
static inline void x16_store(float * x, x16 a)  {        X16_EACH freg_store(x + i*FREG, a.r[i]);                      }
static inline x16 x16_add (x16 a, x16 b)        { x16 y; X16_EACH y.r[i] = freg_add(a.r[i], b.r[i]);         return y; }
static inline x16 x16_mul (x16 a, x16 b)        { x16 y; X16_EACH y.r[i] = freg_mul(a.r[i], b.r[i]);         return y; }
static inline x16 x16_fma (x16 a, x16 b, x16 c) { x16 y; X16_EACH y.r[i] = freg_fma(a.r[i], b.r[i], c.r[i]); return y; }

// a*b + c, b the same for all 16
static inline x16 x16_fma (x16 a, float b, x16 c) {
    const freg br = freg_set(b);
    x16 y;
    X16_EACH y.r[i] = freg_fma(a.r[i], br, c.r[i]);
    return y;
}

static inline x16 x16_mul(x16 a, float b) {
    const freg br = freg_set(b);
    x16 y;
    X16_EACH y.r[i] = freg_mul(a.r[i], br);
    return y;
}

// not with GGML_F16_VEC: it may be 32 halfs, or sums of halfs
static inline x16 x16_f16(const ggml_fp16_t * x) {
#if defined(__AVX512F__)
    return { { _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) x)) } };
#elif defined(__AVX__)
    return { { GGML_F32Cx8_LOAD(x), GGML_F32Cx8_LOAD(x + 8) } };
#else
    float y[16];
    for (int i = 0; i < 16; ++i) {
        y[i] = GGML_CPU_FP16_TO_FP32(x[i]);
    }
    return x16_load(y);
#endif
}

static inline x16 x16_max(x16 a, x16 b) {
    float y[16];
    float z[16];
    x16_store(y, a);
    x16_store(z, b);
    for (int i = 0; i < 16; ++i) {
        y[i] = y[i] > z[i] ? y[i] : z[i];
    }
    return x16_load(y);
}

// not with GGML_F32_VEC_REDUCE: it wants GGML_F32_ARR registers
static inline float x16_sum(x16 a) {
    float y[16];
    x16_store(y, a);
    for (int n = 8; n > 0; n /= 2) {
        for (int i = 0; i < n; ++i) {
            y[i] += y[i + n];
        }
    }
    return y[0];
}

// the sums of a[0..16), a[16..32), ..., a[240..256)
static inline x16 x16_sums(const float * a) {
    float sums[16];
    for (int i = 0; i < 16; ++i) {
        sums[i] = x16_sum(x16_load(a + 16*i));
    }
    return x16_load(sums);
}

static inline float x16_hmax(x16 a) {
    float y[16];
    x16_store(y, a);
    for (int i = 1; i < 16; ++i) {
        y[0] = y[0] > y[i] ? y[0] : y[i];
    }
    return y[0];
}

// e^x, -inf included
static inline x16 x16_exp(x16 a) {
#if (defined(__AVX512F__) && defined(__AVX512DQ__)) || (defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__)) || \
    (defined(GGML_SIMD) && defined(__ARM_NEON) && defined(__aarch64__) && !defined(__ARM_FEATURE_SVE))
    X16_EACH a.r[i] = ggml_v_expf(a.r[i]);
    return a;
#else
    float y[16];
    x16_store(y, a);
#if defined(__ARM_FEATURE_SVE) && defined(__aarch64__)
    for (int i = 0; i < 16; i += (int) svcntw()) {
        const svbool_t pg = svwhilelt_b32(i, 16);
        svst1_f32(pg, y + i, ggml_v_expf(pg, svld1_f32(pg, y + i)));
    }
#else
    for (int i = 0; i < 16; ++i) {
        y[i] = expf(y[i]);
    }
#endif
    return x16_load(y);
#endif
}

// 32 signed bytes

struct i8x32 {
    int8_t b[32];
};

static inline i8x32 i8x32_load(const int8_t * x) { i8x32 y; memcpy(y.b, x, 32); return y; }

// 16 bytes of nibbles: low ones first
static inline i8x32 i8x32_nibbles(const uint8_t * x) {
    i8x32 y;
    for (int i = 0; i < 16; ++i) {
        y.b[i]      = x[i] & 15;
        y.b[i + 16] = x[i] >> 4;
    }
    return y;
}

// 16 where a bit is set, else 0
static inline i8x32 i8x32_fifth_bits(const uint8_t * x) {
    i8x32 y;
    for (int i = 0; i < 32; ++i) {
        y.b[i] = (x[i/8] >> (i%8) & 1) * 16;
    }
    return y;
}

static inline i8x32 i8x32_or (i8x32 a, i8x32 b) { for (int i = 0; i < 32; ++i) { a.b[i] |= b.b[i]; } return a; }
static inline i8x32 i8x32_sub(i8x32 a, int b)   { for (int i = 0; i < 32; ++i) { a.b[i] -= b;      } return a; }

static inline i8x32 i8x32_lookup(i8x32 a, const int8_t * table) {
    for (int i = 0; i < 32; ++i) {
        a.b[i] = table[(int) a.b[i]];
    }
    return a;
}

static inline void i8x32_float(i8x32 a, x16 * y) {
    float f[32];
    for (int i = 0; i < 32; ++i) {
        f[i] = a.b[i];
    }
    y[0] = x16_load(f);
    y[1] = x16_load(f + 16);
}
