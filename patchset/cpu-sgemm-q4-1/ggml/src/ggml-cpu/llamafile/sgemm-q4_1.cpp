// Products of Q4_1 weights with several rows of Q8_1.
//
// The dot product of two blocks is d_a*d_b*sum(q_a*q_b) + m_a*s_b, and s_b = d_b*sum(q_b) is stored with the block.
// Some rows of A are interleaved, so that each lane of a vector has the sum of a row of its own. No lanes are added up.

#include "sgemm-q4_1.h"

#include "ggml-cpu-impl.h"
#include "ggml-impl.h"
#include "ggml-quants.h"
#include "simd-mappings.h"

#include <algorithm>
#include <cstring>
#include <functional>

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)

namespace {

// below, unpacking the rows takes longer than it saves
constexpr int64_t LEAST_N = 12;
// blocks of a row, and rows of B, that are worked on before the next: what is unpacked of them stays in the caches
constexpr int64_t BLOCKS = 16;
constexpr int64_t COLUMNS = 256;
// words of four values
constexpr int64_t WORDS = QK4_1/4;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)

constexpr int64_t ROWS = 16;
constexpr int     RN   = 8;

typedef __m512  floats;
typedef __m512i words;

inline floats zero_f() { return _mm512_setzero_ps(); }
inline words  zero_i() { return _mm512_setzero_si512(); }
inline floats load_f(const float * x) { return _mm512_loadu_ps(x); }
inline words  load_i(const uint32_t * x) { return _mm512_loadu_si512(x); }
inline void   store_f(float * x, floats a) { _mm512_storeu_ps(x, a); }
inline void   store_i(uint32_t * x, words a) { _mm512_storeu_si512(x, a); }
inline floats all_f(float x) { return _mm512_set1_ps(x); }
inline words  all_i(int32_t x) { return _mm512_set1_epi32(x); }
inline words  both(words a, words b) { return _mm512_and_si512(a, b); }
template <int N> inline words right(words a) { return _mm512_srli_epi32(a, N); }
inline floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
inline floats madd(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
inline floats halfs(words a) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)); }
inline words  gather(const void * base, words bytes) { return _mm512_i32gather_epi32(bytes, base, 1); }
inline words  places(int32_t step) {
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), all_i(step));
}
// sums of fours
inline words  dot(words sum, words a, words b) { return _mm512_dpbusd_epi32(sum, a, b); }
inline floats total(words sum) { return _mm512_cvtepi32_ps(sum); }

#else

constexpr int64_t ROWS = 8;
constexpr int     RN   = 4;

typedef __m256  floats;
typedef __m256i words;

inline floats zero_f() { return _mm256_setzero_ps(); }
inline words  zero_i() { return _mm256_setzero_si256(); }
inline floats load_f(const float * x) { return _mm256_loadu_ps(x); }
inline words  load_i(const uint32_t * x) { return _mm256_loadu_si256((const __m256i *) x); }
inline void   store_f(float * x, floats a) { _mm256_storeu_ps(x, a); }
inline void   store_i(uint32_t * x, words a) { _mm256_storeu_si256((__m256i *) x, a); }
inline floats all_f(float x) { return _mm256_set1_ps(x); }
inline words  all_i(int32_t x) { return _mm256_set1_epi32(x); }
inline words  both(words a, words b) { return _mm256_and_si256(a, b); }
template <int N> inline words right(words a) { return _mm256_srli_epi32(a, N); }
inline floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
inline floats madd(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
inline floats halfs(words a) {
    const __m256i packed = _mm256_packus_epi32(a, a);
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(_mm256_castsi256_si128(packed), _mm256_extracti128_si256(packed, 1)));
}
inline words  gather(const void * base, words bytes) { return _mm256_i32gather_epi32((const int *) base, bytes, 1); }
inline words  places(int32_t step) {
    return _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), all_i(step));
}
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
inline words  dot(words sum, words a, words b) { return _mm256_dpbusd_epi32(sum, a, b); }
inline floats total(words sum) { return _mm256_cvtepi32_ps(sum); }
#elif defined(__AVXVNNI__)
inline words  dot(words sum, words a, words b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
inline floats total(words sum) { return _mm256_cvtepi32_ps(sum); }
#else
// sums of pairs: of a block, each is at most 8*2*15*127 and fits 16 bits
inline words  dot(words sum, words a, words b) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b)); }
inline floats total(words sum) { return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1))); }
#if defined(__GNUC__)
#define SGEMM_Q4_1_UNROLL _Pragma("GCC unroll 2") // of more, products that wait for their sum go to the stack
#endif
#endif

#endif

#if !defined(SGEMM_Q4_1_UNROLL)
#define SGEMM_Q4_1_UNROLL
#endif

// ROWS rows of A
struct panel {
    alignas(64) uint32_t q[BLOCKS][WORDS][ROWS];
    alignas(64) float    d[BLOCKS][ROWS];
    alignas(64) float    m[BLOCKS][ROWS];

    // the last rows are given twice where there are fewer
    void unpack(const block_q4_1 * a, int64_t lda, int64_t rows, int64_t blocks) {
        const words low = all_i(0x0f0f0f0f), half = all_i(0xffff);
        alignas(64) uint32_t place[ROWS];
        store_i(place, places((int32_t) (lda*sizeof(block_q4_1))));
        for (int64_t r = rows; r < ROWS; ++r) {
            place[r] = place[rows - 1];
        }
        const words at = load_i(place);
        for (int64_t b = 0; b < blocks; ++b) {
            const words dm = gather(&a[b], at);
            store_f(d[b], halfs(both(dm, half)));
            store_f(m[b], halfs(right<16>(dm)));
            for (int64_t w = 0; w < WORDS/2; ++w) {
                const words q8 = gather(a[b].qs + 4*w, at);
                store_i(q[b][w],           both(q8, low));
                store_i(q[b][w + WORDS/2], both(right<4>(q8), low));
            }
        }
    }
};

