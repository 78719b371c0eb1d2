// Many query rows a KV head: tiles of K and V become f32 or bf16 panels, once for all rows of a unit, for a small matrix
// product. Scores are kept transposed, one query row a lane, so that the softmax needs no sums across lanes.

#include "plan.h"
#include "blocks.h"

#include <type_traits>

#if defined(FATTN_AVX512) && defined(__AVX512BF16__) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && (defined(__linux__) || defined(_WIN32))
#define FATTN_AMX
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

static constexpr int KEYS_F32  = 64;  // keys of a panel
static constexpr int KEYS_BF16 = 128;
static constexpr int SUBS_MAX  = 64;

#if defined(FATTN_AVX512)
static constexpr int LANES     = 32;  // query rows of a panel
static constexpr int GEMM_ROWS = 8;
#else
static constexpr int LANES     = 16;
static constexpr int GEMM_ROWS = 4;
#endif
static constexpr int LX = LANES/16;

static_assert(KEYS_BF16 == 2*KEYS_F32,          "the panels' room and the chunks of keys suit both");
static_assert(SUBS_MAX*LANES >= FATTN_ROWS_MAX, "a unit has as many rows where it is one token");

//
// f32
//

// rows of K or V to y[keys][D]
template <typename T>
static void fattn_panel_f32(fattn_tile t, int64_t D, float * y) {
    for (int i = 0; i < KEYS_F32; ++i) {
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
// bf16
//

#if defined(FATTN_AMX)

static inline __m512 fattn_bf16_pair(__m512 lo, __m512 hi) {
    const __m512i l = _mm512_cvtepu16_epi32((__m256i) _mm512_cvtneps_pbh(lo));
    const __m512i h = _mm512_cvtepu16_epi32((__m256i) _mm512_cvtneps_pbh(hi));
    return _mm512_castsi512_ps(_mm512_or_si512(l, _mm512_slli_epi32(h, 16)));
}

// rows of K to y[keys][pad(D, 32)]
template <typename T>
static void fattn_panel_bf16(fattn_tile k, int64_t D, float * panel) {
    uint16_t * y = (uint16_t *) panel;
    for (int i = 0; i < KEYS_BF16; ++i) {
        const T * row = (const T *) (k.data + i*k.stride);
        for (int64_t d = 0; d < D; d += 32, y += 32) {
            x16 f[2] = { x16_set(0.0f), x16_set(0.0f) };
            fattn_values_of(row[d/T::N], f);
            if (T::N == 16 && d + 16 < D) {
                fattn_values_of(row[d/T::N + 1], f + 1);
            }
            _mm512_storeu_si512(y, (__m512i) _mm512_cvtne2ps_pbh(f[1].r[0], f[0].r[0]));
        }
    }
}

// rows of V to y[pad(D, 32)][keys]
template <typename T>
static void fattn_panel_bf16_transposed(fattn_tile v, int64_t D, float * y) {
    static constexpr size_t ld = KEYS_BF16/2;
    alignas(64) float pairs[T::N/16][16*16];
    for (int i = 0; i < KEYS_BF16; i += 32) {
        for (int64_t b = 0; b < D/T::N; ++b) {
            for (int j = 0; j < 16; ++j) {
                const char * row = v.data + (i + 2*j)*v.stride;
                x16 even[T::N/16];
                x16 odd [T::N/16];
                fattn_values_of(((const T *) row)[b], even);
                fattn_values_of(((const T *) (row + v.stride))[b], odd);
                for (int x = 0; x < T::N/16; ++x) {
                    _mm512_store_ps(pairs[x] + j*16, fattn_bf16_pair(even[x].r[0], odd[x].r[0]));
                }
            }
            for (int x = 0; x < T::N/16; ++x) {
                x16_transpose(pairs[x], 16, y + (b*T::N + x*16)*ld + i/2, ld);
            }
        }
    }
    memset(y + D*ld, 0, (GGML_PAD(D, 32) - D)*ld*sizeof(float));
}

// C[32][32] (+)= A[32][K] * B[K][32], A in bf16, lda values a row, B in pairs of rows
template <bool ADD>
static inline void fattn_gemm_amx(float * c, const uint16_t * a, size_t lda, const float * b, int K) {
    static constexpr size_t ldc = LANES*sizeof(float);
    if constexpr (ADD) {
        _tile_loadd(0, c,                 ldc);
        _tile_loadd(1, c + 16,            ldc);
        _tile_loadd(2, c + 16*LANES,      ldc);
        _tile_loadd(3, c + 16*LANES + 16, ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < K; k += 32) {
        _tile_loadd(4, a + k,          lda*sizeof(uint16_t));
        _tile_loadd(5, a + k + 16*lda, lda*sizeof(uint16_t));
        _tile_loadd(6, b + k/2*LANES,      ldc);
        _tile_loadd(7, b + k/2*LANES + 16, ldc);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c,                 ldc);
    _tile_stored(1, c + 16,            ldc);
    _tile_stored(2, c + 16*LANES,      ldc);
    _tile_stored(3, c + 16*LANES + 16, ldc);
}

#endif

// ggml's matrix products over AMX keep a tile configuration in each thread, which is put back

#if defined(FATTN_AMX)

struct fattn_tile_config {
    uint8_t  palette_id;
    uint8_t  start_row;
    uint8_t  reserved[14];
    uint16_t colsb[16];
    uint8_t  rows[16];
};

alignas(64) static thread_local fattn_tile_config fattn_tiles_before;

static bool fattn_has_amx() {
#if defined(__linux__)
    static constexpr long request_permission = 0x1023; // ARCH_REQ_XCOMP_PERM
    static constexpr long tile_data          = 18;     // XFEATURE_XTILEDATA
    static const bool has = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return has;
#else
    return true;
#endif
}

void fattn_prefill_begin(const fattn & f) {
    alignas(64) static constexpr fattn_tile_config tiles = {
        1, 0, {0}, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 },
    };
    if (f.amx) {
        _tile_storeconfig(&fattn_tiles_before);
        _tile_loadconfig(&tiles);
    }
}

void fattn_prefill_end(const fattn & f) {
    if (f.amx) {
        _tile_loadconfig(&fattn_tiles_before);
    }
}

#else

void fattn_prefill_begin(const fattn &) {}
void fattn_prefill_end  (const fattn &) {}

#endif

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

// Softmax of the scores s[n][LANES], one row a lane, into s or, in pairs of keys, as bf16 into p; zero up to keys.
// M and S: greatest logit and sum so far. Scales the sums of values o[DV][LANES] by as much as M grew.
static void fattn_softmax(const fattn & f, int n, int keys, float * s, const float * mask, float * p, float * M, float * S, float * o) {
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
    const float factor = plain ? f.scale*FATTN_LOG2E : FATTN_LOG2E;
    x16 low[LX];
    x16 sum[LX];
    for (int x = 0; x < LX; ++x) {
        const x16 old = x16_load(M + x*16);
        const x16 now = x16_max(old, plain ? x16_mul(most[x], f.scale) : most[x]);
        low[x] = x16_mul(now, -FATTN_LOG2E);
        sum[x] = x16_load(S + x*16);
        if (x16_hmax(x16_sub(now, old)) > 0.0f) {
            const x16 less = x16_exp2(x16_mul(x16_sub(old, now), FATTN_LOG2E));
            sum[x] = x16_mul(sum[x], less);
            for (int64_t d = 0; d < f.DV; ++d) {
                float * od = o + d*LANES + x*16;
                x16_store(od, x16_mul(x16_load(od), less));
            }
            x16_store(M + x*16, now);
        }
    }
    const auto weights = [&](int i, int x) {
        const x16 y = i < n ? x16_exp2(x16_fma(x16_load(s + i*LANES + x*16), factor, low[x])) : x16_set(0.0f);
        sum[x] = x16_add(sum[x], y);
        return y;
    };
    for (int i = 0; i < keys; i += 2) {
        for (int x = 0; x < LX; ++x) {
            const x16 p0 = weights(i,     x);
            const x16 p1 = weights(i + 1, x);
#if defined(FATTN_AMX)
            if (p) {
                _mm512_storeu_ps(p + i/2*LANES + x*16, fattn_bf16_pair(p0.r[0], p1.r[0]));
                continue;
            }
#endif
            x16_store(s + (i + 0)*LANES + x*16, p0);
            x16_store(s + (i + 1)*LANES + x*16, p1);
        }
    }
    for (int x = 0; x < LX; ++x) {
        x16_store(S + x*16, sum[x]);
    }
    GGML_UNUSED(p);
}

//
// a unit of work
//

void fattn_prefill_plan(fattn & f, int n_threads) {
#if defined(FATTN_AMX)
    // bf16 has 8 bits: fine beside the error of quantized keys, but too coarse for f16
    f.amx = f.k->type != GGML_TYPE_F16 && fattn_has_amx();
#endif
    const int64_t rows = f.DK + f.DV <= 256 ? 256 : 128;
    f.tokens = std::min(f.N, std::max<int64_t>(1, rows/f.G));
    while (f.B*f.HKV*fattn_ceil_div(f.N, f.tokens) < 2*n_threads && f.tokens*f.G >= 2*LANES && f.tokens > 1) {
        f.tokens = fattn_ceil_div(f.tokens, 2);
    }
    f.n_tok   = fattn_ceil_div(f.N, f.tokens);
    f.n_units = f.B*f.HKV*f.n_tok;
    f.n_kc    = 1;
    if (f.n_units < 2*n_threads && n_threads > 1) {
        f.n_kc = std::min(fattn_ceil_div(2*n_threads, f.n_units), fattn_ceil_div(f.KV, 256));
    }
    f.keys    = GGML_PAD(fattn_ceil_div(f.KV, f.n_kc), KEYS_BF16);
    f.n_kc    = fattn_ceil_div(f.KV, f.keys);
    f.n_units *= f.n_kc;
    f.partial = f.n_kc > 1;
    const int64_t lanes = GGML_PAD(f.tokens*f.G, LANES);
    const int64_t dk    = GGML_PAD(f.DK, 32);
    const int64_t dv    = GGML_PAD(f.DV, 32);
    f.scratch = 16*16 + 3*KEYS_BF16*LANES + lanes*(2 + dk + dv) + KEYS_F32*(dk + dv) + fattn_pads_size(f, KEYS_BF16);
}

// queries, a row a lane
static void fattn_queries(const fattn & f, const fattn_rows & rows, int subs, size_t ldq, float * Q) {
    alignas(64) float some[16*16];
    for (int r0 = 0; r0 < subs*LANES; r0 += 16) {
        float * panel = Q + r0/LANES*ldq + r0%LANES;
        const float * row[16];
        for (int r = 0; r < 16; ++r) {
            const int rr = std::min(r0 + r, rows.n - 1);
            row[r] = f.query(rows.b, rows.head(f, rr), rows.token(rr));
        }
#if defined(FATTN_AMX)
        if (f.amx) {
            for (int64_t d = 0; d < f.DK; d += 32) {
                for (int r = 0; r < 16; ++r) {
                    const __m512 hi = d + 16 < f.DK ? _mm512_loadu_ps(row[r] + d + 16) : _mm512_setzero_ps();
                    const __m512i pairs = (__m512i) _mm512_cvtne2ps_pbh(hi, _mm512_loadu_ps(row[r] + d));
                    _mm512_store_ps(some + r*16, _mm512_castsi512_ps(pairs));
                }
                x16_transpose(some, 16, panel + d/2*LANES, LANES);
            }
            continue;
        }
#endif
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
    const int     keys = f.amx ? KEYS_BF16 : KEYS_F32;
    const int64_t DKP  = f.amx ? GGML_PAD(f.DK, 32) : f.DK;
    const int64_t DVP  = f.amx ? GGML_PAD(f.DV, 32) : f.DV;
    const int64_t ldq  = (f.amx ? DKP/2 : DKP)*LANES; // of a panel of queries
    const int64_t ldo  = DVP*LANES;

    float * s     = scratch;                                // KEYS_BF16 x LANES
    float * mask  = s    + KEYS_BF16*LANES;                 // KEYS_BF16 x LANES
    float * p     = mask + KEYS_BF16*LANES;                 // KEYS_BF16/2 x LANES pairs
    float * M     = p    + KEYS_BF16*LANES;                 // subs x LANES
    float * S     = M    + subs*LANES;                      // subs x LANES
    float * K     = S    + subs*LANES;                      // keys x DKP
    float * V     = K    + KEYS_F32*GGML_PAD(f.DK, 32);     // keys x DVP
    float * Q     = V    + KEYS_F32*GGML_PAD(f.DV, 32);     // subs x DKP x LANES
    float * O     = Q    + subs*ldq;                        // subs x DVP x LANES
    char  * k_pad = (char *) (O + subs*ldo);
    char  * v_pad = k_pad + keys*ggml_row_size(f.k->type, f.DK);

    for (int r = 0; r < subs*LANES; ++r) {
        M[r] = FATTN_LOW;
        S[r] = 0.0f;
    }
    memset(O, 0, subs*ldo*sizeof(float));
    fattn_queries(f, rows, subs, ldq, Q);

    for (int64_t i = k0; i < k1; i += keys) {
        const int n = std::min<int64_t>(keys, k1 - i);

        fattn_mask_kind kind[SUBS_MAX];
        bool live = false;
        for (int sub = 0; sub < subs; ++sub) {
            kind[sub] = fattn_mask_look(f, rows, sub*LANES, i, n);
            live = live || kind[sub] != FATTN_MASK_ALL;
        }
        if (!live) {
            continue;
        }

        const fattn_tile k = fattn_tile_at(f.k, kb, rows.h, i, k1, keys, k_pad);
        const fattn_tile v = fattn_tile_at(f.v, kb, rows.h, i, k1, keys, v_pad);
        fattn_with_block(f.k->type, [&](auto * block) {
            using T = std::decay_t<decltype(*block)>;
#if defined(FATTN_AMX)
            if (f.amx) {
                fattn_panel_bf16<T>(k, f.DK, K);
                return;
            }
#endif
            fattn_panel_f32<T>(k, f.DK, K);
        });
        fattn_with_block(f.v->type, [&](auto * block) {
            using T = std::decay_t<decltype(*block)>;
#if defined(FATTN_AMX)
            if (f.amx) {
                fattn_panel_bf16_transposed<T>(v, f.DV, V);
                return;
            }
#endif
            fattn_panel_f32<T>(v, f.DV, V);
        });

        for (int sub = 0; sub < subs; ++sub) {
            if (kind[sub] == FATTN_MASK_ALL) {
                continue;
            }
            const float * q  = Q + sub*ldq;
            float       * o  = O + sub*ldo;
            float       * Ms = M + sub*LANES;
            float       * Ss = S + sub*LANES;
            const float * m  = nullptr;
            if (kind[sub] == FATTN_MASK_SOME) {
                fattn_mask_transpose(f, rows, sub*LANES, i, n, mask);
                m = mask;
            }
#if defined(FATTN_AMX)
            if (f.amx) {
                for (int j = 0; j < keys; j += 32) {
                    fattn_gemm_amx<false>(s + j*LANES, (const uint16_t *) K + j*DKP, DKP, q, DKP);
                }
                fattn_softmax(f, n, keys, s, m, p, Ms, Ss, o);
                for (int64_t d = 0; d < DVP; d += 32) {
                    fattn_gemm_amx<true>(o + d*LANES, (const uint16_t *) V + d*KEYS_BF16, KEYS_BF16, p, keys);
                }
                continue;
            }
#endif
            for (int j = 0; j < keys; j += GEMM_ROWS) {
                fattn_gemm<GEMM_ROWS, false>(s + j*LANES, K + j*f.DK, f.DK, 1, q, f.DK);
            }
            fattn_softmax(f, n, keys, s, m, nullptr, Ms, Ss, o);
            for (int64_t d = 0; d < f.DV; d += GEMM_ROWS) {
                fattn_gemm<GEMM_ROWS, true>(o + d*LANES, V + d, 1, f.DV, s, keys);
            }
        }
    }

    for (int sub = 0; sub < subs; ++sub) {
        fattn_write(f, rows, chunk, sub*LANES, M + sub*LANES, S + sub*LANES, O + sub*ldo, partials);
    }
}
