#pragma once

// What both kinds of kernels of decode.cpp use

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

#if defined(FATTN_AVX512)
constexpr int ROWS_REG = 4;  // rows at a time, as many as registers hold the sums of
constexpr int COLS_REG = 4;  // x16s of a row of V
constexpr int KEYS_REG = 4;  // rows of K
#else
constexpr int ROWS_REG = 2;
constexpr int COLS_REG = 2;
constexpr int KEYS_REG = 2;
#endif

// A row of queries in the forms that the dot products want
struct fattn_query {
    float   * f;
    int32_t * i;   // 4 int8 each: f = d*int, blocks of 32
    float   * d;
    int32_t * sum; // of the ints of a block

    static size_t size(int64_t D) {
        return GGML_PAD(D*(sizeof(float) + sizeof(int8_t)) + (D/32 + 1)*(sizeof(float) + sizeof(int32_t)), 64);
    }

    static fattn_query at(char * base, int64_t D, int r) {
        fattn_query q;
        q.f   = (float *) (base + r*size(D));
        q.d   = q.f + D;
        q.sum = (int32_t *) (q.d + D/32 + 1);
        q.i   = q.sum + D/32 + 1;
        return q;
    }

    void set(const float * x, int64_t D) {
        memcpy(f, x, D*sizeof(float));
        for (int64_t b = 0; b < D/32; ++b) {
            float amax = 0.0f;
            for (int j = 0; j < 32; ++j) {
                amax = std::max(amax, fabsf(x[b*32 + j]));
            }
            const float inv = amax > 0.0f ? 127.0f/amax : 0.0f;
            d[b]   = amax/127.0f;
            sum[b] = 0;
            int8_t * ints = (int8_t *) (i + b*8);
            for (int j = 0; j < 32; ++j) {
                ints[j] = (int8_t) nearbyintf(x[b*32 + j]*inv);
                sum[b] += ints[j];
            }
        }
    }
};

// The next tile of K and V, fetched a few lines at a time while this one is worked on: fetched at once, it would keep what
// the work itself reads waiting. From several places of memory at a time: one after the other, they are read half as fast.
class fattn_ahead {
  public:
    // ticks: how often tick() will be called until all of the tile is to be there; keys may be 0
    fattn_ahead(const fattn & f, int64_t b, int64_t h0, int64_t h1, int64_t first, int64_t keys, int64_t ticks)
        : parts{ part(f.k, b, h0, h1, first, keys), part(f.v, b, h0, h1, first, keys) }, ticks(ticks) {
        for (const pieces & p : parts) {
            steps += p.count*p.apart/LINE;
        }
        next();
    }

    void tick() {
#if defined(__GNUC__)
        for (due += steps; due > 0; due -= ticks, at += LINE) {
            if (at >= at_end) {
                next();
            }
            for (const char * place = at; place < end; place += apart) {
                __builtin_prefetch(place, 0, 2);
            }
        }
#endif
    }

  private:
    static constexpr int64_t LINE   = 64;
    static constexpr int64_t PLACES = 4;

    // count pieces of memory, each fetched from PLACES that are so far apart
    struct pieces {
        const char * at;
        int64_t      size;
        int64_t      stride;
        int64_t      count;
        int64_t      apart;

        pieces(const char * at, int64_t size, int64_t stride, int64_t count) : at(at), size(size), stride(stride), count(count) {
            if (size == stride) {
                this->size *= count;
                this->count = count > 0;
            }
            apart = GGML_PAD(fattn_ceil_div(this->size, PLACES), LINE);
        }
    };

    pieces       parts[2];
    int64_t      ticks;
    int64_t      steps  = 0; // a line from each place
    int64_t      due    = 0; // steps*ticks
    const char * at     = nullptr;
    const char * at_end = nullptr; // of the first place
    const char * end    = nullptr;
    int64_t      apart  = 0;

    static pieces part(const ggml_tensor * t, int64_t b, int64_t h0, int64_t h1, int64_t first, int64_t keys) {
        const char *  at  = (const char *) t->data + first*t->nb[1] + h0*t->nb[2] + b*t->nb[3];
        const int64_t row = ggml_row_size(t->type, t->ne[0]);
        if (t->nb[2] <= t->nb[1]) {
            return { at, (int64_t) t->nb[2]*(h1 - h0 - 1) + row, (int64_t) t->nb[1], keys };
        }
        return { at, keys > 0 ? (int64_t) t->nb[1]*(keys - 1) + row : 0, (int64_t) t->nb[2], h1 - h0 };
    }

    void next() {
        for (pieces & p : parts) {
            if (p.count > 0) {
                at     = p.at;
                at_end = at + p.apart;
                end    = at + p.size;
                apart  = p.apart;
                p.at += p.stride;
                p.count--;
                return;
            }
        }
        at = at_end = end = nullptr;
        steps = due = 0;
    }
};

// d and m of the block at the same place of 16 rows
template <typename T>
inline void fattn_scales(fattn_tile t, float * d, float * m) {
#if defined(FATTN_AVX512)
    // m, where there is one, follows d
    const __m512i rows = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i dm   = _mm512_i32gather_epi32(_mm512_mullo_epi32(rows, _mm512_set1_epi32((int) t.stride)), t.data, 1);
    _mm512_store_ps(d, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(dm)));
    if constexpr (T::has_m) {
        _mm512_store_ps(m, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(dm, 16))));
    }
#else
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
#endif
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
