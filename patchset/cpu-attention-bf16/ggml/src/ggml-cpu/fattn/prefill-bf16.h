#pragma once

// Panels in bf16, multiplied by AMX or AVX-512

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && (defined(__linux__) || defined(_WIN32))
#define FATTN_AMX
#endif

#if defined(FATTN_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#if defined(FATTN_AMX)

// C[32][32] (+)= A[32][K] * B[K][32] of tiles, as below
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

// ggml's matrix products over AMX keep a tile configuration in each thread, which is put back

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

static void fattn_tiles_load(const fattn & f) {
    alignas(64) static constexpr fattn_tile_config tiles = {
        1, 0, {0}, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 },
    };
    if (f.amx) {
        _tile_storeconfig(&fattn_tiles_before);
        _tile_loadconfig(&tiles);
    }
}

static void fattn_tiles_restore(const fattn & f) {
    if (f.amx) {
        _tile_loadconfig(&fattn_tiles_before);
    }
}

#endif

// C[32][32] (+)= A[32][K] * B[K][32], A in bf16, lda values a row, B in pairs of rows
template <bool ADD>
static inline void fattn_gemm_bf16(const fattn & f, float * c, const uint16_t * a, size_t lda, const float * b, int K) {
#if defined(FATTN_AMX)
    if (f.amx) {
        fattn_gemm_amx<ADD>(c, a, lda, b, K);
        return;
    }
#endif
    GGML_UNUSED(f);
    for (int i = 0; i < 32; i += GEMM_ROWS, c += GEMM_ROWS*LANES, a += GEMM_ROWS*lda) {
        __m512 acc[GEMM_ROWS][2];
        for (int m = 0; m < GEMM_ROWS; ++m) {
            for (int x = 0; x < 2; ++x) {
                acc[m][x] = ADD ? _mm512_loadu_ps(c + m*LANES + x*16) : _mm512_setzero_ps();
            }
        }
        for (int k = 0; k < K; k += 2) {
            const __m512bh b0 = (__m512bh) _mm512_loadu_ps(b + k/2*LANES);
            const __m512bh b1 = (__m512bh) _mm512_loadu_ps(b + k/2*LANES + 16);
            for (int m = 0; m < GEMM_ROWS; ++m) {
                int32_t pair;
                memcpy(&pair, a + m*lda + k, sizeof(pair));
                const __m512bh am = (__m512bh) _mm512_set1_epi32(pair);
                acc[m][0] = _mm512_dpbf16_ps(acc[m][0], b0, am);
                acc[m][1] = _mm512_dpbf16_ps(acc[m][1], b1, am);
            }
        }
        for (int m = 0; m < GEMM_ROWS; ++m) {
            for (int x = 0; x < 2; ++x) {
                _mm512_storeu_ps(c + m*LANES + x*16, acc[m][x]);
            }
        }
    }
}
