#pragma once

// Products of bytes by AVX-512 VNNI, a lane a key, or a value

#include "decode-bytes.h"

namespace {

template <typename T>
inline __m512i fattn_unsigned(__m512i ints) {
    return T::has_m ? ints : _mm512_xor_si512(ints, _mm512_set1_epi8((char) 0x80));
}

//
// s[r][i] = dot(row i of K, row r of Q)
//

// a block of 16 rows -> 8 registers, lane i of register j: unsigned bytes 4j..4j+3 of row i
template <typename T>
inline void fattn_bytes_by_row(fattn_tile k, __m512i * w) {
    const auto rows = [&](size_t i) { // i and i + 4
        const __m256i lo = T::ints(*(const T *) (k.data + i*k.stride));
        const __m256i hi = T::ints(*(const T *) (k.data + (i + 4)*k.stride));
        return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
    };
    __m512i t[8];
    for (int i = 0; i < 8; i += 4) {
        const __m512i z0 = rows(2*i);
        const __m512i z1 = rows(2*i + 1);
        const __m512i z2 = rows(2*i + 2);
        const __m512i z3 = rows(2*i + 3);
        const __m512i a = _mm512_unpacklo_epi32(z0, z1);
        const __m512i b = _mm512_unpackhi_epi32(z0, z1);
        const __m512i c = _mm512_unpacklo_epi32(z2, z3);
        const __m512i d = _mm512_unpackhi_epi32(z2, z3);
        t[i + 0] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int j = 0; j < 4; ++j) {
        w[j]     = fattn_unsigned<T>(_mm512_shuffle_i32x4(t[j], t[j + 4], 0x88));
        w[j + 4] = fattn_unsigned<T>(_mm512_shuffle_i32x4(t[j], t[j + 4], 0xdd));
    }
}

template <typename T, int R>
void fattn_scores_int(fattn_tile k, int64_t D, const fattn_query * q, float * s, fattn_ahead & ahead) {
    static_assert(KEYS_K == 16, "a lane a key");
    __m512 acc[R];
    for (int r = 0; r < R; ++r) {
        acc[r] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < D/32; ++b, k.data += sizeof(T)) {
        ahead.tick();
        alignas(64) float d[16];
        alignas(64) float m[16];
        fattn_scales<T>(k, d, m);
        __m512i w[8];
        fattn_bytes_by_row<T>(k, w);
        ahead.tick();
        for (int r = 0; r < R; ++r) {
            __m512i a0 = T::has_m ? _mm512_setzero_si512() : _mm512_set1_epi32(-128*q[r].sum[b]);
            __m512i a1 = _mm512_setzero_si512();
            for (int j = 0; j < 8; j += 2) {
                a0 = _mm512_dpbusd_epi32(a0, w[j],     _mm512_set1_epi32(q[r].i[b*8 + j]));
                a1 = _mm512_dpbusd_epi32(a1, w[j + 1], _mm512_set1_epi32(q[r].i[b*8 + j + 1]));
            }
            __m512 dot = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(a0, a1)), _mm512_load_ps(d));
            if constexpr (T::has_m) {
                dot = _mm512_fmadd_ps(_mm512_load_ps(m), _mm512_set1_ps(q[r].sum[b]), dot);
            }
            acc[r] = _mm512_fmadd_ps(dot, _mm512_set1_ps(q[r].d[b]), acc[r]);
        }
    }
    for (int r = 0; r < R; ++r) {
        _mm512_store_ps(s + r*KEYS, acc[r]);
    }
}

//
// o[r][..] += sum over i of p[r][i] * row i of V
//

