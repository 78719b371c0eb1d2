#pragma once

// One flash attention: what is computed, and how it is split into units of work

#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "simd.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

static constexpr float FATTN_LOW = -1e30f; // below any score, and finite so that -inf minus it is no NaN

static constexpr int FATTN_ROWS_DECODE = 8; // most rows a KV head for which K and V stay in registers

static inline int64_t fattn_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1)/b;
}

struct fattn {
    const ggml_tensor * q;
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * mask;
    const float       * sinks;
    ggml_tensor       * dst;

    int64_t DK, DV;
    int64_t N;      // query tokens
    int64_t H, HKV; // heads
    int64_t G;      // query heads a KV head
    int64_t B;      // batches
    int64_t KV;     // keys

    float    scale, softcap; // the scale goes before the softcap, and holds its division
    float    max_bias, m0, m1;
    uint32_t n_head_log2;

    int64_t heads, n_heads; // KV heads a unit, units of heads
    int64_t keys,  n_kc;    // keys a chunk, chunks
    int64_t keys_large, n_large; // the first of them are larger
    int64_t n_units;

    size_t  scratch;        // floats a thread
    size_t  partials;       // floats, all threads: M, S and the unscaled sum of values of each row and chunk

    const float * query(int64_t b, int64_t head, int64_t t) const {
        return (const float *) ((const char *) q->data + t*q->nb[1] + head*q->nb[2] + b*q->nb[3]);
    }

    const ggml_fp16_t * mask_row(int64_t b, int64_t head, int64_t t) const {
        return (const ggml_fp16_t *) ((const char *) mask->data + t*mask->nb[1] + (head % mask->ne[2])*mask->nb[2] + (b % mask->ne[3])*mask->nb[3]);
    }

    float * dst_row(int64_t b, int64_t head, int64_t t) const {
        return (float *) ((char *) dst->data + ((b*N + t)*H + head)*dst->nb[1]);
    }

    // of a chunk; KV behind the last
    int64_t first_key(int64_t chunk) const {
        return std::min(chunk <= n_large ? chunk*keys_large : n_large*keys_large + (chunk - n_large)*keys, KV);
    }

    // rows are ordered by batch, head, token; those of a KV head lie together
    float * partial_row(float * partials, int64_t b, int64_t head, int64_t t, int64_t chunk) const {
        return partials + (((b*H + head)*N + t)*n_kc + chunk)*(2 + DV);
    }

    // ALiBi
    float slope(uint32_t head) const {
        if (max_bias <= 0.0f) {
            return 1.0f;
        }
        return head < n_head_log2 ? powf(m0, head + 1) : powf(m1, 2*(head - n_head_log2) + 1);
    }

    x16 logits(x16 s) const {
        if (softcap == 0.0f) {
            return x16_mul(s, scale);
        }
        float y[16];
        x16_store(y, s);
        for (int i = 0; i < 16; ++i) {
            y[i] = softcap*tanhf(y[i]*scale);
        }
        return x16_load(y);
    }
};

// Rows of a head of K or V
struct fattn_tile {
    const char * data;
    size_t       stride;
};

// Rows first..first + keys, zero from end on; pad is room for a tile that has to be copied
static inline fattn_tile fattn_tile_at(const ggml_tensor * t, int64_t b, int64_t head, int64_t first, int64_t end, int64_t keys, char * pad) {
    const char * data = (const char *) t->data + first*t->nb[1] + head*t->nb[2] + b*t->nb[3];
    if (first + keys <= end) {
        return { data, t->nb[1] };
    }
    const size_t  size = ggml_row_size(t->type, t->ne[0]);
    const int64_t n    = std::max<int64_t>(end - first, 0);
    for (int64_t i = 0; i < n; ++i) {
        memcpy(pad + i*size, data + i*t->nb[1], size);
    }
    memset(pad + n*size, 0, (keys - n)*size);
    return { pad, size };
}

// floats of such pads for K and V
static inline size_t fattn_pads_size(const fattn & f, int64_t keys) {
    return GGML_PAD(keys*(ggml_row_size(f.k->type, f.DK) + ggml_row_size(f.v->type, f.DV)), 64)/sizeof(float);
}

void fattn_decode_plan(fattn & f, int n_threads);
void fattn_decode_unit(const fattn & f, int64_t unit, float * partials, float * scratch);
