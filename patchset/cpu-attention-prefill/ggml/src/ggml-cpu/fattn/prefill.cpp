// Many query rows a KV head: tiles of K and V become f32 panels, once for all rows of a unit, for a small matrix product.
// Scores are kept transposed, one query row a lane, so that the softmax needs no sums across lanes.

#include "plan.h"
#include "blocks.h"

#include <type_traits>

static constexpr int KEYS      = 64;                   // of a panel
static constexpr int LANES     = FREG == 16 ? 32 : 16; // query rows of a panel
static constexpr int GEMM_ROWS = FREG == 16 ?  8 :  4;
static constexpr int SUBS_MAX  = 64;
static constexpr int LX        = LANES/16;

static_assert(SUBS_MAX*LANES >= FATTN_ROWS_MAX, "a unit has as many rows where it is one token");

// rows of K or V to y[keys][D]
template <typename T>
static void fattn_panel(fattn_tile t, int64_t D, float * y) {
    for (int i = 0; i < KEYS; ++i) {
        const T * row = (const T *) (t.data + i*t.stride);
        for (int64_t b = 0; b < D/T::N; ++b) {
            x16 f[T::N/16];
            fattn_values_of(row[b], f);
            for (int x = 0; x < T::N/16; ++x) {
                x16_store(y + i*D + b*T::N + x*16, f[x]);
            }
        }
    }
}

// C[RM][LANES] (+)= A[RM][K] * B[K][LANES], element (m, k) of A at a[m*am + k*ak]
// not simd_gemm(): it wants the rows of A one after another, and with 32 columns it has 4 sums in AVX-512's 32 registers
template <int RM, bool ADD>
static inline void fattn_gemm(float * c, const float * a, size_t am, size_t ak, const float * b, int K) {
    x16 acc[RM][LX];
    for (int m = 0; m < RM; ++m) {
        for (int x = 0; x < LX; ++x) {
            acc[m][x] = ADD ? x16_load(c + m*LANES + x*16) : x16_set(0.0f);
        }
    }
    for (int k = 0; k < K; ++k) {
        x16 bk[LX];
        for (int x = 0; x < LX; ++x) {
            bk[x] = x16_load(b + k*LANES + x*16);
        }
        for (int m = 0; m < RM; ++m) {
            const float f = a[m*am + k*ak];
            for (int x = 0; x < LX; ++x) {
                acc[m][x] = x16_fma(bk[x], f, acc[m][x]);
            }
        }
    }
    for (int m = 0; m < RM; ++m) {
        for (int x = 0; x < LX; ++x) {
            x16_store(c + m*LANES + x*16, acc[m][x]);
        }
    }
}

//
// the mask and the softmax
//

enum fattn_mask_kind {
    FATTN_MASK_NONE, // all zero
    FATTN_MASK_SOME,
    FATTN_MASK_ALL,  // all -inf
};

// The rows of a unit: query head after query head of a KV head, nt tokens each
struct fattn_rows {
    int64_t b, h, t0, nt;
    int     n;

    int64_t head (const fattn & f, int r) const { return h*f.G + r/nt; }
    int64_t token(int r)                  const { return t0 + r%nt; }
};

static fattn_mask_kind fattn_mask_look(const fattn & f, const fattn_rows & rows, int r0, int64_t i, int n) {
    if (!f.mask) {
        return FATTN_MASK_NONE;
    }
    static constexpr uint64_t inf4 = 0xfc00fc00fc00fc00;
    uint64_t any = 0, not_inf = 0;
    const int r1 = std::min(r0 + LANES, rows.n);
    for (int r = r0; r < r1; ++r) {
        const ggml_fp16_t * m = f.mask_row(rows.b, rows.head(f, r), rows.token(r)) + i;
        int j = 0;
        for (; j + 4 <= n; j += 4) {
            uint64_t four;
            memcpy(&four, m + j, sizeof(four));
            any     |= four;
            not_inf |= four ^ inf4;
        }
        for (; j < n; ++j) {
            any     |= m[j];
            not_inf |= m[j] ^ 0xfc00;
        }
        if (any && not_inf) {
            return FATTN_MASK_SOME;
        }
    }
    return any == 0 ? FATTN_MASK_NONE : FATTN_MASK_ALL;
}

