#pragma once

// Without AMX: scores in products of bytes, and pairs of values in bf16

static constexpr int ROWS_VNNI = 4; // of keys at a time, whose sums are held as ints and as floats

static inline __m512i fattn_four(const float * bytes) {
    return _mm512_castps_si512(_mm512_set1_ps(*bytes));
}

// A panel of keys:    bytes[keys][DK], then of each block d[keys][DK/32], m, and 128 times the sum of its bytes, negative
// A panel of queries: fours of bytes [DK/4][LANES], 128 too large, then of each block d[DK/32][LANES] and d times the sum

template <typename T>
static void fattn_panel_bytes(fattn_tile k, int64_t D, float * panel) {
    if constexpr (T::has_d) {
        int8_t * y     = (int8_t *) panel;
        float  * d     = panel + KEYS_BF16*D/4;
        float  * m     = d + KEYS_BF16*D/32;
        float  * start = m + KEYS_BF16*D/32;
        for (int i = 0; i < KEYS_BF16; ++i) {
            const T * row = (const T *) (k.data + i*k.stride);
            for (int64_t b = 0; b < D/32; ++b, y += 32) {
                const __m256i ints = T::ints(row[b]);
                _mm256_storeu_si256((__m256i *) y, ints);
                const __m256i eights = _mm256_sad_epu8(_mm256_xor_si256(ints, _mm256_set1_epi8((char) 128)), _mm256_setzero_si256());
                const __m128i halfs  = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
                const int32_t sum    = _mm_cvtsi128_si32(_mm_add_epi32(halfs, _mm_unpackhi_epi64(halfs, halfs))) - 32*128;
                const int32_t from   = -128*sum;
                memcpy(start++, &from, sizeof(from));
                *d++ = GGML_CPU_FP16_TO_FP32(T::d(row[b]))*T::unit;
                *m++ = T::has_m ? GGML_CPU_FP16_TO_FP32(T::m(row[b])) : 0.0f;
            }
        }
    }
}

// of 16 rows
static void fattn_queries_bytes(const float * const * row, int64_t D, float * y) {
    alignas(64) float fours[16*16] = {};
    float * d   = y + D/4*LANES;
    float * sum = d + D/32*LANES;
    for (int64_t b = 0; b < D/32; ++b) {
        for (int r = 0; r < 16; ++r) {
            const __m512  x0   = _mm512_loadu_ps(row[r] + b*32);
            const __m512  x1   = _mm512_loadu_ps(row[r] + b*32 + 16);
            const float   amax = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
            const __m512  inv  = _mm512_set1_ps(amax > 0.0f ? 127.0f/amax : 0.0f);
            const __m512i i0   = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inv));
            const __m512i i1   = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inv));
            const __m128i more = _mm_set1_epi8((char) 128);
            _mm_store_si128((__m128i *) (fours + r*16),     _mm_xor_si128(_mm512_cvtepi32_epi8(i0), more));
            _mm_store_si128((__m128i *) (fours + r*16 + 4), _mm_xor_si128(_mm512_cvtepi32_epi8(i1), more));
            d  [b*LANES + r] = amax/127.0f;
            sum[b*LANES + r] = amax/127.0f*_mm512_reduce_add_epi32(_mm512_add_epi32(i0, i1));
        }
        alignas(64) float lanes[16*16];
        x16_transpose(fours, 16, lanes, 16);
        for (int j = 0; j < 8; ++j) {
            x16_store(y + (b*8 + j)*LANES, x16_load(lanes + j*16));
        }
    }
}

