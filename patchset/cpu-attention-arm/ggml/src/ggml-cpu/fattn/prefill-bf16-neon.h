#pragma once

// Panels in bf16, multiplied by NEON's matrix products: 2 rows of 4 values by 2 columns. Panels hold 8 rows (or columns):
// the first 4 values of each, then their next 4, and so on.

static inline uint64x2_t fattn_bf16(float32x4_t lo, float32x4_t hi) {
    return vreinterpretq_u64_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(lo), hi));
}

// 8 values from d on of a row, into a panel of 8 rows
static inline void fattn_bf16_row(float32x4_t lo, float32x4_t hi, int row, int64_t d, uint16_t * panel) {
    const uint64x2_t fours = fattn_bf16(lo, hi);
    uint64_t * y = (uint64_t *) (panel + d*8) + row;
    y[0] = vgetq_lane_u64(fours, 0);
    y[8] = vgetq_lane_u64(fours, 1);
}

// 16 queries, pad(D, 32) values each
static void fattn_queries_bf16(const float * const * row, int64_t D, float * panel) {
    const int64_t padded = GGML_PAD(D, 32);
    for (int r = 0; r < LANES; ++r) {
        uint16_t * y = (uint16_t *) panel + r/8*8*padded;
        for (int64_t d = 0; d < padded; d += 16) {
            const x16 f = d < D ? x16_load(row[r] + d) : x16_set(0.0f);
            fattn_bf16_row(f.r[0], f.r[1], r%8, d,     y);
            fattn_bf16_row(f.r[2], f.r[3], r%8, d + 8, y);
        }
    }
}

// e^(factor*s + low) of 16 rows, as panels of keys; zero from n on
static void fattn_softmax_bf16(int n, const float * s, float factor, const x16 * low, float * p, x16 * sum) {
    for (int i = 0; i < KEYS_BF16; i += 4) {
        x16 w[4];
        for (int j = 0; j < 4; ++j) {
            w[j] = x16_set(0.0f);
            if (i + j < n) {
                w[j] = x16_exp(x16_fma(x16_load(s + (i + j)*LANES), factor, low[0]));
                sum[0] = x16_add(sum[0], w[j]);
            }
        }
        for (int x = 0; x < 4; ++x) {
            const uint16x8_t k01 = vreinterpretq_u16_u64(fattn_bf16(w[0].r[x], w[1].r[x]));
            const uint16x8_t k23 = vreinterpretq_u16_u64(fattn_bf16(w[2].r[x], w[3].r[x]));
            const uint16x8_t k02 = vzip1q_u16(k01, k23);
            const uint16x8_t k13 = vzip2q_u16(k01, k23);
            uint16_t * y = (uint16_t *) p + x/2*8*KEYS_BF16 + i*8 + x%2*16;
            vst1q_u16(y,     vzip1q_u16(k02, k13));
            vst1q_u16(y + 8, vzip2q_u16(k02, k13));
        }
    }
}

// rows of K
template <typename T>
static void fattn_panel_bf16(fattn_tile k, int64_t D, float * panel) {
    const int64_t padded = GGML_PAD(D, 32);
    for (int i = 0; i < KEYS_BF16; ++i) {
        const T  * row = (const T *) (k.data + i*k.stride);
        uint16_t * y   = (uint16_t *) panel + i/8*8*padded;
        for (int64_t d = 0; d < padded; d += T::N) {
            x16 f[T::N/16] = {};
            if (d < D) {
                fattn_values_of(row[d/T::N], f);
            }
            for (int x = 0; x < T::N/16; ++x) {
                fattn_bf16_row(f[x].r[0], f[x].r[1], i%8, d + x*16,     y);
                fattn_bf16_row(f[x].r[2], f[x].r[3], i%8, d + x*16 + 8, y);
            }
        }
    }
}