// y[n][LANES] = slope * mask of the rows from r0
static void fattn_mask_transpose(const fattn & f, const fattn_rows & rows, int r0, int64_t i, int n, float * y) {
    alignas(64) float some[16*16];
    for (int l = 0; l < LANES; l += 16) {
        for (int j = 0; j < n; j += 16) {
            const int nj = std::min(16, n - j);
            for (int r = 0; r < 16; ++r) {
                const int row = std::min(r0 + l + r, rows.n - 1);
                const int64_t head = rows.head(f, row);
                const ggml_fp16_t * m = f.mask_row(rows.b, head, rows.token(row)) + i + j;
                ggml_fp16_t padded[16] = {};
                if (nj < 16) {
                    memcpy(padded, m, nj*sizeof(ggml_fp16_t));
                    m = padded;
                }
                x16_store(some + r*16, x16_mul(x16_f16(m), f.slope(head)));
            }
            x16_transpose(some, 16, y + j*LANES + l, LANES);
        }
    }
}

// Softmax of the scores s[n][LANES], one row a lane, in place; zero from n on.
// M and S: greatest logit and sum so far. Scales the sums of values o[DV][LANES] by as much as M grew.
static void fattn_softmax(const fattn & f, int n, float * s, const float * mask, float * M, float * S, float * o) {
    const bool plain = !mask && f.softcap == 0.0f && f.scale > 0.0f;
    x16 most[LX];
    for (int x = 0; x < LX; ++x) {
        most[x] = x16_set(-INFINITY);
    }
    for (int i = 0; i < n; ++i) {
        for (int x = 0; x < LX; ++x) {
            float * si = s + i*LANES + x*16;
            x16 y = x16_load(si);
            if (!plain) {
                y = f.logits(y);
                if (mask) {
                    y = x16_add(y, x16_load(mask + i*LANES + x*16));
                }
                x16_store(si, y);
            }
            most[x] = x16_max(most[x], y);
        }
    }
    const float factor = plain ? f.scale : 1.0f;
    x16 low[LX];
    x16 sum[LX];
    for (int x = 0; x < LX; ++x) {
        const x16 old = x16_load(M + x*16);
        const x16 now = x16_max(old, plain ? x16_mul(most[x], f.scale) : most[x]);
        low[x] = x16_mul(now, -1.0f);
        sum[x] = x16_load(S + x*16);
        const x16 fall = x16_add(old, low[x]);
        if (x16_hmax(x16_mul(fall, -1.0f)) > 0.0f) {
            const x16 less = x16_exp(fall);
            sum[x] = x16_mul(sum[x], less);
            for (int64_t d = 0; d < f.DV; ++d) {
                float * od = o + d*LANES + x*16;
                x16_store(od, x16_mul(x16_load(od), less));
            }
            x16_store(M + x*16, now);
        }
    }
    for (int i = 0; i < n; ++i) {
        for (int x = 0; x < LX; ++x) {
            float * si = s + i*LANES + x*16;
            const x16 p = x16_exp(x16_fma(x16_load(si), factor, low[x]));
            sum[x] = x16_add(sum[x], p);
            x16_store(si, p);
        }
    }
    memset(s + n*LANES, 0, (KEYS - n)*LANES*sizeof(float));
    for (int x = 0; x < LX; ++x) {
        x16_store(S + x*16, sum[x]);
    }
}

//
// a unit of work
//

