#pragma once

// f16 weights times many rows of floats, in blocks that stay in the CPU's caches: C[m][n] = sum over k of A[m][k]*B[n][k].
// Sums are those of tinygemm_kernel_avx, 16 lanes along k, in the same order.

#include "ggml-impl.h"

#include <algorithm>
#include <immintrin.h>

namespace {

#if defined(__GNUC__)
#define F16_UNROLL _Pragma("GCC unroll 8")
#else
#define F16_UNROLL
#endif

constexpr int F16_ROWS   = 4;   // of A at a time, and of B: as many as registers hold the sums of
constexpr int F16_BLOCK  = 64;  // most rows of A that a unit of work multiplies
constexpr int F16_DEPTH  = 48;  // most vectors along k that a panel of B holds as floats
constexpr int F16_CACHED = 512*1024/sizeof(float); // floats of A that stay in the second cache

// rows of A in a block
inline int f16_block(int K) {
    return std::max(F16_ROWS, std::min(F16_BLOCK, F16_CACHED/K/F16_ROWS*F16_ROWS));
}

// c[row*COLS + col] += products of n vectors
template <int ROWS, int COLS>
inline void f16_products(const float * a, int lda, const __m512 (* b)[F16_DEPTH], int n, __m512 * c) {
    __m512 sums[ROWS][COLS];
    F16_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        F16_UNROLL
        for (int col = 0; col < COLS; ++col) {
            sums[row][col] = c[row*COLS + col];
        }
    }
    for (int i = 0; i < n; ++i) {
        __m512 vb[COLS];
        F16_UNROLL
        for (int col = 0; col < COLS; ++col) {
            vb[col] = b[col][i];
        }
        F16_UNROLL
        for (int row = 0; row < ROWS; ++row) {
            const __m512 va = _mm512_loadu_ps(a + row*lda + i*16);
            F16_UNROLL
            for (int col = 0; col < COLS; ++col) {
                sums[row][col] = _mm512_fmadd_ps(va, vb[col], sums[row][col]);
            }
        }
    }
    F16_UNROLL
    for (int row = 0; row < ROWS; ++row) {
        F16_UNROLL
        for (int col = 0; col < COLS; ++col) {
            c[row*COLS + col] = sums[row][col];
        }
    }
}

// M rows of A, at most F16_BLOCK, times COLS rows of B
template <int COLS>
void f16_columns(int M, int K, const float * A, const ggml_fp16_t * B, float * C, int ldc) {
    alignas(64) __m512 b[COLS][F16_DEPTH];
    alignas(64) __m512 c[F16_BLOCK*COLS];
    for (int i = 0; i < M*COLS; ++i) {
        c[i] = _mm512_setzero_ps();
    }
    const int parts = (K/16 + F16_DEPTH - 1)/F16_DEPTH;
    const int depth = (K/16 + parts - 1)/parts;
    for (int k = 0; k < K; k += depth*16) {
        const int n = std::min(depth, (K - k)/16);
        for (int col = 0; col < COLS; ++col) {
            for (int i = 0; i < n; ++i) {
                b[col][i] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) (B + (int64_t) col*K + k + i*16)));
            }
        }
        for (int row = 0; row < M; row += F16_ROWS) {
            const float * a = A + (int64_t) row*K + k;
            switch (M - row) {
                case 1:  f16_products<1, COLS>(a, K, b, n, c + row*COLS); break;
                case 2:  f16_products<2, COLS>(a, K, b, n, c + row*COLS); break;
                case 3:  f16_products<3, COLS>(a, K, b, n, c + row*COLS); break;
                default: f16_products<4, COLS>(a, K, b, n, c + row*COLS); break;
            }
        }
    }
    for (int row = 0; row < M; ++row) {
        for (int col = 0; col < COLS; ++col) {
            C[row*ldc + col] = _mm512_reduce_add_ps(c[row*COLS + col]);
        }
    }
}

} // namespace
