#pragma once

// Products of bytes: what is the same whatever multiplies them

#include "decode.h"

namespace {

constexpr int BYTES_ZERO = 128; // one side of a product has to be unsigned

constexpr int ROWS_INT = 8; // of scores at a time

// how often at least these kernels call tick() for a tile of a KV head, which they multiply in so many passes
inline int64_t fattn_int_ticks(int64_t D, int64_t passes) {
    return D/32*(KEYS/16)*(1 + passes);
}

inline void fattn_quantize(const fattn_query & q, int64_t D) {
    for (int64_t b = 0; b < D/32; ++b) {
        const x16   x0   = x16_load(q.f + b*32);
        const x16   x1   = x16_load(q.f + b*32 + 16);
        const float amax = x16_hmax(x16_max(x16_abs(x0), x16_abs(x1)));
        const float inv  = amax > 0.0f ? 127.0f/amax : 0.0f;
        q.d[b]   = amax/127.0f;
        q.sum[b] = x16_bytes(x16_mul(x0, inv), q.i + b*8) + x16_bytes(x16_mul(x1, inv), q.i + b*8 + 4);
    }
}

// what the bytes of V are more than its ints
template <typename T>
constexpr int fattn_zero = T::has_m ? 0 : T::nibbles ? 8 : BYTES_ZERO;

// The same block of each row of a tile, side by side
struct fattn_column {
    alignas(64) int8_t ints[KEYS*32];
    alignas(64) float  d[KEYS];
    alignas(64) float  m[KEYS];
};

// p times d of a column in 16 bits, as two bytes for the products: p*d = scale*(256*hi + lo)
struct fattn_weights {
    static constexpr float MAX = 127*256 + 127;
    alignas(64) int8_t bytes[KEYS/4][X16_HALVES]; // lo of 4 keys, hi of them
    float scale;
    float rest; // of each sum: of m, or what fattn_zero is too much

    template <typename T>
    void set(const float * p, const fattn_column & column) {
        x16 pd[KEYS/16];
        x16 most = x16_set(0.0f);
        x16 pm   = x16_set(0.0f);
        for (int i = 0; i < KEYS/16; ++i) {
            const x16 pi = x16_load(p + i*16);
            pd[i] = x16_mul(pi, x16_load(column.d + i*16));
            most  = x16_max(most, x16_abs(pd[i]));
            if constexpr (T::has_m) {
                pm = x16_fma(pi, x16_load(column.m + i*16), pm);
            }
        }
        const float max = x16_hmax(most);
        const float inv = max > 0.0f ? MAX/max : 0.0f;
        x16 sum = x16_set(0.0f); // of whole numbers, and exact: 128 times MAX is less than 2^24
        for (int i = 0; i < KEYS/16; ++i) {
            sum = x16_add(sum, x16_halves(x16_mul(pd[i], inv), bytes[i*4]));
        }
        scale = max/MAX;
        rest  = T::has_m ? x16_sum(pm) : fattn_zero<T> ? -fattn_zero<T>*scale*x16_sum(sum) : 0.0f;
    }
};

// s[r][i] = dot(row i of K, row r of Q)
template <typename T, int R>
void fattn_scores_int(fattn_tile k, int64_t D, const fattn_query * q, float * s, fattn_ahead & ahead);

// the first B blocks of each row
template <typename T, int B>
void fattn_columns(fattn_tile v, fattn_column * c, fattn_ahead & ahead);

// o[r][0..32) += sum over i of w[r][i] * row i of a column
template <typename T, int R>
void fattn_sums_column(const fattn_column & column, const fattn_weights * w, float * o, size_t ldo, fattn_ahead & ahead);

template <typename T>
void fattn_sums_int(fattn_tile v, int64_t D, const float * p, int rows, float * o, size_t ldo, fattn_ahead & ahead) {
    fattn_column c[2];
    // two blocks at a time, since finding a row costs as much as reading one
    for (int64_t b = 0; b < D/32; b += 2, v.data += 2*sizeof(T)) {
        const int n = b + 1 < D/32 ? 2 : 1;
        if (n == 2) {
            fattn_columns<T, 2>(v, c, ahead);
        } else {
            fattn_columns<T, 1>(v, c, ahead);
        }
        fattn_each_rows<ROWS_REG>(rows, [&](auto R, int r) {
            for (int i = 0; i < n; ++i) {
                fattn_weights w[R];
                for (int j = 0; j < R; ++j) {
                    w[j].template set<T>(p + (r + j)*KEYS, c[i]);
                }
                fattn_sums_column<T, R>(c[i], w, o + r*ldo + (b + i)*32, ldo, ahead);
            }
        });
    }
}

} // namespace
