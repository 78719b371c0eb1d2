#pragma once

// What is to be read next, on its way from memory

#include "plan.h"

namespace {

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

} // namespace
