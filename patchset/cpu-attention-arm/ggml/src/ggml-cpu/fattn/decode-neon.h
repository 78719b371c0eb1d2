#pragma once

// Products of bytes by NEON's dot products or, of two rows by two columns, by its matrix products

#include "decode-bytes.h"

namespace {

#if defined(__ARM_FEATURE_MATMUL_INT8)
constexpr int KEYS_BYTES = 8; // bytes of V side by side
#else
constexpr int KEYS_BYTES = 4;
#endif

template <typename T>
FATTN_INLINE float32x4_t fattn_four_d(const T * const * k) {
    const ggml_half d[4] = { T::d(*k[0]), T::d(*k[1]), T::d(*k[2]), T::d(*k[3]) };
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(d)));
}

template <typename T>
FATTN_INLINE float32x4_t fattn_four_m(const T * const * k) {
    const ggml_half m[4] = { T::m(*k[0]), T::m(*k[1]), T::m(*k[2]), T::m(*k[3]) };
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(m)));
}

// 8 bytes of a and 8 of b
FATTN_INLINE int8x16_t fattn_eights(int8x16_t a, int8x16_t b, int half) {
    const int64x2_t x = vreinterpretq_s64_s8(a);
    const int64x2_t y = vreinterpretq_s64_s8(b);
    return vreinterpretq_s8_s64(half ? vzip2q_s64(x, y) : vzip1q_s64(x, y));
}

// ints[r] = products of 4 keys and block b of row r
template <int R>
FATTN_INLINE void fattn_four_products(const i8x32 * k, const fattn_query * q, int64_t b, int32x4_t * ints) {
    const auto query = [&](int r, int half) { return vld1q_s8((const int8_t *) (q[r].i + b*8 + half*4)); };
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if constexpr (R > 1) {
        int8x16_t k01[4]; // 8 bytes of key 0, 8 of key 1
        int8x16_t k23[4];
        for (int i = 0; i < 4; ++i) {
            k01[i] = fattn_eights(k[0].val[i/2], k[1].val[i/2], i%2);
            k23[i] = fattn_eights(k[2].val[i/2], k[3].val[i/2], i%2);
        }
        FATTN_UNROLL
        for (int r = 0; r < R; r += 2) {
            const int s = r + 1 < R ? r + 1 : r;
            int32x4_t a01 = vdupq_n_s32(0); // key 0 by row r, by row s, key 1 by them
            int32x4_t a23 = vdupq_n_s32(0);
            FATTN_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int8x16_t rows = fattn_eights(query(r, i/2), query(s, i/2), i%2);
                a01 = vmmlaq_s32(a01, k01[i], rows);
                a23 = vmmlaq_s32(a23, k23[i], rows);
            }
            ints[s] = vuzp2q_s32(a01, a23);
            ints[r] = vuzp1q_s32(a01, a23);
        }
        return;
    }
#endif
    FATTN_UNROLL
    for (int r = 0; r < R; ++r) {
        const int8x16_t q0 = query(r, 0);
        const int8x16_t q1 = query(r, 1);
        int32x4_t a[4];
        FATTN_UNROLL
        for (int j = 0; j < 4; ++j) {
            a[j] = vdotq_s32(vdotq_s32(vdupq_n_s32(0), k[j].val[0], q0), k[j].val[1], q1);
        }
        ints[r] = vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(a[2], a[3]));
    }
}

