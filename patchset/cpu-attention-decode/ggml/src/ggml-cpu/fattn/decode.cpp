// Few query rows a KV head: a thread walks over a chunk of the keys, a tile at a time, all KV heads before the next tile,
// so that the cache is read once and in order. Scores and sums of values are taken from the blocks as they are stored.

#include "decode.h"

//
// s[r][i] = dot(row i of K, row r of Q)
//

template <typename T, int R>
static void fattn_scores_float(fattn_tile k, int64_t D, const float * const * q, float * s) {
    static_assert(KEYS_K == 16, "x16_sums");
    alignas(64) float sums[R][16*16];
    for (int i = 0; i < 16; i += KEYS_REG) {
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
                        acc[j][r] = x16_fma(y[x], x16_load(q[r] + b*T::N + x*16), acc[j][r]);
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

// rows of K or V to panel[keys][blocks*T::N], where more rows use them than registers hold the sums of
template <typename T>
static fattn_tile fattn_panel(fattn_tile t, int keys, int64_t blocks, float * panel) {
    float * y = panel;
    for (int i = 0; i < keys; ++i) {
        for (int64_t b = 0; b < blocks; ++b, y += T::N) {
            x16 f[T::N/16];
            fattn_values_of(((const T *) (t.data + i*t.stride))[b], f);
            for (int x = 0; x < T::N/16; ++x) {
                x16_store(y + x*16, f[x]);
            }
        }
    }
    return { (const char *) panel, blocks*T::N*sizeof(float) };
}

template <typename T>
static void fattn_scores(fattn_tile k, int64_t D, const float * const * q, int rows, float * s, float * panel) {
    if (rows > ROWS_REG) {
        k = fattn_panel<T>(k, KEYS_K, D/T::N, panel);
        fattn_each_rows(rows, [&](auto R, int r) {
            fattn_scores_float<fattn_f32, R>(k, D, q + r, s + r*KEYS);
        });
        return;
    }
    fattn_each_rows(rows, [&](auto R, int r) {
        fattn_scores_float<T, R>(k, D, q + r, s + r*KEYS);
    });
}

//
// o[r][..] += sum over i of p[r][i] * row i of V
//

// for X x16s of a row
template <typename T, int R, int X>
static void fattn_sums_columns(fattn_tile v, const float * p, float * o, size_t ldo) {
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
static void fattn_sums(fattn_tile v, int64_t D, const float * p, int rows, float * o, size_t ldo, float * panel) {
    const auto columns = [&](auto X, int64_t d) {
        fattn_tile vd = { v.data + d/T::N*sizeof(T), v.stride };
        if (rows > ROWS_REG) {
            vd = fattn_panel<T>(vd, KEYS, X*16/T::N, panel);
            fattn_each_rows(rows, [&](auto R, int r) {
                fattn_sums_columns<fattn_f32, R, X>(vd, p + r*KEYS, o + r*ldo + d, ldo);
            });
            return;
        }
        fattn_each_rows(rows, [&](auto R, int r) {
            fattn_sums_columns<T, R, X>(vd, p + r*KEYS, o + r*ldo + d, ldo);
        });
    };
    int64_t d = 0;
    for (; d + 16*COLS_REG <= D; d += 16*COLS_REG) {
        columns(std::integral_constant<int, COLS_REG>{}, d);
    }
    for (; d < D; d += T::N) {
        columns(std::integral_constant<int, T::N/16>{}, d);
    }
}

//
// a unit of work
//

// floats of a row: M, S and the sum of values, in cache lines of its own
static size_t fattn_sums_size(const fattn & f) {
    return GGML_PAD(2 + f.DV, 16);
}

// floats of a panel of K or V
static size_t fattn_panel_size(const fattn & f) {
    return std::max<size_t>(KEYS_K*f.DK, KEYS*16*COLS_REG);
}

void fattn_decode_plan(fattn & f, int n_threads) {
    // A chunk costs time of its own. So each thread begins with a large one, and takes small ones while others are held up.
    // On NUMA each has one, as elsewhere: https://github.com/ggml-org/llama.cpp/pull/6915
    const int64_t tiles   = fattn_ceil_div(f.KV, KEYS);
    const int64_t threads = fattn_ceil_div(n_threads, f.B);
    const int64_t large   = n_threads == 1 ? tiles : ggml_is_numa() ? fattn_ceil_div(tiles, threads) : 3*tiles/4/threads;
    f.n_large    = large > 0 ? std::min(threads, fattn_ceil_div(tiles, large)) : 0;
    f.keys_large = large*KEYS;
    const int64_t rest    = std::max<int64_t>(0, tiles - large*f.n_large);
    const int64_t small   = std::max<int64_t>(1, fattn_ceil_div(rest, 2*threads));
    f.keys    = small*KEYS;
    f.n_kc    = f.n_large + fattn_ceil_div(rest, small);
    f.n_heads = std::min(f.HKV, fattn_ceil_div(n_threads, f.B*f.n_kc));
    f.heads   = fattn_ceil_div(f.HKV, f.n_heads);
    f.n_heads = fattn_ceil_div(f.HKV, f.heads);
    f.n_units = f.B*f.n_heads*f.n_kc;
    f.scratch = fattn_pads_size(f, KEYS) + fattn_panel_size(f) + f.heads*f.G*f.N*(KEYS + fattn_sums_size(f));
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
        ggml_vec_scale_f32(f.DV, o + 2, less);
    }
    x16 sum = x16_set(0.0f);
    for (int j = 0; j < KEYS; j += 16) {
        const x16 p = x16_exp(x16_add(x16_load(s + j), x16_set(-M)));
        x16_store(s + j, p);
        sum = x16_add(sum, p);
    }
    o[1] += x16_sum(sum);
}

namespace {

// a chunk of keys of some KV heads
struct fattn_unit {
    int64_t chunk;
    int64_t k0, k1; // keys
    int64_t h0, h1; // KV heads
    int64_t b, kb;  // batch, of K and V

    fattn_unit(const fattn & f, int64_t unit) {
        b     = unit % f.B;
        h0    = unit / f.B % f.n_heads * f.heads;
        h1    = std::min(h0 + f.heads, f.HKV);
        chunk = unit / f.B / f.n_heads;
        k0    = f.first_key(chunk);
        k1    = f.first_key(chunk + 1);
        kb    = b / (f.B/f.k->ne[3]);
    }
};

} // namespace

void fattn_decode_unit(const fattn & f, int64_t unit, float * partials, float * scratch) {
    const fattn_unit u(f, unit);
    const int    R   = f.G*f.N;
    const size_t ldo = fattn_sums_size(f);

    // of all heads; rows are ordered by query head, then token
    const int64_t n_rows = (u.h1 - u.h0)*R;
    float * panel = scratch;
    float * s     = panel + fattn_panel_size(f);
    float * sums  = s + n_rows*KEYS;
    char  * pads  = (char *) (sums + n_rows*ldo);

    for (int64_t r = 0; r < n_rows; ++r) {
        float * o = sums + r*ldo;
        o[0] = FATTN_LOW;
        memset(o + 1, 0, (1 + f.DV)*sizeof(float));
    }

    for (int64_t i = u.k0; i < u.k1; i += KEYS) {
        const int64_t n = std::min<int64_t>(KEYS, u.k1 - i);
        if (!fattn_visible(f, u.b, u.h0, u.h1, i, n)) {
            continue;
        }
        fattn_with_block(f.k->type, [&](auto * block) {
            for (int64_t j = 0; j < KEYS; j += KEYS_K) {
                for (int64_t h = u.h0; h < u.h1; ++h) {
                    const fattn_tile k = fattn_tile_at(f.k, u.kb, h, i + j, u.k1, KEYS_K, pads);
                    const float * q[FATTN_ROWS_DECODE];
                    for (int r = 0; r < R; ++r) {
                        q[r] = f.query(u.b, h*f.G + r/f.N, r%f.N);
                    }
                    fattn_scores<std::decay_t<decltype(*block)>>(k, f.DK, q, R, s + (h - u.h0)*R*KEYS + j, panel);
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
                fattn_sums<std::decay_t<decltype(*block)>>(v, f.DV, s + (h - u.h0)*R*KEYS, R, sums + (h - u.h0)*R*ldo + 2, ldo, panel);
            }
        });
    }

    // the partial results of chunks lie side by side: written to all along, they would go back and forth between the threads
    for (int64_t r = 0; r < n_rows; ++r) {
        memcpy(f.partial_row(partials, u.b, u.h0*f.G + r/f.N, r%f.N, u.chunk), sums + r*ldo, (2 + f.DV)*sizeof(float));
    }
}
