#pragma once

#include "common.cuh"

// Blocks of the types of a KV cache: 32 values each, unpacked to half2.

#define FATTN_QUANT_TYPES(X) X(F16) X(Q8_0) X(Q6_0) X(Q5_1) X(Q5_0) X(Q4_1) X(Q4_0) X(IQ4_NL) X(Q3_NL)

// Bytes of a block, 0 for a type that is not one of these.
static constexpr __host__ __device__ int fattn_quant_block_bytes(const ggml_type type) {
    return
        type == GGML_TYPE_F16    ? 64 :
        type == GGML_TYPE_Q8_0   ? 34 :
        type == GGML_TYPE_Q6_0   ? 26 :
        type == GGML_TYPE_Q5_1   ? 24 :
        type == GGML_TYPE_Q5_0   ? 22 :
        type == GGML_TYPE_Q4_1   ? 20 :
        type == GGML_TYPE_Q4_0   ? 18 :
        type == GGML_TYPE_IQ4_NL ? 18 :
        type == GGML_TYPE_Q3_NL  ? 13 : 0;
}

// Whether a byte has the lower 4 bits of values j and j + 16.
static constexpr __host__ __device__ bool fattn_quant_is_nibbles(const ggml_type type) {
    return type != GGML_TYPE_F16 && type != GGML_TYPE_Q8_0 && type != GGML_TYPE_Q3_NL;
}

// Threads unpack segments of ne = 8, 16 or 32 values of a block, in an order that suits its type. A thread that has n_share
// values of a row in such segments, and the lane-th of these shares: its value n is that of the row at first + offset.
static constexpr __host__ __device__ int fattn_quant_first(const bool nibbles, const int n_share, const int lane) {
    return nibbles ? lane*n_share/32*32 + lane*n_share%32/2 : lane*n_share;
}

static constexpr __host__ __device__ int fattn_quant_offset(const bool nibbles, const int ne, const int n) {
    return nibbles ? n/32*32 + n%32/ne*(ne/2) + n%ne/8*4 + n%4 + (n%8 >= 4 ? 16 : 0) : n;
}

// n words from any address. The aligned words around them are read, and if not exact even one behind them.
template <bool exact>
struct fattn_quant_words {
    const uint32_t * words;
    int              shift;

    __device__ __forceinline__ fattn_quant_words(const char * p) :
        words((const uint32_t *) (p - ((uintptr_t) p & 3))), shift(8*((uintptr_t) p & 3)) {}

    template <int n>
    __device__ __forceinline__ void load(const int offset_bytes, uint32_t * w) const {
        const uint32_t * a = words + offset_bytes/4;
        uint32_t below = a[0];
#pragma unroll
        for (int i = 0; i < n; ++i) {
            const uint32_t above = a[!exact || i + 1 < n || shift != 0 ? i + 1 : i];
            w[i]  = __funnelshift_r(below, above, shift);
            below = above;
        }
    }
};

// bits 0 to 3 of b to bit 0 of bytes 0 to 3, then left by shift
template <int shift>
static __device__ __forceinline__ uint32_t fattn_quant_spread(const uint32_t b) {
    return ((b & 0xF)*(0x00204081u << shift)) & (0x01010101u << shift);
}

// A segment of a block, in rows whose distance is a multiple of 4 bytes.
template <ggml_type type, int ne, bool exact = false>
struct fattn_quant_segment {
    static constexpr bool nibbles = fattn_quant_is_nibbles(type);
    static constexpr bool has_min = type == GGML_TYPE_Q4_1 || type == GGML_TYPE_Q5_1;
    static constexpr int  bias    = // of the integers
        type == GGML_TYPE_Q4_0 ? 8 : type == GGML_TYPE_Q5_0 ? 16 : type == GGML_TYPE_Q6_0 ? 32 : has_min ? 0 : 128;
    static constexpr int  at_qh   = type == GGML_TYPE_Q3_NL ? 1 : type == GGML_TYPE_Q5_1 ? 4 : 2;
    static constexpr int  at_qs   = type == GGML_TYPE_Q3_NL ? 5 : type == GGML_TYPE_Q5_1 ? 8 :
        type == GGML_TYPE_Q5_0 ? 6 : type == GGML_TYPE_Q6_0 ? 10 : type == GGML_TYPE_Q4_1 ? 4 : 2;