void fattn_prefill_plan(fattn & f, int n_threads) {
    const int64_t rows   = f.DK + f.DV <= 256 ? 256 : 128;
    const int64_t shares = ggml_is_numa() ? n_threads : 2*n_threads; // as decode.cpp does
    f.tokens = std::min(f.N, std::max<int64_t>(1, rows/f.G));
    while (f.B*f.HKV*fattn_ceil_div(f.N, f.tokens) < shares && f.tokens*f.G >= 2*LANES && f.tokens > 1) {
        f.tokens = fattn_ceil_div(f.tokens, 2);
    }
    f.n_tok   = fattn_ceil_div(f.N, f.tokens);
    f.n_units = f.B*f.HKV*f.n_tok;
    f.n_kc    = 1;
    if (f.n_units < shares && n_threads > 1) {
        f.n_kc = std::min(fattn_ceil_div(shares, f.n_units), fattn_ceil_div(f.KV, 256));
    }
    f.keys    = GGML_PAD(fattn_ceil_div(f.KV, f.n_kc), 2*KEYS);
    f.n_kc    = fattn_ceil_div(f.KV, f.keys);
    f.n_units *= f.n_kc;
    f.partial = f.n_kc > 1;
    const int64_t lanes = GGML_PAD(f.tokens*f.G, LANES);
    f.scratch = 2*KEYS*LANES + lanes*(2 + f.DK + f.DV) + KEYS*(f.DK + f.DV) + fattn_pads_size(f, KEYS);
}

// queries, a row a lane
static void fattn_queries(const fattn & f, const fattn_rows & rows, int subs, float * Q) {
    alignas(64) float some[16*16];
    for (int r0 = 0; r0 < subs*LANES; r0 += 16) {
        float * panel = Q + r0/LANES*LANES*f.DK + r0%LANES;
        const float * row[16];
        for (int r = 0; r < 16; ++r) {
            const int rr = std::min(r0 + r, rows.n - 1);
            row[r] = f.query(rows.b, rows.head(f, rr), rows.token(rr));
        }
        for (int64_t d = 0; d < f.DK; d += 16) {
            for (int r = 0; r < 16; ++r) {
                x16_store(some + r*16, x16_load(row[r] + d));
            }
            x16_transpose(some, 16, panel + d*LANES, LANES);
        }
    }
}

static void fattn_write(const fattn & f, const fattn_rows & rows, int64_t chunk, int r0, const float * M, const float * S, const float * o, float * partials) {
    alignas(64) float some[16*16];
    for (int l = 0; l < LANES && r0 + l < rows.n; l += 16) {
        const int nr = std::min(16, rows.n - r0 - l);
        float * out[16];
        float   factor[16];
        for (int r = 0; r < nr; ++r) {
            const int64_t head  = rows.head(f, r0 + l + r);
            const int64_t token = rows.token(r0 + l + r);
            const float m = M[l + r];
            if (f.partial) {
                out[r] = f.partial_row(partials, rows.b, head, token, chunk);
                *out[r]++ = m;
                *out[r]++ = S[l + r];
                factor[r] = 1.0f;
            } else {
                out[r] = f.dst_row(rows.b, head, token);
                const float now = f.sinks ? std::max(m, f.sinks[head]) : m;
                const float sum = f.sinks ? S[l + r]*expf(m - now) + expf(f.sinks[head] - now) : S[l + r];
                factor[r] = sum == 0.0f ? 0.0f : expf(m - now)/sum;
            }
        }
        for (int64_t d = 0; d < f.DV; d += 16) {
            x16_transpose(o + d*LANES + l, LANES, some, 16);
            for (int r = 0; r < nr; ++r) {
                x16_store(out[r] + d, x16_mul(x16_load(some + r*16), factor[r]));
            }
        }
    }
}

