#pragma once

// 16 floats at a time, and blocks of 32 quants, whatever the registers of the CPU

#include "simd-mappings.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FATTN_AVX512
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FATTN_AVX2
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define FATTN_NEON
#endif

#if defined(FATTN_AVX512) || defined(FATTN_AVX2)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic ignored "-Wuninitialized"       // of its own headers:
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
#endif

// one register

#if defined(FATTN_AVX512)

typedef __m512 freg;
static constexpr int FREG = 16;

static inline freg freg_set (float x)               { return _mm512_set1_ps(x); }
static inline freg freg_load(const float * x)       { return _mm512_loadu_ps(x); }
static inline void freg_store(float * x, freg a)    { _mm512_storeu_ps(x, a); }
static inline freg freg_add (freg a, freg b)        { return _mm512_add_ps(a, b); }
static inline freg freg_sub (freg a, freg b)        { return _mm512_sub_ps(a, b); }
static inline freg freg_mul (freg a, freg b)        { return _mm512_mul_ps(a, b); }
static inline freg freg_fma (freg a, freg b, freg c) { return _mm512_fmadd_ps(a, b, c); }
static inline freg freg_max (freg a, freg b)        { return _mm512_max_ps(a, b); }
static inline freg freg_round(freg a)               { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
// a * 2^n for n <= 0, zero where that is subnormal
static inline freg freg_ldexp(freg a, freg n)       { return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(n, _mm512_set1_ps(-126.0f), _CMP_GT_OQ), a, n); }
static inline float freg_sum(freg a)                { return _mm512_reduce_add_ps(a); }
static inline float freg_hmax(freg a)               { return _mm512_reduce_max_ps(a); }
static inline freg freg_f16 (const ggml_fp16_t * x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) x)); }

#elif defined(FATTN_AVX2)

typedef __m256 freg;
static constexpr int FREG = 8;

static inline freg freg_set (float x)               { return _mm256_set1_ps(x); }
static inline freg freg_load(const float * x)       { return _mm256_loadu_ps(x); }
static inline void freg_store(float * x, freg a)    { _mm256_storeu_ps(x, a); }
static inline freg freg_add (freg a, freg b)        { return _mm256_add_ps(a, b); }
static inline freg freg_sub (freg a, freg b)        { return _mm256_sub_ps(a, b); }
static inline freg freg_mul (freg a, freg b)        { return _mm256_mul_ps(a, b); }
static inline freg freg_fma (freg a, freg b, freg c) { return _mm256_fmadd_ps(a, b, c); }
static inline freg freg_max (freg a, freg b)        { return _mm256_max_ps(a, b); }
static inline freg freg_round(freg a)               { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline freg freg_ldexp(freg a, freg n) {
    const __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    const __m256  r = _mm256_mul_ps(a, _mm256_castsi256_ps(e));
    return _mm256_and_ps(r, _mm256_cmp_ps(n, _mm256_set1_ps(-126.0f), _CMP_GT_OQ));
}
static inline float freg_sum(freg a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float freg_hmax(freg a) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline freg freg_f16 (const ggml_fp16_t * x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) x)); }

#elif defined(FATTN_NEON)

typedef float32x4_t freg;
static constexpr int FREG = 4;

static inline freg freg_set (float x)               { return vdupq_n_f32(x); }
static inline freg freg_load(const float * x)       { return vld1q_f32(x); }
static inline void freg_store(float * x, freg a)    { vst1q_f32(x, a); }
static inline freg freg_add (freg a, freg b)        { return vaddq_f32(a, b); }
static inline freg freg_sub (freg a, freg b)        { return vsubq_f32(a, b); }
static inline freg freg_mul (freg a, freg b)        { return vmulq_f32(a, b); }
static inline freg freg_fma (freg a, freg b, freg c) { return vfmaq_f32(c, a, b); }
static inline freg freg_max (freg a, freg b)        { return vmaxq_f32(a, b); }
static inline freg freg_round(freg a)               { return vrndnq_f32(a); }
static inline freg freg_ldexp(freg a, freg n) {
    const int32x4_t   e = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    const float32x4_t r = vmulq_f32(a, vreinterpretq_f32_s32(e));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(r), vcgtq_f32(n, vdupq_n_f32(-126.0f))));
}
static inline float freg_sum(freg a)                { return vaddvq_f32(a); }
static inline float freg_hmax(freg a)               { return vmaxvq_f32(a); }
static inline freg freg_f16 (const ggml_fp16_t * x) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) x))); }