// columns of V, as rows of keys
template <typename T>
static void fattn_panel_bf16_transposed(fattn_tile v, int64_t D, float * panel) {
    for (int i = 0; i < KEYS_BF16; i += 4) {
        for (int64_t b = 0; b < D/T::N; ++b) {
            x16 f[4][T::N/16];
            for (int j = 0; j < 4; ++j) {
                fattn_values_of(((const T *) (v.data + (i + j)*v.stride))[b], f[j]);
            }
            for (int n = 0; n < T::N/8; ++n) {
                const auto row = [&](int j) {
                    const x16 & y = f[j][n/2];
                    return vreinterpretq_u16_u64(fattn_bf16(y.r[n%2*2], y.r[n%2*2 + 1]));
                };
                const uint16x8_t k0 = row(0), k1 = row(1), k2 = row(2), k3 = row(3);
                const uint16x8_t k02[2] = { vzip1q_u16(k0, k2), vzip2q_u16(k0, k2) };
                const uint16x8_t k13[2] = { vzip1q_u16(k1, k3), vzip2q_u16(k1, k3) };
                uint16_t * y = (uint16_t *) panel + (b*T::N + n*8)*KEYS_BF16 + i*8;
                for (int h = 0; h < 2; ++h) {
                    vst1q_u16(y + h*16,     vzip1q_u16(k02[h], k13[h]));
                    vst1q_u16(y + h*16 + 8, vzip2q_u16(k02[h], k13[h]));
                }
            }
        }
    }
    memset((uint16_t *) panel + D*KEYS_BF16, 0, (GGML_PAD(D, 32) - D)*KEYS_BF16*sizeof(uint16_t));
}

// C[32][16] (+)= A[32][K] * B[K][16], A in panels of 8 rows, B of 8 columns
template <bool ADD>
static inline void fattn_gemm_bf16(const fattn &, float * c, const uint16_t * a, size_t, const float * b, int K) {
    const auto load = [](const uint16_t * x) { return vreinterpretq_bf16_u16(vld1q_u16(x)); };
    const auto low  = [](float32x4_t x, float32x4_t y) { return vcombine_f32(vget_low_f32(x),  vget_low_f32(y)); };
    const auto high = [](float32x4_t x, float32x4_t y) { return vcombine_f32(vget_high_f32(x), vget_high_f32(y)); };
    for (int i = 0; i < 32; i += 8, a += 8*K) {
        const uint16_t * bx = (const uint16_t *) b;
        for (int x = 0; x < LANES; x += 8, bx += 8*K) {
            float * cx = c + i*LANES + x;
            float32x4_t acc[4][4]; // of 2 rows and 2 columns
            for (int m = 0; m < 4; ++m) {
                for (int n = 0; n < 4; n += 2) {
                    float * c0 = cx + m*2*LANES + n*2;
                    const float32x4_t row0 = ADD ? vld1q_f32(c0)         : vdupq_n_f32(0.0f);
                    const float32x4_t row1 = ADD ? vld1q_f32(c0 + LANES) : vdupq_n_f32(0.0f);
                    acc[m][n]     = low (row0, row1);
                    acc[m][n + 1] = high(row0, row1);
                }
            }
            for (int k = 0; k < K; k += 4) {
                bfloat16x8_t am[4];
                bfloat16x8_t bn[4];
                for (int m = 0; m < 4; ++m) {
                    am[m] = load(a  + k*8 + m*8);
                    bn[m] = load(bx + k*8 + m*8);
                }
                for (int m = 0; m < 4; ++m) {
                    for (int n = 0; n < 4; ++n) {
                        acc[m][n] = vbfmmlaq_f32(acc[m][n], am[m], bn[n]);
                    }
                }
            }
            for (int m = 0; m < 4; ++m) {
                for (int n = 0; n < 4; n += 2) {
                    float * c0 = cx + m*2*LANES + n*2;
                    vst1q_f32(c0,         low (acc[m][n], acc[m][n + 1]));
                    vst1q_f32(c0 + LANES, high(acc[m][n], acc[m][n + 1]));
                }
            }
        }
    }
}