void fattn_prefill_unit(const fattn & f, int64_t unit, float * partials, float * scratch) {
    const int64_t chunk = unit % f.n_kc;
    const int64_t k0    = chunk*f.keys;
    const int64_t k1    = std::min(k0 + f.keys, f.KV);

    fattn_rows rows;
    rows.h  = unit / f.n_kc / f.n_tok % f.HKV;
    rows.b  = unit / f.n_kc / f.n_tok / f.HKV;
    rows.t0 = unit / f.n_kc % f.n_tok * f.tokens;
    rows.nt = std::min(f.tokens, f.N - rows.t0);
    rows.n  = rows.nt*f.G;

    const int64_t kb   = rows.b / (f.B/f.k->ne[3]);
    const int     subs = fattn_ceil_div(rows.n, LANES);

    float * s     = scratch;                // KEYS x LANES
    float * mask  = s    + KEYS*LANES;      // KEYS x LANES
    float * M     = mask + KEYS*LANES;      // subs x LANES
    float * S     = M    + subs*LANES;      // subs x LANES
    float * K     = S    + subs*LANES;      // KEYS x DK
    float * V     = K    + KEYS*f.DK;       // KEYS x DV
    float * Q     = V    + KEYS*f.DV;       // subs x DK x LANES
    float * O     = Q    + subs*LANES*f.DK; // subs x DV x LANES
    char  * k_pad = (char *) (O + subs*LANES*f.DV);
    char  * v_pad = k_pad + KEYS*ggml_row_size(f.k->type, f.DK);

    for (int r = 0; r < subs*LANES; ++r) {
        M[r] = FATTN_LOW;
        S[r] = 0.0f;
    }
    memset(O, 0, subs*LANES*f.DV*sizeof(float));
    fattn_queries(f, rows, subs, Q);

    for (int64_t i = k0; i < k1; i += KEYS) {
        const int n = std::min<int64_t>(KEYS, k1 - i);

        fattn_mask_kind kind[SUBS_MAX];
        bool live = false;
        for (int sub = 0; sub < subs; ++sub) {
            kind[sub] = fattn_mask_look(f, rows, sub*LANES, i, n);
            live = live || kind[sub] != FATTN_MASK_ALL;
        }
        if (!live) {
            continue;
        }

        const fattn_tile k = fattn_tile_at(f.k, kb, rows.h, i, k1, KEYS, k_pad);
        const fattn_tile v = fattn_tile_at(f.v, kb, rows.h, i, k1, KEYS, v_pad);
        fattn_with_block(f.k->type, [&](auto * block) {
            fattn_panel<std::decay_t<decltype(*block)>>(k, f.DK, K);
        });
        fattn_with_block(f.v->type, [&](auto * block) {
            fattn_panel<std::decay_t<decltype(*block)>>(v, f.DV, V);
        });

        for (int sub = 0; sub < subs; ++sub) {
            if (kind[sub] == FATTN_MASK_ALL) {
                continue;
            }
            const float * q  = Q + sub*LANES*f.DK;
            float       * o  = O + sub*LANES*f.DV;
            float       * Ms = M + sub*LANES;
            float       * Ss = S + sub*LANES;
            const float * m  = nullptr;
            if (kind[sub] == FATTN_MASK_SOME) {
                fattn_mask_transpose(f, rows, sub*LANES, i, n, mask);
                m = mask;
            }
            for (int j = 0; j < KEYS; j += GEMM_ROWS) {
                fattn_gemm<GEMM_ROWS, false>(s + j*LANES, K + j*f.DK, f.DK, 1, q, f.DK);
            }
            fattn_softmax(f, n, s, m, Ms, Ss, o);
            for (int64_t d = 0; d < f.DV; d += GEMM_ROWS) {
                fattn_gemm<GEMM_ROWS, true>(o + d*LANES, V + d, 1, f.DV, s, KEYS);
            }
        }
    }

    for (int sub = 0; sub < subs; ++sub) {
        fattn_write(f, rows, chunk, sub*LANES, M + sub*LANES, S + sub*LANES, O + sub*LANES*f.DV, partials);
    }
}