// nibbles stay together
template <typename T, int B>
void fattn_columns(fattn_tile v, fattn_column * c, fattn_ahead & ahead) {
    for (int i = 0; i < KEYS; i += 16, v.data += 16*v.stride) {
        for (int b = 0; b < B; ++b) {
            fattn_scales<T>({ v.data + b*sizeof(T), v.stride }, c[b].d + i, c[b].m + i);
        }
        for (int j = 0; j < 16; ++j) {
            if (j % 8 == 0) {
                ahead.tick();
            }
            const T * row = (const T *) (v.data + j*v.stride);
            for (int b = 0; b < B; ++b) {
                if constexpr (T::nibbles) {
                    _mm_store_si128((__m128i *) (c[b].ints + (i + j)*16), _mm_loadu_si128((const __m128i *) row[b].b.qs));
                } else {
                    _mm256_store_si256((__m256i *) (c[b].ints + (i + j)*32), T::ints(row[b]));
                }
            }
        }
    }
}

// 4 rows of a column -> y[0], y[1]: lane n holds values n (16 + n) of the rows, unsigned bytes
template <typename T>
inline void fattn_bytes_by_value(const fattn_column & column, int i, __m512i * y) {
    const __m512i by_value = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    if constexpr (T::nibbles) {
        const __m512i by_fours = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const __m512i rows = _mm512_load_si512(column.ints + i*16);
        y[0] = _mm512_shuffle_epi8(_mm512_permutexvar_epi32(by_fours, rows), by_value); // 16 times y[1] too much
        y[1] = _mm512_and_si512(_mm512_srli_epi16(y[0], 4), _mm512_set1_epi8(15));
    } else {
        const __m512i by_fours = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
        const __m512i rows01 = _mm512_load_si512(column.ints + i*32);
        const __m512i rows23 = _mm512_load_si512(column.ints + i*32 + 64);
        for (int h = 0; h < 2; ++h) {
            const __m512i fours = _mm512_add_epi32(by_fours, _mm512_set1_epi32(4*h));
            const __m512i z     = _mm512_shuffle_epi8(_mm512_permutex2var_epi32(rows01, fours, rows23), by_value);
            y[h] = fattn_unsigned<T>(z);
        }
    }
}

inline __m512i fattn_four(const int8_t * bytes) {
    int32_t four;
    memcpy(&four, bytes, sizeof(four));
    return _mm512_set1_epi32(four);
}

template <typename T, int R>
void fattn_sums_column(const fattn_column & column, const fattn_weights * w, float * o, size_t ldo, fattn_ahead & ahead) {
    __m512i lo[R][2];
    __m512i hi[R][2];
    for (int r = 0; r < R; ++r) {
        lo[r][0] = lo[r][1] = hi[r][0] = hi[r][1] = _mm512_setzero_si512();
    }
    for (int i = 0; i < KEYS; i += 16) {
        ahead.tick();
        for (int j = i; j < i + 16; j += 4) {
            __m512i y[2];
            fattn_bytes_by_value<T>(column, j, y);
            for (int r = 0; r < R; ++r) {
                const __m512i wl = fattn_four(w[r].bytes[j/4]);
                const __m512i wh = fattn_four(w[r].bytes[j/4] + 4);
                for (int h = 0; h < 2; ++h) {
                    lo[r][h] = _mm512_dpbusd_epi32(lo[r][h], y[h], wl);
                    hi[r][h] = _mm512_dpbusd_epi32(hi[r][h], y[h], wh);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        __m512i sums[2];
        for (int h = 0; h < 2; ++h) {
            sums[h] = _mm512_add_epi32(lo[r][h], _mm512_slli_epi32(hi[r][h], 8));
        }
        if constexpr (T::nibbles) {
            sums[0] = _mm512_sub_epi32(sums[0], _mm512_slli_epi32(sums[1], 4));
        }
        for (int h = 0; h < 2; ++h) {
            float * x = o + r*ldo + h*16;
            const __m512 had = _mm512_add_ps(_mm512_loadu_ps(x), _mm512_set1_ps(w[r].rest));
            _mm512_storeu_ps(x, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[h]), _mm512_set1_ps(w[r].scale), had));
        }
    }
}

} // namespace