    const char *      block;
    int               s; // of the block's segments
    fattn_quant_words<exact> qs;
    fattn_quant_words<exact> qh;

    __device__ __forceinline__ fattn_quant_segment(const char * row, const int segment) :
        block(row + segment*ne/32*fattn_quant_block_bytes(type)), s(segment % (32/ne)),
        qs(block + at_qs + (type == GGML_TYPE_Q3_NL ? 0 : nibbles ? s*ne/2 : s*ne)), qh(block + at_qh) {}

    __device__ __forceinline__ half scale(const int row_bytes) const {
        if constexpr (type == GGML_TYPE_Q3_NL) {
            return __hmul(__ushort_as_half(uint16_t(*(const uint8_t *) (block + row_bytes)) << 8), __float2half(1.0f/128.0f));
        }
        return *(const half *) (block + row_bytes);
    }

    __device__ __forceinline__ half min(const int row_bytes) const {
        return *(const half *) (block + row_bytes + 2);
    }

    // Each value as an integer from 0 to 255, a byte each. value = (integer - bias)*scale, or integer*scale + min.
    __device__ __forceinline__ void integers(const int row_bytes, uint32_t * u) const {
        if constexpr (type == GGML_TYPE_Q8_0) {
            qs.template load<ne/4>(row_bytes, u);
#pragma unroll
            for (int i = 0; i < ne/4; ++i) {
                u[i] ^= 0x80808080;
            }
        } else if constexpr (type == GGML_TYPE_Q3_NL) {
            // the levels and 128
            constexpr uint32_t levels_lo =   1 |  52 << 8 |  84 << 16 | 110u << 24;
            constexpr uint32_t levels_hi = 135 | 161 << 8 | 191 << 16 | 232u << 24;
            uint32_t h, w[2];
            qh.template load<1>(row_bytes, &h);
            qs.template load<2>(row_bytes, w);
#pragma unroll
            for (int i = 0; i < ne/4; ++i) {
                const int      e = s*ne + 4*i;
                const uint32_t q = ((w[i % 2] >> (e/8*2)) & 0x03030303) | fattn_quant_spread<2>(h >> e);
                const uint32_t p = q | q >> 4;
                u[i] = __byte_perm(levels_lo, levels_hi, (p & 0xFF) | (p >> 8 & 0xFF00));
            }
        } else {
            uint32_t w[ne/8];
            uint32_t h[2] = {0, 0};
            qs.template load<ne/8>(row_bytes, w);
            if constexpr (type == GGML_TYPE_Q5_0 || type == GGML_TYPE_Q5_1) {
                qh.template load<1>(row_bytes, h);
            } else if constexpr (type == GGML_TYPE_Q6_0) {
                qh.template load<2>(row_bytes, h);
            }
#pragma unroll
            for (int i = 0; i < ne/8; ++i) {
                const int e = s*(ne/2) + 4*i; // values e to e + 3, and those 16 further on
                uint32_t & lo = u[2*i + 0];
                uint32_t & hi = u[2*i + 1];
                if constexpr (type == GGML_TYPE_IQ4_NL) {
                    // the levels and 128
                    constexpr uint32_t levels[4] = {
                          1 |  24 << 8 |  45 << 16 |  63u << 24,  79 |  93 << 8 | 106 << 16 | 118u << 24,
                        129 | 141 << 8 | 153 << 16 | 166u << 24, 181 | 197 << 8 | 217 << 16 | 241u << 24,
                    };
                    const uint32_t upper = 0x32103210 | (w[i] >> 1 & 0x44444444);
                    uint32_t v[2];
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        v[j] = __byte_perm(
                            __byte_perm(levels[0], levels[1], w[i] >> 16*j), __byte_perm(levels[2], levels[3], w[i] >> 16*j), upper >> 16*j);
                    }
                    lo = __byte_perm(v[0], v[1], 0x6420);
                    hi = __byte_perm(v[0], v[1], 0x7531);
                    continue;
                }
                lo = w[i] >> 0 & 0x0F0F0F0F;
                hi = w[i] >> 4 & 0x0F0F0F0F;
                if constexpr (type == GGML_TYPE_Q5_0 || type == GGML_TYPE_Q5_1) {
                    lo |= fattn_quant_spread<4>(h[0] >> e);
                    hi |= fattn_quant_spread<4>(h[0] >> (e + 16));
                } else if constexpr (type == GGML_TYPE_Q6_0) {
                    const uint32_t h_e = (e & 4 ? h[1] : h[0]) >> (e/8*2);
                    lo |= h_e << 4 & 0x30303030;
                    hi |= h_e      & 0x30303030;
                }
            }
        }
    }

    // 2 such integers, bytes 0 and 1 or 2 and 3 of u, as values. The half 0x6400 + u is 1024 + u. The bytes of byte_64 are 0x64.
    static __device__ __forceinline__ half2 value(
            const uint32_t u, const bool upper, const half2 scale, const half2 min, const uint32_t byte_64) {
        const uint32_t x = __byte_perm(u, byte_64, upper ? 0x4342 : 0x4140);
        const half2    i = __hsub2(*(const half2 *) &x, __half2half2(__int2half_rn(1024 + bias)));
        return has_min ? __hfma2(i, scale, min) : __hmul2(i, scale);
    }
};

