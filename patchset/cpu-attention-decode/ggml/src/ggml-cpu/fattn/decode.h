#pragma once

// What the kernels of decode.cpp use

#include "plan.h"
#include "blocks.h"

#include <type_traits>

// before loops over an array that is to be registers: GCC otherwise writes it to memory in each round
#if defined(__GNUC__) && !defined(__clang__)
#define FATTN_UNROLL _Pragma("GCC unroll 8")
#else
#define FATTN_UNROLL
#endif

namespace {

constexpr int KEYS   = 128; // of a tile
constexpr int KEYS_K = 16;  // of K at a time, of all KV heads: they lie side by side, and share cache lines
static_assert(KEYS % KEYS_K == 0, "room for KEYS holds KEYS_K at a time, too");

constexpr int ROWS_REG = FREG == 16 ? 4 : 2; // rows at a time, as many as registers hold the sums of
constexpr int COLS_REG = FREG == 16 ? 4 : 2; // x16s of a row of V
constexpr int KEYS_REG = FREG == 16 ? 4 : 2; // rows of K

// d and m of the block at the same place of 16 rows
template <typename T>
inline void fattn_scales(fattn_tile t, float * d, float * m) {
    ggml_half dh[16];
    ggml_half mh[16];
    for (int i = 0; i < 16; ++i) {
        const T & b = *(const T *) (t.data + i*t.stride);
        dh[i] = T::d(b);
        mh[i] = T::m(b);
    }
    x16_store(d, x16_f16(dh));
    if constexpr (T::has_m) {
        x16_store(m, x16_f16(mh));
    }
}

// f(R, r) for r = 0, ROWS_REG, ..., R constants that add up to rows
template <typename F>
inline void fattn_each_rows(int rows, F && f) {
    for (int r = 0; r < rows; r += ROWS_REG) {
        switch (rows - r) {
            case 1:  f(std::integral_constant<int, 1>{}, r); break;
            case 2:  f(std::integral_constant<int, 2>{}, r); break;
            case 3:  f(std::integral_constant<int, std::min(3, ROWS_REG)>{}, r); break;
            default: f(std::integral_constant<int, ROWS_REG>{}, r); break;
        }
    }
}

} // namespace