#else

typedef float freg;
static constexpr int FREG = 1;

static inline freg freg_set (float x)               { return x; }
static inline freg freg_load(const float * x)       { return *x; }
static inline void freg_store(float * x, freg a)    { *x = a; }
static inline freg freg_add (freg a, freg b)        { return a + b; }
static inline freg freg_sub (freg a, freg b)        { return a - b; }
static inline freg freg_mul (freg a, freg b)        { return a * b; }
static inline freg freg_fma (freg a, freg b, freg c) { return a * b + c; }
static inline freg freg_max (freg a, freg b)        { return a > b ? a : b; }
static inline freg freg_round(freg a)               { return nearbyintf(a); }
static inline freg freg_ldexp(freg a, freg n) {
    if (!(n > -126.0f)) {
        return 0.0f;
    }
    const uint32_t bits = (uint32_t) ((int32_t) n + 127) << 23;
    float e;
    memcpy(&e, &bits, sizeof(e));
    return a * e;
}
static inline float freg_sum(freg a)                { return a; }
static inline float freg_hmax(freg a)               { return a; }
static inline freg freg_f16 (const ggml_fp16_t * x) { return GGML_CPU_FP16_TO_FP32(*x); }

#endif

// 16 floats

struct x16 {
    static constexpr int N = 16/FREG;
    freg r[N];
};

#define X16_EACH for (int i = 0; i < x16::N; ++i)

static inline x16 x16_set (float x)                         { x16 y; X16_EACH y.r[i] = freg_set(x);                         return y; }
static inline x16 x16_load(const float * x)                 { x16 y; X16_EACH y.r[i] = freg_load(x + i*FREG);               return y; }
static inline void x16_store(float * x, x16 a)              {        X16_EACH freg_store(x + i*FREG, a.r[i]);                         }
static inline x16 x16_add (x16 a, x16 b)                    { x16 y; X16_EACH y.r[i] = freg_add(a.r[i], b.r[i]);            return y; }
static inline x16 x16_sub (x16 a, x16 b)                    { x16 y; X16_EACH y.r[i] = freg_sub(a.r[i], b.r[i]);            return y; }
static inline x16 x16_mul (x16 a, x16 b)                    { x16 y; X16_EACH y.r[i] = freg_mul(a.r[i], b.r[i]);            return y; }
static inline x16 x16_max (x16 a, x16 b)                    { x16 y; X16_EACH y.r[i] = freg_max(a.r[i], b.r[i]);            return y; }
static inline x16 x16_fma (x16 a, x16 b, x16 c)             { x16 y; X16_EACH y.r[i] = freg_fma(a.r[i], b.r[i], c.r[i]);    return y; }
static inline x16 x16_f16 (const ggml_fp16_t * x)           { x16 y; X16_EACH y.r[i] = freg_f16(x + i*FREG);                return y; }

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

static inline float x16_sum(x16 a) {
    freg s = a.r[0];
    for (int i = 1; i < x16::N; ++i) {
        s = freg_add(s, a.r[i]);
    }
    return freg_sum(s);
}