// The segment of one row: ne/2 pairs of neighbors in the order of the integers.
template <ggml_type type, int ne, bool exact>
static __device__ __forceinline__ void fattn_quant_load(
        const fattn_quant_segment<type, ne, exact> & segment, const int row_bytes, const uint32_t byte_64, half2 * out) {
    if constexpr (type == GGML_TYPE_F16) {
#pragma unroll
        for (int i = 0; i < ne; i += 8) {
            ggml_cuda_memcpy_1<16>(out + i/2, segment.block + row_bytes + 2*(segment.s*ne + i));
        }
    } else {
        uint32_t u[ne/4];
        segment.integers(row_bytes, u);
        const half2 scale = __half2half2(segment.scale(row_bytes));
        const half2 min   = segment.has_min ? __half2half2(segment.min(row_bytes)) : scale;
#pragma unroll
        for (int i = 0; i < ne/2; ++i) {
            out[i] = segment.value(u[i/2], i % 2, scale, min, byte_64);
        }
    }
}

// The segments of two rows: ne pairs of a value of the one and its counterpart of the other.
template <ggml_type type, int ne>
static __device__ __forceinline__ void fattn_quant_load_pairs(
        const fattn_quant_segment<type, ne> & segment, const int row_bytes_0, const int row_bytes_1, const uint32_t byte_64,
        half2 * out) {
    if constexpr (type == GGML_TYPE_F16) {
        half2 x[2][ne/2];
        fattn_quant_load(segment, row_bytes_0, byte_64, x[0]);
        fattn_quant_load(segment, row_bytes_1, byte_64, x[1]);
#pragma unroll
        for (int i = 0; i < ne/2; ++i) {
            out[2*i + 0] = __lows2half2 (x[0][i], x[1][i]);
            out[2*i + 1] = __highs2half2(x[0][i], x[1][i]);
        }
    } else {
        uint32_t u[2][ne/4];
        segment.integers(row_bytes_0, u[0]);
        segment.integers(row_bytes_1, u[1]);
        const half2 scale = __halves2half2(segment.scale(row_bytes_0), segment.scale(row_bytes_1));
        const half2 min   = segment.has_min ? __halves2half2(segment.min(row_bytes_0), segment.min(row_bytes_1)) : scale;
#pragma unroll
        for (int i = 0; i < ne/4; ++i) {
            const uint32_t lower = __byte_perm(u[0][i], u[1][i], 0x5140);
            const uint32_t upper = __byte_perm(u[0][i], u[1][i], 0x7362);
            out[4*i + 0] = segment.value(lower, false, scale, min, byte_64);
            out[4*i + 1] = segment.value(lower, true, scale, min, byte_64);
            out[4*i + 2] = segment.value(upper, false, scale, min, byte_64);
            out[4*i + 3] = segment.value(upper, true, scale, min, byte_64);
        }
    }
}
