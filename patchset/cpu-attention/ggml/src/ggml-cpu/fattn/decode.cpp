// Few query rows a KV head: a thread walks over a chunk of the keys, a tile at a time, all KV heads before the next tile,
// so that the cache is read once and in order. Scores and sums of values are taken from the blocks as they are stored.

#include "decode.h"

#if defined(FATTN_AVX512) && defined(__AVX512VNNI__)
#define FATTN_VNNI
#include "decode-vnni.h"
#endif

static constexpr int KEYS_TICK = 4; // ticks take time, too

//
// s[r][i] = dot(row i of K, row r of Q)
//

template <typename T, int R>
static void fattn_scores_float(fattn_tile k, int64_t D, const fattn_query * q, float * s, fattn_ahead & ahead) {
    static_assert(KEYS_K == 16 && KEYS_TICK % KEYS_REG == 0, "x16_sums, ticks");
    alignas(64) float sums[R][16*16];
    for (int i = 0; i < 16; i += KEYS_REG) {
        if (i % KEYS_TICK == 0) {
            ahead.tick();
        }
        x16 acc[KEYS_REG][R];
        for (int j = 0; j < KEYS_REG; ++j) {
            for (int r = 0; r < R; ++r) {
                acc[j][r] = x16_set(0.0f);
            }
        }
        for (int64_t b = 0; b < D/T::N; ++b) {
            FATTN_UNROLL
            for (int j = 0; j < KEYS_REG; ++j) {
                x16 y[T::N/16];
                fattn_values_of(((const T *) (k.data + (i + j)*k.stride))[b], y);
                FATTN_UNROLL
                for (int x = 0; x < T::N/16; ++x) {
                    FATTN_UNROLL
                    for (int r = 0; r < R; ++r) {
                        acc[j][r] = x16_fma(y[x], x16_load(q[r].f + b*T::N + x*16), acc[j][r]);
                    }
                }
            }
        }
        for (int j = 0; j < KEYS_REG; ++j) {
            for (int r = 0; r < R; ++r) {
                x16_store(sums[r] + (i + j)*16, acc[j][r]);
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        x16_store(s + r*KEYS, x16_sums(sums[r]));
    }
}

template <typename T>
static void fattn_scores(fattn_tile k, int64_t D, const fattn_query * q, int rows, float * s, fattn_ahead & ahead) {
    fattn_each_rows(rows, [&](auto R, int r) {
#if defined(FATTN_VNNI)
        if constexpr (T::has_d) {
            fattn_scores_int<T, R>(k, D, q + r, s + r*KEYS, ahead);
        } else
#endif
        {
            fattn_scores_float<T, R>(k, D, q + r, s + r*KEYS, ahead);
        }
    });
}

//
// o[r][..] += sum over i of p[r][i] * row i of V
//

// for X x16s of a row
template <typename T, int R, int X>
static void fattn_sums_columns(fattn_tile v, const float * p, float * o, size_t ldo, fattn_ahead & ahead) {
    static constexpr int XB = T::N/16; // of a block
    static constexpr int B  = X/XB;
    x16 acc[R][X];
    for (int r = 0; r < R; ++r) {
        for (int x = 0; x < X; ++x) {
            acc[r][x] = x16_load(o + r*ldo + x*16);
        }
    }
    alignas(64) float pd[T::has_d ? B*R*KEYS : 1]; // p times each block's d
    if constexpr (T::has_d) {
        alignas(64) float d[KEYS];
        alignas(64) float m[KEYS];
        for (int b = 0; b < B; ++b) {
            for (int i = 0; i < KEYS; i += 16) {
                fattn_scales<T>({ v.data + i*v.stride + b*sizeof(T), v.stride }, d + i, m + i);
            }
            for (int r = 0; r < R; ++r) {
                x16 pm = x16_set(0.0f);
                for (int i = 0; i < KEYS; i += 16) {
                    const x16 pi = x16_load(p + r*KEYS + i);
                    x16_store(pd + (b*R + r)*KEYS + i, x16_mul(pi, x16_load(d + i)));
                    if constexpr (T::has_m) {
                        pm = x16_fma(pi, x16_load(m + i), pm);
                    }
                }
                if constexpr (T::has_m) {
                    const x16 sum = x16_set(x16_sum(pm));
                    for (int x = b*XB; x < (b + 1)*XB; ++x) {
                        acc[r][x] = x16_add(acc[r][x], sum);
                    }
                }
            }
        }
    }
    for (int i = 0; i < KEYS; ++i) {
        const T * row = (const T *) (v.data + i*v.stride);
        if (i % KEYS_TICK == 0) {
            ahead.tick();
        }
        FATTN_UNROLL
        for (int b = 0; b < B; ++b) {
            x16 y[XB];
            T::floats(row[b], y);
            FATTN_UNROLL
            for (int r = 0; r < R; ++r) {
                const float w = T::has_d ? pd[(b*R + r)*KEYS + i] : p[r*KEYS + i];
                FATTN_UNROLL
                for (int x = 0; x < XB; ++x) {
                    acc[r][b*XB + x] = x16_fma(y[x], w, acc[r][b*XB + x]);
                }
            }
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int x = 0; x < X; ++x) {
            x16_store(o + r*ldo + x*16, acc[r][x]);
        }
    }
}

template <typename T>
static void fattn_sums(fattn_tile v, int64_t D, const float * p, int rows, float * o, size_t ldo, fattn_ahead & ahead) {
#if defined(FATTN_VNNI)
    if constexpr (T::has_d) {
        fattn_sums_int<T>(v, D, p, rows, o, ldo, ahead);
    } else
#endif
    {
        fattn_each_rows(rows, [&](auto R, int r) {
            const auto columns = [&](auto X, int64_t d) {
                fattn_sums_columns<T, R, X>({ v.data + d/T::N*sizeof(T), v.stride }, p + r*KEYS, o + r*ldo + d, ldo, ahead);
            };
            int64_t d = 0;
            for (; d + 16*COLS_REG <= D; d += 16*COLS_REG) {
                columns(std::integral_constant<int, COLS_REG>{}, d);
            }
            for (; d < D; d += T::N) {
                columns(std::integral_constant<int, T::N/16>{}, d);
            }
        });
    }
}

//
// a unit of work
//

// how often at least the kernels call tick() for a tile of a KV head
static int64_t fattn_ticks(const fattn & f) {
    const int64_t passes = fattn_ceil_div(f.G*f.N, ROWS_REG);
    const auto ticks = [&](ggml_type type, int64_t D, int64_t passes_float) {
#if defined(FATTN_VNNI)
        if (type != GGML_TYPE_F16) {
            return fattn_int_ticks(D, passes);
        }
#endif
        GGML_UNUSED(type);
        GGML_UNUSED(D);
        return passes_float*KEYS/KEYS_TICK;
    };
    return ticks(f.k->type, f.DK, passes) + ticks(f.v->type, f.DV, passes*fattn_ceil_div(f.DV, 16*COLS_REG));
}

// floats of a row: M, S and the sum of values, in cache lines of its own
static size_t fattn_sums_size(const fattn & f) {
    return GGML_PAD(2 + f.DV, 16);
}

void fattn_decode_plan(fattn & f, int n_threads) {
    // several chunks a thread, so that one that is held up does not hold up the others
    f.n_kc    = n_threads > 1 ? std::min<int64_t>(fattn_ceil_div(f.KV, KEYS), 4*n_threads) : 1;
    f.keys    = GGML_PAD(fattn_ceil_div(f.KV, f.n_kc), KEYS);
    f.n_kc    = fattn_ceil_div(f.KV, f.keys);
    f.n_heads = std::min(f.HKV, fattn_ceil_div(n_threads, f.n_kc));
    f.heads   = fattn_ceil_div(f.HKV, f.n_heads);
    f.n_heads = fattn_ceil_div(f.HKV, f.heads);
    f.n_units = f.B*f.n_heads*f.n_kc;
    f.partial = true;
    f.scratch = fattn_pads_size(f, KEYS) + f.heads*f.G*f.N*(KEYS + fattn_query::size(f.DK)/sizeof(float) + fattn_sums_size(f));
}

// whether any query of heads h0..h1 may see any of n keys
static bool fattn_visible(const fattn & f, int64_t b, int64_t h0, int64_t h1, int64_t first, int64_t n) {
    if (!f.mask) {
        return true;
    }
    for (int64_t head = h0*f.G; head < (f.mask->ne[2] > 1 ? h1*f.G : h0*f.G + 1); ++head) {
        for (int64_t t = 0; t < f.N; ++t) {
            const ggml_fp16_t * m = f.mask_row(b, head, t) + first;
            for (int64_t j = 0; j < n; ++j) {
                if (GGML_CPU_FP16_TO_FP32(m[j]) > -INFINITY) {
                    return true;
                }
            }
        }
    }
    return false;
}

// bias[KEYS] = slope * mask of n keys, -inf behind them
static void fattn_bias(const fattn & f, int64_t b, int64_t head, int64_t t, int64_t first, int64_t n, float * bias) {
    alignas(64) ggml_fp16_t some[KEYS] = {};
    const ggml_fp16_t * m = some;
    if (f.mask) {
        m = f.mask_row(b, head, t) + first;
        if (n < KEYS) {
            memcpy(some, m, n*sizeof(ggml_fp16_t));
            m = some;
        }
    }
    const float slope = f.slope(head);
    for (int j = 0; j < KEYS; j += 16) {
        x16_store(bias + j, x16_mul(x16_f16(m + j), slope));
    }
    for (int64_t j = n; j < KEYS; ++j) {
        bias[j] = -INFINITY;
    }
}

// scores to weights, in place; o: M, S and the sum of values so far
static void fattn_softmax(const fattn & f, float * s, const float * bias, float * o) {
    x16 most = x16_set(-INFINITY);
    for (int j = 0; j < KEYS; j += 16) {
        const x16 y = x16_add(f.logits(x16_load(s + j)), x16_load(bias + j));
        x16_store(s + j, y);
        most = x16_max(most, y);
    }
    const float M = std::max(o[0], x16_hmax(most));
    if (M > o[0]) {
        const float less = expf(o[0] - M);
        o[0]  = M;
        o[1] *= less;
        for (int64_t d = 2; d < 2 + f.DV; d += 16) {
            x16_store(o + d, x16_mul(x16_load(o + d), less));
        }
    }
    x16 sum = x16_set(0.0f);
    for (int j = 0; j < KEYS; j += 16) {
        const x16 p = x16_exp2(x16_mul(x16_sub(x16_load(s + j), x16_set(M)), FATTN_LOG2E));
        x16_store(s + j, p);
        sum = x16_add(sum, p);
    }
    o[1] += x16_sum(sum);
}

namespace {

// a chunk of keys of some KV heads
struct fattn_unit {
    int64_t chunk;
    int64_t k0, k1; // keys; none behind the last unit
    int64_t h0, h1; // KV heads
    int64_t b, kb;  // batch, of K and V

    fattn_unit(const fattn & f, int64_t unit) {
        chunk = unit % f.n_kc;
        k0    = chunk*f.keys;
        k1    = unit < f.n_units ? std::min(k0 + f.keys, f.KV) : k0;
        h0    = unit / f.n_kc % f.n_heads * f.heads;
        h1    = std::min(h0 + f.heads, f.HKV);
        b     = unit / f.n_kc / f.n_heads;
        kb    = b / (f.B/f.k->ne[3]);
    }
};

} // namespace

void fattn_decode_unit(const fattn & f, int64_t unit, float * partials, float * scratch) {
    const fattn_unit u(f, unit);
    const fattn_unit then(f, unit + f.n_threads); // this thread's next, if all take equally long
    const int    R   = f.G*f.N;
    const size_t ldo = fattn_sums_size(f);

    // of all heads; rows are ordered by query head, then token
    const int64_t n_rows = (u.h1 - u.h0)*R;
    float * s       = scratch;
    char  * pads    = (char *) (s + n_rows*KEYS);
    char  * queries = pads + fattn_pads_size(f, KEYS)*sizeof(float);
    float * sums    = (float *) (queries + n_rows*fattn_query::size(f.DK));

    for (int64_t r = 0; r < n_rows; ++r) {
        fattn_query::at(queries, f.DK, r).set(f.query(u.b, u.h0*f.G + r/f.N, r%f.N), f.DK);
        float * o = sums + r*ldo;
        o[0] = FATTN_LOW;
        memset(o + 1, 0, (1 + f.DV)*sizeof(float));
    }

    const int64_t ticks = fattn_ticks(f)*(u.h1 - u.h0);
    for (int64_t i = u.k0; i < u.k1; i += KEYS) {
        const int64_t n = std::min<int64_t>(KEYS, u.k1 - i);
        if (!fattn_visible(f, u.b, u.h0, u.h1, i, n)) {
            continue;
        }
        const bool         last  = i + n == u.k1;
        const fattn_unit & next  = last ? then : u;
        const int64_t      first = last ? then.k0 : i + n;
        fattn_ahead ahead(f, next.kb, next.h0, next.h1, first, std::min<int64_t>(KEYS, next.k1 - first), ticks);
        fattn_with_block(f.k->type, [&](auto * block) {
            for (int64_t j = 0; j < KEYS; j += KEYS_K) {
                for (int64_t h = u.h0; h < u.h1; ++h) {
                    const fattn_tile k = fattn_tile_at(f.k, u.kb, h, i + j, u.k1, KEYS_K, pads);
                    fattn_query q[FATTN_ROWS_DECODE];
                    for (int r = 0; r < R; ++r) {
                        q[r] = fattn_query::at(queries, f.DK, (h - u.h0)*R + r);
                    }
                    fattn_scores<std::decay_t<decltype(*block)>>(k, f.DK, q, R, s + (h - u.h0)*R*KEYS + j, ahead);
                }
            }
        });
        for (int64_t r = 0; r < n_rows; ++r) {
            alignas(64) float bias[KEYS];
            fattn_bias(f, u.b, u.h0*f.G + r/f.N, r%f.N, i, n, bias);
            fattn_softmax(f, s + r*KEYS, bias, sums + r*ldo);
        }
        fattn_with_block(f.v->type, [&](auto * block) {
            for (int64_t h = u.h0; h < u.h1; ++h) {
                const fattn_tile v = fattn_tile_at(f.v, u.kb, h, i, u.k1, KEYS, pads);
                fattn_sums<std::decay_t<decltype(*block)>>(v, f.DV, s + (h - u.h0)*R*KEYS, R, sums + (h - u.h0)*R*ldo + 2, ldo, ahead);
            }
        });
    }

    // the partial results of chunks lie side by side: written to all along, they would go back and forth between the threads
    for (int64_t r = 0; r < n_rows; ++r) {
        memcpy(f.partial_row(partials, u.b, u.h0*f.G + r/f.N, r%f.N, u.chunk), sums + r*ldo, (2 + f.DV)*sizeof(float));
    }
}