// the sums of a[0..16), a[16..32), ..., a[240..256)
static inline x16 x16_sums(const float * a) {
#if defined(FATTN_AVX512)
    __m512 t[8];
    for (int i = 0; i < 8; ++i) {
        const __m512 even = _mm512_loadu_ps(a + 32*i);
        const __m512 odd  = _mm512_loadu_ps(a + 32*i + 16);
        t[i] = _mm512_add_ps(_mm512_unpacklo_ps(even, odd), _mm512_unpackhi_ps(even, odd));
    }
    __m512 u[4]; // of 4 vectors each: 4 sums, in 4 parts
    for (int i = 0; i < 4; ++i) {
        const __m512d even = _mm512_castps_pd(t[2*i]);
        const __m512d odd  = _mm512_castps_pd(t[2*i + 1]);
        u[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(even, odd)), _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd)));
    }
    const __m512 lo = _mm512_add_ps(_mm512_shuffle_f32x4(u[0], u[1], 0x88), _mm512_shuffle_f32x4(u[0], u[1], 0xdd));
    const __m512 hi = _mm512_add_ps(_mm512_shuffle_f32x4(u[2], u[3], 0x88), _mm512_shuffle_f32x4(u[2], u[3], 0xdd));
    return { { _mm512_add_ps(_mm512_shuffle_f32x4(lo, hi, 0x88), _mm512_shuffle_f32x4(lo, hi, 0xdd)) } };
#else
    float sums[16];
    for (int i = 0; i < 16; ++i) {
        sums[i] = x16_sum(x16_load(a + 16*i));
    }
    return x16_load(sums);
#endif
}

static inline float x16_hmax(x16 a) {
    freg s = a.r[0];
    for (int i = 1; i < x16::N; ++i) {
        s = freg_max(s, a.r[i]);
    }
    return freg_hmax(s);
}

// 2^x for x <= 0, -inf included; relative error below 1e-6
static inline freg freg_exp2(freg x) {
    const freg t = freg_max(x, freg_set(-150.0f));
    const freg n = freg_round(t);
    const freg f = freg_sub(t, n);
    // 2^f for |f| <= 0.5, fitted to a relative error of 1e-7
    freg p = freg_fma(freg_set(0x1.5bba12p-10f), f, freg_set(0x1.3cea88p-7f));
    p = freg_fma(p, f, freg_set(0x1.c6b752p-5f));
    p = freg_fma(p, f, freg_set(0x1.ebf9bcp-3f));
    p = freg_fma(p, f, freg_set(0x1.62e42ap-1f));
    p = freg_fma(p, f, freg_set(1.0f));
    return freg_ldexp(p, n);
}

static inline x16 x16_exp2(x16 x) { x16 y; X16_EACH y.r[i] = freg_exp2(x.r[i]); return y; }

// dst[j][i] = src[i][j], 16 x 16
static inline void x16_transpose(const float * src, size_t lds, float * dst, size_t ldd) {
#if defined(FATTN_AVX512)
    __m512 a[16];
    __m512 b[16];
    for (int i = 0; i < 16; ++i) {
        a[i] = _mm512_loadu_ps(src + i*lds);
    }
    for (int i = 0; i < 16; i += 2) {
        b[i]     = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i]     = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i]),     _mm512_castps_pd(b[i + 2])));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i]),     _mm512_castps_pd(b[i + 2])));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    }
    // a[4g + c]: rows 4g..4g+3 of columns c, c + 4, c + 8, c + 12
    for (int c = 0; c < 4; ++c) {
        const __m512 lo0 = _mm512_shuffle_f32x4(a[c],     a[c + 4],  0x88);
        const __m512 lo1 = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0x88);
        const __m512 hi0 = _mm512_shuffle_f32x4(a[c],     a[c + 4],  0xdd);
        const __m512 hi1 = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0xdd);
        _mm512_storeu_ps(dst + (c +  0)*ldd, _mm512_shuffle_f32x4(lo0, lo1, 0x88));
        _mm512_storeu_ps(dst + (c +  8)*ldd, _mm512_shuffle_f32x4(lo0, lo1, 0xdd));
        _mm512_storeu_ps(dst + (c +  4)*ldd, _mm512_shuffle_f32x4(hi0, hi1, 0x88));
        _mm512_storeu_ps(dst + (c + 12)*ldd, _mm512_shuffle_f32x4(hi0, hi1, 0xdd));
    }
#else
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 16; ++j) {
            dst[j*ldd + i] = src[i*lds + j];
        }
    }
#endif
}

// 32 signed bytes

#if defined(FATTN_AVX512) || defined(FATTN_AVX2)

typedef __m256i i8x32;

static inline i8x32 i8x32_load(const int8_t * x) { return _mm256_loadu_si256((const __m256i *) x); }