// s[keys][LANES] = K * Q
template <bool HAS_M>
static void fattn_scores_bytes(const float * k, const float * q, int64_t D, float * s) {
    const float * d     = k + KEYS_BF16*D/4;
    const float * m     = d + KEYS_BF16*D/32;
    const float * start = m + KEYS_BF16*D/32;
    const float * qd    = q  + D/4*LANES;
    const float * qsum  = qd + D/32*LANES;
    for (int i = 0; i < KEYS_BF16; i += ROWS_VNNI) {
        __m512 acc[ROWS_VNNI][2];
        for (int r = 0; r < ROWS_VNNI; ++r) {
            acc[r][0] = acc[r][1] = _mm512_setzero_ps();
        }
        for (int64_t b = 0; b < D/32; ++b) {
            __m512i dot[ROWS_VNNI][2];
            for (int r = 0; r < ROWS_VNNI; ++r) {
                dot[r][0] = dot[r][1] = fattn_four(start + (i + r)*(D/32) + b);
            }
            for (int j = b*8; j < b*8 + 8; ++j) {
                const __m512i q0 = _mm512_loadu_si512(q + j*LANES);
                const __m512i q1 = _mm512_loadu_si512(q + j*LANES + 16);
                for (int r = 0; r < ROWS_VNNI; ++r) {
                    const __m512i four = fattn_four(k + (i + r)*(D/4) + j);
                    dot[r][0] = _mm512_dpbusd_epi32(dot[r][0], q0, four);
                    dot[r][1] = _mm512_dpbusd_epi32(dot[r][1], q1, four);
                }
            }
            for (int r = 0; r < ROWS_VNNI; ++r) {
                for (int x = 0; x < 2; ++x) {
                    const int64_t at  = (i + r)*(D/32) + b;
                    const __m512  sum = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[r][x]), _mm512_set1_ps(d[at]));
                    acc[r][x] = _mm512_fmadd_ps(sum, _mm512_loadu_ps(qd + b*LANES + x*16), acc[r][x]);
                    if (HAS_M) {
                        acc[r][x] = _mm512_fmadd_ps(_mm512_set1_ps(m[at]), _mm512_loadu_ps(qsum + b*LANES + x*16), acc[r][x]);
                    }
                }
            }
        }
        for (int r = 0; r < ROWS_VNNI; ++r) {
            _mm512_storeu_ps(s + (i + r)*LANES,      acc[r][0]);
            _mm512_storeu_ps(s + (i + r)*LANES + 16, acc[r][1]);
        }
    }
}

// 2 keys' values side by side: y[keys/2][DV]
template <typename T>
static void fattn_panel_pairs(fattn_tile v, int64_t D, float * y) {
    for (int i = 0; i < KEYS_BF16; i += 2) {
        const char * row = v.data + i*v.stride;
        for (int64_t b = 0; b < D/T::N; ++b) {
            x16 even[T::N/16];
            x16 odd [T::N/16];
            fattn_values_of(((const T *) row)[b], even);
            fattn_values_of(((const T *) (row + v.stride))[b], odd);
            for (int x = 0; x < T::N/16; ++x, y += 16) {
                _mm512_storeu_ps(y, fattn_bf16_pair(even[x].r[0], odd[x].r[0]));
            }
        }
    }
}

// o[DV][LANES] += V * P, P in pairs of keys
static void fattn_sums_pairs(const float * v, const float * p, int64_t D, float * o) {
    for (int64_t d = 0; d < D; d += GEMM_ROWS, v += GEMM_ROWS, o += GEMM_ROWS*LANES) {
        __m512 acc[GEMM_ROWS][2];
        for (int m = 0; m < GEMM_ROWS; ++m) {
            for (int x = 0; x < 2; ++x) {
                acc[m][x] = _mm512_loadu_ps(o + m*LANES + x*16);
            }
        }
        for (int i = 0; i < KEYS_BF16/2; ++i) {
            const __m512bh p0 = (__m512bh) _mm512_loadu_ps(p + i*LANES);
            const __m512bh p1 = (__m512bh) _mm512_loadu_ps(p + i*LANES + 16);
            for (int m = 0; m < GEMM_ROWS; ++m) {
                const __m512bh pair = (__m512bh) _mm512_set1_ps(v[i*D + m]);
                acc[m][0] = _mm512_dpbf16_ps(acc[m][0], p0, pair);
                acc[m][1] = _mm512_dpbf16_ps(acc[m][1], p1, pair);
            }
        }
        for (int m = 0; m < GEMM_ROWS; ++m) {
            for (int x = 0; x < 2; ++x) {
                _mm512_storeu_ps(o + m*LANES + x*16, acc[m][x]);
            }
        }
    }
}