// what the blocks of B are multiplied by, in the order in which it is read
struct scales {
    alignas(64) float d[BLOCKS][COLUMNS];
    alignas(64) float s[BLOCKS][COLUMNS];

    void read(const block_q8_1 * b, int64_t ldb, int64_t columns, int64_t blocks) {
        const words at = places((int32_t) (ldb*sizeof(block_q8_1))), half = all_i(0xffff);
        for (int64_t l = 0; l < blocks; ++l) {
            int64_t j = 0;
            for (; j + ROWS <= columns; j += ROWS) { // of as many columns as a vector has lanes
                const words ds = gather(&b[j*ldb + l], at);
                store_f(&d[l][j], halfs(both(ds, half)));
                store_f(&s[l][j], halfs(right<16>(ds)));
            }
            for (; j < columns; ++j) {
                d[l][j] = GGML_CPU_FP16_TO_FP32(b[j*ldb + l].d);
                s[l][j] = GGML_CPU_FP16_TO_FP32(b[j*ldb + l].s);
            }
        }
    }
};

// N columns of a panel; the sums of the blocks before are in c
template <int N>
void product(const panel & a, const block_q8_1 * b, int64_t ldb, const float * d, const float * s, int64_t blocks,
             float * c, int64_t ldc, int64_t rows, bool first) {
    alignas(64) float part[ROWS];
    floats sum[N];
    for (int j = 0; j < N; ++j) {
        if (first) {
            sum[j] = zero_f();
        } else if (rows == ROWS) {
            sum[j] = load_f(c + j*ldc);
        } else {
            memset(part, 0, sizeof(part));
            memcpy(part, c + j*ldc, rows*sizeof(float));
            sum[j] = load_f(part);
        }
    }
    for (int64_t l = 0; l < blocks; ++l, d += COLUMNS, s += COLUMNS) {
        words q[N];
        for (int j = 0; j < N; ++j) {
            q[j] = zero_i();
        }
        SGEMM_Q4_1_UNROLL
        for (int64_t w = 0; w < WORDS; ++w) {
            const words four = load_i(a.q[l][w]);
            for (int j = 0; j < N; ++j) {
                int32_t other;
                memcpy(&other, b[j*ldb + l].qs + 4*w, sizeof(other));
                q[j] = dot(q[j], four, all_i(other));
            }
        }
        const floats da = load_f(a.d[l]);
        const floats ma = load_f(a.m[l]);
        for (int j = 0; j < N; ++j) {
            sum[j] = madd(mul(total(q[j]), da), all_f(d[j]), sum[j]);
            sum[j] = madd(ma, all_f(s[j]), sum[j]);
        }
    }
    for (int j = 0; j < N; ++j) {
        if (rows == ROWS) {
            store_f(c + j*ldc, sum[j]);
        } else {
            store_f(part, sum[j]);
            memcpy(c + j*ldc, part, rows*sizeof(float));
        }
    }
}

template <int N, typename... Arguments>
void product_of(int64_t n, Arguments... arguments) {
    if constexpr (N > 0) {
        if (n == N) {
            product<N>(arguments...);
        } else {
            product_of<N - 1>(n, arguments...);
        }
    }
}

// `panels` panels from row i on, all columns
void rows_of(int64_t i, int64_t panels, int64_t m, int64_t n, int64_t k, const block_q4_1 * A, int64_t lda,
             const block_q8_1 * B, int64_t ldb, float * C, int64_t ldc) {
    panel  a;
    scales b;
    for (int64_t j = 0; j < n; j += COLUMNS) {
        const int64_t columns = std::min(COLUMNS, n - j);
        for (int64_t l = 0; l < k; l += BLOCKS) {
            const int64_t blocks = std::min(BLOCKS, k - l);
            b.read(B + j*ldb + l, ldb, columns, blocks);
            for (int64_t p = i; p < i + panels*ROWS && p < m; p += ROWS) {
                const int64_t rows = std::min(ROWS, m - p);
                a.unpack(A + p*lda + l, lda, rows, blocks);
                for (int64_t c = 0; c < columns; c += RN) {
                    product_of<RN>(std::min<int64_t>(RN, columns - c), std::cref(a), B + (j + c)*ldb + l, ldb, &b.d[0][c], &b.s[0][c],
                                   blocks, C + (j + c)*ldc + p, ldc, rows, l == 0);
                }
            }
        }
    }
}

} // namespace

bool llamafile_sgemm_q4_1(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                          const void * A, int64_t lda, const void * B, int64_t ldb, float * C, int64_t ldc) {
    // gather counts bytes in 32 bits
    if (params->use_ref || n < LEAST_N || m < ROWS || lda*(int64_t) sizeof(block_q4_1) > INT32_MAX/ROWS ||
        ldb*(int64_t) sizeof(block_q8_1) > INT32_MAX/ROWS) {
        return false;
    }
    const int64_t all    = (m + ROWS - 1)/ROWS;
    const int64_t panels = std::min<int64_t>(4, std::max<int64_t>(1, all/(4*params->nth)));

    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    for (int64_t job = params->ith; job*panels < all; job = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        rows_of(job*panels*ROWS, panels, m, n, k, (const block_q4_1 *) A, lda, (const block_q8_1 *) B, ldb, C, ldc);
    }

    ggml_barrier(params->threadpool);
    return true;
}

#else

bool llamafile_sgemm_q4_1(const struct ggml_compute_params *, int64_t, int64_t, int64_t,
                          const void *, int64_t, const void *, int64_t, float *, int64_t) {
    return false;
}

#endif