template <typename T, int R>
void fattn_scores_int(fattn_tile k, int64_t D, const fattn_query * q, float * s, fattn_ahead & ahead) {
    for (int i = 0; i < KEYS_K; i += 4) {
        float32x4_t acc[R];
        for (int r = 0; r < R; ++r) {
            acc[r] = vdupq_n_f32(0.0f);
        }
        for (int64_t b = 0; b < D/32; ++b) {
            if (i % 8 == 0) {
                ahead.tick();
            }
            const T * key[4];
            i8x32     ints[4];
            for (int j = 0; j < 4; ++j) {
                key[j]  = (const T *) (k.data + (i + j)*k.stride) + b;
                ints[j] = T::ints(*key[j]);
            }
            const float32x4_t d = fattn_four_d<T>(key);
            const float32x4_t m = T::has_m ? fattn_four_m<T>(key) : d;
            int32x4_t products[R];
            fattn_four_products<R>(ints, q, b, products);
            FATTN_UNROLL
            for (int r = 0; r < R; ++r) {
                float32x4_t dot = vmulq_f32(vcvtq_f32_s32(products[r]), d);
                if constexpr (T::has_m) {
                    dot = vfmaq_n_f32(dot, m, (float) q[r].sum[b]);
                }
                acc[r] = vfmaq_n_f32(acc[r], dot, q[r].d[b]);
            }
        }
        for (int r = 0; r < R; ++r) {
            vst1q_f32(s + r*KEYS + i, acc[r]);
        }
    }
}

// y: the first bytes of all of KEYS_BYTES rows, then their second bytes, and so on
FATTN_INLINE void fattn_transpose(const int8x16_t * row, int8x16_t * y) {
    int16x8_t twos[KEYS_BYTES]; // 8 values of rows 2i and 2i + 1, then 8 more
    for (int i = 0; i < KEYS_BYTES; i += 2) {
        twos[i]     = vreinterpretq_s16_s8(vzip1q_s8(row[i], row[i + 1]));
        twos[i + 1] = vreinterpretq_s16_s8(vzip2q_s8(row[i], row[i + 1]));
    }
    int32x4_t fours[KEYS_BYTES]; // 4 values of rows 4i..4i + 3, and so on
    for (int i = 0; i < KEYS_BYTES; i += 4) {
        for (int h = 0; h < 2; ++h) {
            fours[i + 2*h]     = vreinterpretq_s32_s16(vzip1q_s16(twos[i + h], twos[i + h + 2]));
            fours[i + 2*h + 1] = vreinterpretq_s32_s16(vzip2q_s16(twos[i + h], twos[i + h + 2]));
        }
    }
    for (int i = 0; i < 4; ++i) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
        y[2*i]     = vreinterpretq_s8_s32(vzip1q_s32(fours[i], fours[i + 4]));
        y[2*i + 1] = vreinterpretq_s8_s32(vzip2q_s32(fours[i], fours[i + 4]));
#else
        y[i] = vreinterpretq_s8_s32(fours[i]);
#endif
    }
}

// rows side by side: 16 values of all of them, then 16 more
template <typename T>
FATTN_INLINE void fattn_bytes_by_value(const T * const * row, int8_t * y) {
    static constexpr int HALF = 16*KEYS_BYTES;
    int8x16_t bytes[KEYS_BYTES];
    int8x16_t by_value[KEYS_BYTES];
    if constexpr (T::nibbles) {
        for (int i = 0; i < KEYS_BYTES; ++i) {
            bytes[i] = vreinterpretq_s8_u8(vld1q_u8(row[i]->b.qs));
        }
        fattn_transpose(bytes, by_value);
        for (int i = 0; i < KEYS_BYTES; ++i) {
            const uint8x16_t both = vreinterpretq_u8_s8(by_value[i]);
            vst1q_s8(y + i*16,        vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))));
            vst1q_s8(y + i*16 + HALF, vreinterpretq_s8_u8(vshrq_n_u8(both, 4)));
        }
    } else {
        i8x32 ints[KEYS_BYTES];
        for (int i = 0; i < KEYS_BYTES; ++i) {
            ints[i] = T::ints(*row[i]);
        }
        for (int h = 0; h < 2; ++h) {
            for (int i = 0; i < KEYS_BYTES; ++i) {
                bytes[i] = ints[i].val[h];
            }
            fattn_transpose(bytes, by_value);
            for (int i = 0; i < KEYS_BYTES; ++i) {
                vst1q_s8(y + i*16 + h*HALF, by_value[i]);
            }
        }
    }
}