// 16 bytes of nibbles: low ones first
static inline i8x32 i8x32_nibbles(const uint8_t * x) {
    const __m128i b = _mm_loadu_si128((const __m128i *) x);
    return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(b), _mm_srli_epi16(b, 4), 1), _mm256_set1_epi8(15));
}

// 16 where a bit is set, else 0
static inline i8x32 i8x32_fifth_bits(const uint8_t * x) {
    uint32_t bits;
    memcpy(&bits, x, sizeof(bits));
    const __m256i which = _mm256_setr_epi64x(0x0000000000000000, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit   = _mm256_set1_epi64x(0x8040201008040201);
    const __m256i spread = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), which), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(spread, bit), _mm256_set1_epi8(16));
}

static inline i8x32 i8x32_or (i8x32 a, i8x32 b) { return _mm256_or_si256(a, b); }
static inline i8x32 i8x32_sub(i8x32 a, int b)   { return _mm256_sub_epi8(a, _mm256_set1_epi8(b)); }

static inline i8x32 i8x32_lookup(i8x32 a, const int8_t * table) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) table)), a);
}

static inline void i8x32_float(i8x32 a, x16 * y) {
    const __m128i half[2] = { _mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1) };
    for (int h = 0; h < 2; ++h) {
#if defined(FATTN_AVX512)
        y[h].r[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(half[h]));
#else
        y[h].r[0] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(half[h]));
        y[h].r[1] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(half[h], 8)));
#endif
    }
}

#elif defined(FATTN_NEON)

typedef int8x16x2_t i8x32;

static inline i8x32 i8x32_load(const int8_t * x) { return { { vld1q_s8(x), vld1q_s8(x + 16) } }; }

static inline i8x32 i8x32_nibbles(const uint8_t * x) {
    const uint8x16_t b = vld1q_u8(x);
    return { { vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(b, 4)) } };
}

static inline i8x32 i8x32_fifth_bits(const uint8_t * x) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    i8x32 y;
    for (int h = 0; h < 2; ++h) {
        const uint8x16_t spread = vcombine_u8(vdup_n_u8(x[2*h]), vdup_n_u8(x[2*h + 1]));
        y.val[h] = vreinterpretq_s8_u8(vandq_u8(vtstq_u8(spread, bit), vdupq_n_u8(16)));
    }
    return y;
}

static inline i8x32 i8x32_or (i8x32 a, i8x32 b) { return { { vorrq_s8(a.val[0], b.val[0]), vorrq_s8(a.val[1], b.val[1]) } }; }
static inline i8x32 i8x32_sub(i8x32 a, int b)   { return { { vsubq_s8(a.val[0], vdupq_n_s8(b)), vsubq_s8(a.val[1], vdupq_n_s8(b)) } }; }

static inline i8x32 i8x32_lookup(i8x32 a, const int8_t * table) {
    const int8x16_t t = vld1q_s8(table);
    return { { vqtbl1q_s8(t, vreinterpretq_u8_s8(a.val[0])), vqtbl1q_s8(t, vreinterpretq_u8_s8(a.val[1])) } };
}

static inline void i8x32_float(i8x32 a, x16 * y) {
    for (int h = 0; h < 2; ++h) {
        const int16x8_t lo = vmovl_s8(vget_low_s8 (a.val[h]));
        const int16x8_t hi = vmovl_s8(vget_high_s8(a.val[h]));
        y[h].r[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16 (lo)));
        y[h].r[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo)));
        y[h].r[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16 (hi)));
        y[h].r[3] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi)));
    }
}

#else

struct i8x32 {
    int8_t b[32];
};

static inline i8x32 i8x32_load(const int8_t * x) { i8x32 y; memcpy(y.b, x, 32); return y; }

static inline i8x32 i8x32_nibbles(const uint8_t * x) {
    i8x32 y;
    for (int i = 0; i < 16; ++i) {
        y.b[i]      = x[i] & 15;
        y.b[i + 16] = x[i] >> 4;
    }
    return y;
}

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
    for (int i = 0; i < 32; ++i) {
        y[i/16].r[i%16] = a.b[i];
    }
}

#endif