// by value, so that all rows of weights are spared it
template <typename T, int B>
void fattn_columns(fattn_tile v, fattn_column * c, fattn_ahead & ahead) {
    for (int i = 0; i < KEYS; i += 16, v.data += 16*v.stride) {
        for (int b = 0; b < B; ++b) {
            fattn_scales<T>({ v.data + b*sizeof(T), v.stride }, c[b].d + i, c[b].m + i);
        }
        for (int j = 0; j < 16; j += KEYS_BYTES) {
            if (j % 8 == 0) {
                ahead.tick();
            }
            for (int b = 0; b < B; ++b) {
                const T * row[KEYS_BYTES];
                for (int n = 0; n < KEYS_BYTES; ++n) {
                    row[n] = (const T *) (v.data + (j + n)*v.stride) + b;
                }
                fattn_bytes_by_value(row, c[b].ints + (i + j)*32);
            }
        }
    }
}

// a[0..8) += products of KEYS_BYTES rows' weights and 16 values of each
FATTN_INLINE void fattn_add_products(int32x4_t * a, const int8x16_t * y, const int8_t * w) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    const int8x16_t weights = vld1q_s8(w); // low bytes, high bytes
    for (int n = 0; n < 8; ++n) {
        a[n] = vmmlaq_s32(a[n], weights, y[n]);
    }
#else
    const int8x8_t weights = vld1_s8(w);
    for (int n = 0; n < 4; ++n) {
        a[2*n]     = vdotq_lane_s32(a[2*n],     y[n], weights, 0);
        a[2*n + 1] = vdotq_lane_s32(a[2*n + 1], y[n], weights, 1);
    }
#endif
}

// 4 sums of values
FATTN_INLINE int32x4_t fattn_whole(int32x4_t a, int32x4_t b) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    const int64x2_t x  = vreinterpretq_s64_s32(a);
    const int64x2_t y  = vreinterpretq_s64_s32(b);
    const int32x4_t lo = vreinterpretq_s32_s64(vzip1q_s64(x, y));
    const int32x4_t hi = vreinterpretq_s32_s64(vzip2q_s64(x, y));
#else
    const int32x4_t lo = a;
    const int32x4_t hi = b;
#endif
    return vaddq_s32(lo, vshlq_n_s32(hi, 8));
}

template <typename T, int R>
void fattn_sums_column(const fattn_column & column, const fattn_weights * w, float * o, size_t ldo, fattn_ahead & ahead) {
    for (int h = 0; h < 2; ++h) { // 16 values: registers hold no more sums
        int32x4_t acc[R][8];
        for (int r = 0; r < R; ++r) {
            for (int n = 0; n < 8; ++n) {
                acc[r][n] = vdupq_n_s32(0);
            }
        }
        for (int i = 0; i < KEYS; i += KEYS_BYTES) {
            if (i % 32 == 0) {
                ahead.tick();
            }
            int8x16_t y[KEYS_BYTES];
            for (int n = 0; n < KEYS_BYTES; ++n) {
                y[n] = vld1q_s8(column.ints + i*32 + h*16*KEYS_BYTES + n*16);
            }
            FATTN_UNROLL
            for (int r = 0; r < R; ++r) {
                fattn_add_products(acc[r], y, w[r].bytes[i/4]);
            }
        }
        for (int r = 0; r < R; ++r) {
            for (int n = 0; n < 4; ++n) {
                float * x = o + r*ldo + h*16 + n*4;
                const float32x4_t had = vaddq_f32(vld1q_f32(x), vdupq_n_f32(w[r].rest));
                const int32x4_t   sum = fattn_whole(acc[r][2*n], acc[r][2*n + 1]);
                vst1q_f32(x, vfmaq_n_f32(had, vcvtq_f32_s32(sum), w[r].scale));
            }
        }
    }
}

} // namespace
