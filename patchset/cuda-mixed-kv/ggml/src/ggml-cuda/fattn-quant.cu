#include "fattn-quant.cuh"

#ifdef FATTN_QUANT_AVAILABLE

#include "cp-async.cuh"
#include "fattn-common.cuh"
#include "fattn-quant-load.cuh"
#include "mma.cuh"

using namespace ggml_cuda_mma;

// Each warp takes rows of K and V of its own and keeps a softmax of its own, so warps wait for nothing but their own loads.
// The quantized rows go to shared memory asynchronously, two times ahead. From there they are unpacked straight into the registers of the matrix instructions. Which of a head's
// dimensions stands in which row or column of such a matrix is free, so each thread takes neighboring ones.

static constexpr int FATTN_QUANT_NCOLS   = 8;  // pairs of a query and a query head that share a K/V head
static constexpr int FATTN_QUANT_NROWS   = 16; // rows of K and V that a warp takes at a time
static constexpr int FATTN_QUANT_NSTAGES = 2;  // how many times that many it has in shared memory or on the way there

static constexpr int FATTN_QUANT_MIN_WARPS = 4; // of a block
static constexpr __host__ __device__ int fattn_quant_max_warps(const int D) {
    return D <= 128 ? 16 : 12;
}

// A row in shared memory: it begins where it does in global memory within 16 bytes, of which heads start at multiples of
// what both 16 and a row's bytes are multiples of.
static constexpr __host__ __device__ int fattn_quant_row_bytes(const ggml_type type, const int D) {
    return D/32*fattn_quant_block_bytes(type);
}

static constexpr __host__ __device__ int fattn_quant_row_align(const ggml_type type, const int D) {
    const int bytes = fattn_quant_row_bytes(type, D);
    return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : bytes % 2 == 0 ? 2 : 1;
}

static constexpr __host__ __device__ int fattn_quant_row_stride(const ggml_type type, const int D) {
    return (fattn_quant_row_bytes(type, D) + 16 - fattn_quant_row_align(type, D) + 15)/16*16;
}

struct fattn_quant_side {
    const char * data;
    int64_t nb2, nb3;
    int nb1;
    int type;
    int copy;       // bytes copied at once, 16 or 4
    int pieces;     // of a row that are copied so, at most
    int pieces_inv; // n*pieces_inv/65536 == n/pieces for a lane n
    int rows;       // rows copied at once
    int row_bytes;
    int stride;     // bytes of a row in shared memory
};

struct fattn_quant_params {
    const char  * Q;
    const char  * mask;
    const float * sinks;
    float       * dst;
    float2      * meta;
    fattn_quant_side K;
    fattn_quant_side V;
    int64_t nb01, nb02, nb03, nb33;
    int nb31; // in halves
    int n_queries, n_heads, n_kv;
    int gqa_ratio;
    int steps_part;   // of each part of K and V
    int steps_more;   // parts that have one more
    int group_log2;   // of a block's K/V heads
    uint3 n_groups;   // for fastdiv, as those below
    uint3 tiles_head; // tiles for the query heads of one K/V head
    uint3 ne33;
    int heads;        // query heads of a tile
    int heads_inv;    // column*heads_inv/256 == column/heads
    int queries;      // queries of a tile
    float scale, max_bias, m0, m1, logit_softcap;
    uint32_t n_head_log2;
    uint32_t byte_64; // 0x64 in each byte
};

#ifdef TURING_MMA_AVAILABLE
template <int nbytes>
static __device__ __forceinline__ void fattn_quant_copy(char * dst, const char * src) {
#ifdef CP_ASYNC_AVAILABLE
    const unsigned int dst32 = ggml_cuda_cvta_generic_to_shared(dst);
    if constexpr (nbytes == 16) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" : : "r"(dst32), "l"(src) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"  : : "r"(dst32), "l"(src) : "memory");
    }
#else
    ggml_cuda_memcpy_1<nbytes>(dst, src);
#endif // CP_ASYNC_AVAILABLE
}

// Waits for the copies of this warp but those of its last n commits.
template <int n>
static __device__ __forceinline__ void fattn_quant_wait() {
#ifdef CP_ASYNC_AVAILABLE
    asm volatile("cp.async.wait_group %0;" : : "n"(n) : "memory");
#endif // CP_ASYNC_AVAILABLE
    __syncwarp();
}

// The copies of one side's rows to shared memory that are the thread's.
struct fattn_quant_copier {
    const char * src;  // of the head's first row, from which on this thread copies
    int          dst;  // the same in shared memory
    int          skip; // bytes in shared memory before the row
    int          row;  // the thread's first row, beyond all rows if it has none
    int          left; // bytes of the row from src on

    __device__ __forceinline__ fattn_quant_copier(const fattn_quant_side & side, const char * head, const int rows_shared) {
        skip = side.copy == 16 ? (uintptr_t) head & 15 : 0;
        row  = threadIdx.x*side.pieces_inv / 65536;
        const int begin = (threadIdx.x - row*side.pieces)*side.copy;
        src = head - skip + begin;
        dst = rows_shared + row*side.stride + begin;
        left = skip + side.row_bytes - begin;
        if (row >= side.rows || left <= 0) {
            row = INT_MAX/2;
        }
    }

    // Rows from i0 on, if that is before i_stop, with the last of n_kv rows in place of those that there are not.
    __device__ __forceinline__ void copy(
            const fattn_quant_side & side, char * shared, const int stage, const int i0, const int i_stop, const int n_kv) const {
        if (i0 < i_stop) {
            char * d = shared + dst + stage*FATTN_QUANT_NROWS*side.stride;
#pragma unroll 1
            for (int r = row; r < FATTN_QUANT_NROWS; r += side.rows) {
                const char * s = src + int64_t(min(i0 + r, n_kv - 1))*side.nb1;
                if (side.copy == 16) {
                    fattn_quant_copy<16>(d, s);
                } else {
                    fattn_quant_copy<4>(d, s);
                    for (int b = 4*WARP_SIZE; side.rows == 1 && b < left; b += 4*WARP_SIZE) {
                        fattn_quant_copy<4>(d + b, s + b);
                    }
                }
                d += side.rows*side.stride;
            }
        }
#ifdef CP_ASYNC_AVAILABLE
        asm volatile("cp.async.commit_group;" : : : "memory");
#endif // CP_ASYNC_AVAILABLE
    }
};

// A thread has these shares of a row of K and of V, in segments of these sizes.
static constexpr __host__ __device__ int fattn_quant_ne_K(const int D) { return D/4 < 32 ? D/4 : 32; }
static constexpr __host__ __device__ int fattn_quant_ne_V(const int D) { return D/8 < 16 ? D/8 : 16; }

template <int D, ggml_type type>
static __device__ __forceinline__ void fattn_quant_KQ(
        const char * rows, const uint32_t byte_64, const tile<8, 8, half2> * Q_B, tile<16, 8, float> & KQ_C) {
    constexpr int ne     = fattn_quant_ne_K(D);
    constexpr int nseg   = D/4 / ne;
    constexpr int stride = fattn_quant_row_stride(type, D);
    const int g = threadIdx.x / 4;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int s = 0; s < nseg; ++s) {
        const fattn_quant_segment<type, ne> segment(rows + g*stride, t*nseg + s);
        half2 a[2][ne/2];
        fattn_quant_load(segment, 0*stride, byte_64, a[0]);
        fattn_quant_load(segment, 8*stride, byte_64, a[1]);
#pragma unroll
        for (int k = 0; k < ne/4; ++k) {
            tile<16, 8, half2> A;
            A.x[0] = a[0][2*k + 0];
            A.x[1] = a[1][2*k + 0];
            A.x[2] = a[0][2*k + 1];
            A.x[3] = a[1][2*k + 1];
            mma(KQ_C, A, Q_B[s*(ne/4) + k]);
        }
    }
}

template <int D, ggml_type type>
static __device__ __forceinline__ void fattn_quant_VKQ(
        const char * rows, const uint32_t byte_64, const tile<8, 8, half2> & P_B, tile<16, 8, float> * VKQ_C) {
    constexpr int ne     = fattn_quant_ne_V(D);
    constexpr int nseg   = D/8 / ne;
    constexpr int stride = fattn_quant_row_stride(type, D);
    const int g = threadIdx.x / 4;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int s = 0; s < nseg; ++s) {
        const fattn_quant_segment<type, ne> segment(rows + 2*t*stride, g*nseg + s);
        half2 a[2][ne];
        fattn_quant_load_pairs(segment, 0*stride, 1*stride, byte_64, a[0]);
        fattn_quant_load_pairs(segment, 8*stride, 9*stride, byte_64, a[1]);
#pragma unroll
        for (int k = 0; k < ne/2; ++k) {
            tile<16, 8, half2> A;
            A.x[0] = a[0][2*k + 0];
            A.x[1] = a[0][2*k + 1];
            A.x[2] = a[1][2*k + 0];
            A.x[3] = a[1][2*k + 1];
            mma(VKQ_C[s*(ne/2) + k], A, P_B);
        }
    }
}
#endif // TURING_MMA_AVAILABLE

template <int D>
__launch_bounds__(fattn_quant_max_warps(D)*WARP_SIZE, 1)
static __global__ void flash_attn_ext_quant(const fattn_quant_params p) {
    ggml_cuda_pdl_lc();
#if defined(FLASH_ATTN_AVAILABLE) && defined(TURING_MMA_AVAILABLE)
    constexpr int max_warps = fattn_quant_max_warps(D);
    constexpr int ncols  = FATTN_QUANT_NCOLS;
    constexpr int nrows  = FATTN_QUANT_NROWS;
    constexpr int nstages = FATTN_QUANT_NSTAGES;

    const int g = threadIdx.x / 4;
    const int t = threadIdx.x % 4;

    // The warps of a block are for neighboring K/V heads in turn: the ends of rows share sectors of memory with the next head's.
    const int nwarps      = blockDim.y;
    const int nwarps_head = nwarps >> p.group_log2;
    const int group       = 1 << p.group_log2;

    const uint2 tile_query_head   = fast_div_modulo(blockIdx.x, p.tiles_head);
    const uint2 sequence_group    = fast_div_modulo(blockIdx.z, p.n_groups);
    const int   tile_head         = tile_query_head.y;
    const int   j0                = tile_query_head.x*p.queries;
    const int   head_kv_0         = sequence_group.y << p.group_log2;
    const int   head_kv           = head_kv_0 + (threadIdx.y & (group - 1));
    const int   sequence          = sequence_group.x;

    // column c of a tile is query j0 + c / heads for head h0 + c % heads
    const int h0      = head_kv*p.gqa_ratio + tile_head*p.heads;
    const int n_heads = min(p.heads, p.gqa_ratio - tile_head*p.heads);
    const int n_query = min(p.queries, p.n_queries - j0);
    struct { int query, head; bool exists; } column;
    auto get_column = [&](const int c) {
        column.query  = c*p.heads_inv / 256;
        column.head   = c - column.query*p.heads;
        column.exists = column.query < n_query && column.head < n_heads;
    };

    extern __shared__ __align__(16) char shared[];
    const int rows_K = threadIdx.y*nstages*nrows*(p.K.stride + p.V.stride);
    const int rows_V = rows_K + nstages*nrows*p.K.stride;

    const fattn_quant_copier copier_K(p.K, p.K.data + sequence*p.K.nb3 + head_kv*p.K.nb2, rows_K);
    const fattn_quant_copier copier_V(p.V, p.V.data + sequence*p.V.nb3 + head_kv*p.V.nb2, rows_V);

    const int y      = blockIdx.y;
    const int step   = y*p.steps_part + min(y, p.steps_more);
    const int i_stop = (step + p.steps_part + (y < p.steps_more ? 1 : 0))*nrows;

    ggml_cuda_pdl_sync();

    int i0 = (step + (threadIdx.y >> p.group_log2))*nrows;
#pragma unroll 1
    for (int stage = 0; stage < nstages; ++stage) {
        copier_K.copy(p.K, shared, stage, i0 + stage*nwarps_head*nrows, i_stop, p.n_kv);
        copier_V.copy(p.V, shared, stage, i0 + stage*nwarps_head*nrows, i_stop, p.n_kv);
    }

    // the thread's columns in the results: 2t and 2t + 1
    float slope[2];
    int   mask_row[2];
    const half * mask = (const half *) (p.mask + fastmodulo(sequence, p.ne33)*p.nb33);
#pragma unroll
    for (int l = 0; l < 2; ++l) {
        get_column(2*t + l);
        slope[l] = column.exists ? get_alibi_slope(p.max_bias, h0 + column.head, p.n_head_log2, p.m0, p.m1) : 0.0f;
        mask_row[l] = (column.exists ? j0 + column.query : j0)*p.nb31;
    }

    // and in the operand that has the queries: g
    tile<8, 8, half2> Q_B[D/16];
    {
        get_column(g);
        const int  query   = column.exists ? column.query : 0;
        const int  head    = column.exists ? column.head  : 0;
        const float scale  = column.exists ? p.scale : 0.0f;
        const bool nibbles = fattn_quant_is_nibbles((ggml_type) p.K.type);
        const float * Q = (const float *) (p.Q + sequence*p.nb03 + (h0 + head)*p.nb02 + (j0 + query)*p.nb01)
            + fattn_quant_first(nibbles, D/4, t);
#pragma unroll
        for (int k = 0; k < D/16; ++k) {
            float q[4];
            ggml_cuda_memcpy_1<16>(q, Q + (nibbles ?
                fattn_quant_offset(true, fattn_quant_ne_K(D), 4*k) : fattn_quant_offset(false, fattn_quant_ne_K(D), 4*k)));
            Q_B[k].x[0] = make_half2(scale*q[0], scale*q[1]);
            Q_B[k].x[1] = make_half2(scale*q[2], scale*q[3]);
        }
    }
    // A register that is no constant to the compiler, which would else move it there for each instruction that has another one.
    const uint32_t byte_64 = __shfl_sync(0xFFFFFFFF, p.byte_64, 0, WARP_SIZE);

    tile<16, 8, float> VKQ_C[D/16];
    float KQ_max[2] = {-FLT_MAX/2.0f, -FLT_MAX/2.0f};
    float KQ_sum[2] = {0.0f, 0.0f};

    int stage = 0;
#pragma unroll 1
    for (; i0 < i_stop; i0 += nwarps_head*nrows) {
        half m[4];
        if (p.mask) {
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                m[l] = mask[mask_row[l % 2] + min(i0 + g + 8*(l/2), p.n_kv - 1)];
            }
        }

        tile<16, 8, float> KQ_C;
        fattn_quant_wait<2*nstages - 1>(); // for K
        switch (p.K.type) {
#define FATTN_QUANT_CASE(T) case GGML_TYPE_##T: \
            fattn_quant_KQ<D, GGML_TYPE_##T>(shared + rows_K + stage*nrows*p.K.stride + copier_K.skip, byte_64, Q_B, KQ_C); break;
            FATTN_QUANT_TYPES(FATTN_QUANT_CASE)
#undef FATTN_QUANT_CASE
            default: break;
        }
        __syncwarp();
        copier_K.copy(p.K, shared, stage, i0 + nstages*nwarps_head*nrows, i_stop, p.n_kv);

        float KQ_max_new[2] = {KQ_max[0], KQ_max[1]};
#pragma unroll
        for (int l = 0; l < 4; ++l) {
            float & x = KQ_C.x[l];
            if (p.logit_softcap != 0.0f) {
                x = p.logit_softcap*tanhf(x);
            }
            if (p.mask) {
                x += slope[l % 2]*__half2float(m[l]);
            }
            if (i0 + g + 8*(l/2) >= p.n_kv) {
                x = -INFINITY;
            }
            KQ_max_new[l % 2] = fmaxf(KQ_max_new[l % 2], x);
        }
#pragma unroll
        for (int l = 0; l < 2; ++l) {
#pragma unroll
            for (int offset = 16; offset >= 4; offset >>= 1) {
                KQ_max_new[l] = fmaxf(KQ_max_new[l], __shfl_xor_sync(0xFFFFFFFF, KQ_max_new[l], offset, WARP_SIZE));
            }
        }

        if (__any_sync(0xFFFFFFFF, KQ_max_new[0] > KQ_max[0] || KQ_max_new[1] > KQ_max[1])) {
            const float scale[2] = {expf(KQ_max[0] - KQ_max_new[0]), expf(KQ_max[1] - KQ_max_new[1])};
#pragma unroll
            for (int l = 0; l < 2; ++l) {
                KQ_max[l]  = KQ_max_new[l];
                KQ_sum[l] *= scale[l];
            }
#pragma unroll
            for (int k = 0; k < D/16; ++k) {
#pragma unroll
                for (int l = 0; l < 4; ++l) {
                    VKQ_C[k].x[l] *= scale[l % 2];
                }
            }
        }

#pragma unroll
        for (int l = 0; l < 4; ++l) {
            KQ_C.x[l] = expf(KQ_C.x[l] - KQ_max[l % 2]);
            KQ_sum[l % 2] += KQ_C.x[l];
        }
        const tile<8, 8, half2> P_B = get_transposed(get_half2(KQ_C));

        fattn_quant_wait<2*nstages - 1>(); // for V
        switch (p.V.type) {
#define FATTN_QUANT_CASE(T) case GGML_TYPE_##T: \
            fattn_quant_VKQ<D, GGML_TYPE_##T>(shared + rows_V + stage*nrows*p.V.stride + copier_V.skip, byte_64, P_B, VKQ_C); break;
            FATTN_QUANT_TYPES(FATTN_QUANT_CASE)
#undef FATTN_QUANT_CASE
            default: break;
        }
        __syncwarp();
        copier_V.copy(p.V, shared, stage, i0 + nstages*nwarps_head*nrows, i_stop, p.n_kv);
        stage = stage + 1 < nstages ? stage + 1 : 0;
    }

#pragma unroll
    for (int l = 0; l < 2; ++l) {
#pragma unroll
        for (int offset = 16; offset >= 4; offset >>= 1) {
            KQ_sum[l] += __shfl_xor_sync(0xFFFFFFFF, KQ_sum[l], offset, WARP_SIZE);
        }
    }

    // Merge the warps: the maxima and sums first, then the values, in the shared memory that had the rows.
    __shared__ float2 meta[ncols][max_warps];
    if (g == 0) {
#pragma unroll
        for (int l = 0; l < 2; ++l) {
            meta[2*t + l][threadIdx.y] = make_float2(KQ_max[l], KQ_sum[l]);
        }
    }
    __syncthreads();

    constexpr int stride_values = D + 4;
    float * values = (float *) shared;
    {
        const bool nibbles = fattn_quant_is_nibbles((ggml_type) p.V.type);
        float scale[2];
#pragma unroll
        for (int l = 0; l < 2; ++l) {
            float max = -FLT_MAX/2.0f;
            for (int w = threadIdx.y & (group - 1); w < nwarps; w += group) {
                max = fmaxf(max, meta[2*t + l][w].x);
            }
            scale[l] = expf(KQ_max[l] - max);
        }
        float * value = values + (threadIdx.y*ncols + 2*t)*stride_values + fattn_quant_first(nibbles, D/8, g);
#pragma unroll
        for (int n = 0; n < D/8; ++n) {
            const int offset = nibbles ? fattn_quant_offset(true, fattn_quant_ne_V(D), n) : fattn_quant_offset(false, fattn_quant_ne_V(D), n);
            value[offset                ] = scale[0]*VKQ_C[n/2].x[n%2*2 + 0];
            value[offset + stride_values] = scale[1]*VKQ_C[n/2].x[n%2*2 + 1];
        }
    }
    __syncthreads();

#pragma unroll 1
    for (int i = threadIdx.y; i < n_query*p.heads << p.group_log2; i += nwarps) {
        const int c  = i >> p.group_log2;
        const int w0 = i & (group - 1);
        get_column(c);
        if (!column.exists) {
            continue;
        }
        const int head = (head_kv_0 + w0)*p.gqa_ratio + tile_head*p.heads + column.head;

        float max = -FLT_MAX/2.0f;
        for (int w = w0; w < nwarps; w += group) {
            max = fmaxf(max, meta[c][w].x);
        }
        float sum = 0.0f;
        for (int w = w0; w < nwarps; w += group) {
            sum += meta[c][w].y*expf(meta[c][w].x - max);
        }
        float scale = 1.0f;
        if (p.sinks && blockIdx.y == 0) {
            const float max_new = fmaxf(max, p.sinks[head]);
            scale = expf(max - max_new);
            sum   = sum*scale + expf(p.sinks[head] - max_new);
            max   = max_new;
        }
        if (gridDim.y == 1) {
            scale /= sum;
        }

        const int64_t row = ((int64_t(sequence)*p.n_queries + j0 + column.query)*p.n_heads + head)*gridDim.y + blockIdx.y;
        float2 * dst = (float2 *) (p.dst + row*D);
#pragma unroll
        for (int d0 = 0; d0 < D/2; d0 += WARP_SIZE) {
            const int d = d0 + threadIdx.x;
            float2 value = make_float2(0.0f, 0.0f);
            for (int w = w0; w < nwarps; w += group) {
                const float2 x = ((const float2 *) (values + (w*ncols + c)*stride_values))[d];
                value.x += x.x;
                value.y += x.y;
            }
            dst[d] = make_float2(scale*value.x, scale*value.y);
        }
        if (gridDim.y != 1 && threadIdx.x == 0) {
            p.meta[row] = make_float2(max, sum);
        }
    }
#else
    GGML_UNUSED(p);
    NO_DEVICE_CODE;
#endif // defined(FLASH_ATTN_AVAILABLE) && defined(TURING_MMA_AVAILABLE)
}

// The parts of one row of the result become one. Like flash_attn_combine_results, with the parts spread over threads.
template <int D>
__launch_bounds__(256)
static __global__ void flash_attn_quant_combine(const float * parts, const float2 * meta, float * dst, const int nparts) {
    constexpr int groups = 256 / (D/4);
    const int d     = threadIdx.x % (D/4);
    const int group = threadIdx.x / (D/4);

    __shared__ float4 values[groups][D/4];
    __shared__ float  sums[groups];

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();

    meta  += int64_t(blockIdx.x)*nparts;
    parts += int64_t(blockIdx.x)*nparts*D;

    float max = -FLT_MAX/2.0f;
    for (int i = threadIdx.x % WARP_SIZE; i < nparts; i += WARP_SIZE) {
        max = fmaxf(max, meta[i].x);
    }
    max = warp_reduce_max(max);

    float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float  sum   = 0.0f;
#pragma unroll 4
    for (int i = group; i < nparts; i += groups) {
        const float2 m = meta[i];
        const float4 x = ((const float4 *) (parts + int64_t(i)*D))[d];
        const float  s = expf(m.x - max);
        sum     += s*m.y;
        value.x += s*x.x;
        value.y += s*x.y;
        value.z += s*x.z;
        value.w += s*x.w;
    }
    values[group][d] = value;
    if (d == 0) {
        sums[group] = sum;
    }
    __syncthreads();

    if (group != 0) {
        return;
    }
#pragma unroll
    for (int i = 1; i < groups; ++i) {
        const float4 x = values[i][d];
        sum     += sums[i];
        value.x += x.x;
        value.y += x.y;
        value.z += x.z;
        value.w += x.w;
    }
    const float scale = 1.0f/sum;
    ((float4 *) (dst + int64_t(blockIdx.x)*D))[d] = make_float4(scale*value.x, scale*value.y, scale*value.z, scale*value.w);
}

// Bytes that the rows of K or V can be copied by, 0 if not at all.
static int fattn_quant_copy_bytes(const ggml_tensor * t) {
    const int row_bytes = fattn_quant_row_bytes(t->type, t->ne[0]);
    if (row_bytes == 0) {
        return 0;
    }
    auto aligned = [&](const size_t n) {
        return t->nb[2] % n == 0 && t->nb[3] % n == 0 && t->view_offs % n == 0;
    };
    if (t->nb[1] % 16 == 0 && aligned(fattn_quant_row_align(t->type, t->ne[0]))) {
        return 16;
    }
    return t->type != GGML_TYPE_F16 && row_bytes % 4 == 0 && t->nb[1] % 4 == 0 && aligned(4) ? 4 : 0;
}

static fattn_quant_side fattn_quant_get_side(const ggml_tensor * t) {
    fattn_quant_side side;
    side.data      = (const char *) t->data;
    side.nb1       = t->nb[1];
    side.nb2       = t->nb[2];
    side.nb3       = t->nb[3];
    side.type      = t->type;
    side.copy      = fattn_quant_copy_bytes(t);
    side.row_bytes  = fattn_quant_row_bytes (t->type, t->ne[0]);
    side.stride     = fattn_quant_row_stride(t->type, t->ne[0]);
    side.pieces     = side.copy == 16 ? side.stride/16 : side.row_bytes/4;
    side.pieces_inv = (65535 + side.pieces)/side.pieces;
    side.rows       = std::max(WARP_SIZE/side.pieces, 1);
    return side;
}

// Dynamic shared memory of a block: its rows, of which unaligned words are read with the one behind them, then its results.
static size_t fattn_quant_nbytes_shared(const ggml_tensor * K, const ggml_tensor * V, const int nwarps) {
    const int    D            = K->ne[0];
    const size_t stride       = fattn_quant_row_stride(K->type, D) + fattn_quant_row_stride(V->type, D);
    const size_t nbytes_rows  = FATTN_QUANT_NSTAGES*nwarps*FATTN_QUANT_NROWS*stride + 16;
    const size_t nbytes_merge = nwarps*FATTN_QUANT_NCOLS*(D + 4)*sizeof(float);
    return std::max(nbytes_rows, nbytes_merge);
}

// What a block can have of it beside its static shared memory.
static size_t fattn_quant_max_shared(const int device) {
    return ggml_cuda_info().devices[device].smpbo - 4096;
}

bool ggml_cuda_flash_attn_ext_quant_supported(int device, const ggml_tensor * dst) {
#ifdef FLASH_ATTN_AVAILABLE
    const ggml_tensor * Q    = dst->src[0];
    const ggml_tensor * K    = dst->src[1];
    const ggml_tensor * V    = dst->src[2];
    const ggml_tensor * mask = dst->src[3];

    const int cc = ggml_cuda_info().devices[device].cc;

    // With more tiles of queries, each of which reads K and V, converting them to f16 once is faster: on an H100 from 6 on.
    const int gqa_ratio  = Q->ne[2] / K->ne[2];
    const int tiles_head = (gqa_ratio + FATTN_QUANT_NCOLS - 1) / FATTN_QUANT_NCOLS;
    const int heads      = (gqa_ratio + tiles_head - 1) / tiles_head;
    const int queries    = FATTN_QUANT_NCOLS / heads;

    return turing_mma_available(cc) && GGML_CUDA_CC_IS_NVIDIA(cc) &&
        (ggml_is_quantized(K->type) || ggml_is_quantized(V->type)) &&
        K->ne[0] == V->ne[0] && (K->ne[0] == 64 || K->ne[0] == 128 || K->ne[0] == 256) &&
        fattn_quant_copy_bytes(K) != 0 && fattn_quant_copy_bytes(V) != 0 &&
        fattn_quant_nbytes_shared(K, V, FATTN_QUANT_MIN_WARPS) <= fattn_quant_max_shared(device) &&
        Q->nb[1] % 16 == 0 && Q->nb[2] % 16 == 0 && Q->nb[3] % 16 == 0 &&
        (!mask || (mask->ne[2] == 1 && mask->nb[0] == sizeof(half))) &&
        (Q->ne[1] + queries - 1)/queries*tiles_head <= 4;
#else
    GGML_UNUSED_VARS(device, dst);
    return false;
#endif // FLASH_ATTN_AVAILABLE
}

template <int D>
static void fattn_quant_case(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const ggml_tensor * Q     = dst->src[0];
    const ggml_tensor * K     = dst->src[1];
    const ggml_tensor * V     = dst->src[2];
    const ggml_tensor * mask  = dst->src[3];
    const ggml_tensor * sinks = dst->src[4];

    const int id  = ggml_cuda_get_device();
    const int nsm = ggml_cuda_info().devices[id].nsm;
    cudaStream_t stream = ctx.stream();

    fattn_quant_params p;
    p.Q     = (const char *) Q->data;
    p.mask  = mask  ? (const char  *) mask->data  : nullptr;
    p.sinks = sinks ? (const float *) sinks->data : nullptr;
    p.K     = fattn_quant_get_side(K);
    p.V     = fattn_quant_get_side(V);
    p.nb01  = Q->nb[1];
    p.nb02  = Q->nb[2];
    p.nb03  = Q->nb[3];
    p.nb31  = mask ? mask->nb[1]/sizeof(half) : 0;
    p.nb33  = mask ? mask->nb[3] : 0;
    p.ne33  = init_fastdiv_values(mask ? mask->ne[3] : 1);

    p.n_queries    = Q->ne[1];
    p.n_heads      = Q->ne[2];
    p.n_kv         = K->ne[1];
    p.gqa_ratio    = Q->ne[2] / K->ne[2];
    const int tiles_head = (p.gqa_ratio + FATTN_QUANT_NCOLS - 1) / FATTN_QUANT_NCOLS;
    p.tiles_head   = init_fastdiv_values(tiles_head);
    p.heads        = (p.gqa_ratio + tiles_head - 1) / tiles_head;
    p.heads_inv    = (255 + p.heads) / p.heads;
    p.queries      = FATTN_QUANT_NCOLS / p.heads;

    memcpy(&p.scale,         (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&p.max_bias,      (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&p.logit_softcap, (const float *) dst->op_params + 2, sizeof(float));
    if (p.logit_softcap != 0.0f) {
        p.scale /= p.logit_softcap;
    }
    p.n_head_log2 = 1u << uint32_t(floorf(log2f(float(p.n_heads))));
    p.m0 = powf(2.0f, -(p.max_bias       ) / p.n_head_log2);
    p.m1 = powf(2.0f, -(p.max_bias / 2.0f) / p.n_head_log2);

    p.byte_64 = 0x64646464;

    // a block of as many warps as there can be on a multiprocessor, fewer in more blocks if K and V are short
    constexpr int nrows = FATTN_QUANT_NROWS;
    const int steps = (p.n_kv + nrows - 1) / nrows;
    const int tiles = (p.n_queries + p.queries - 1) / p.queries * tiles_head;
    const int64_t steps_all = int64_t(steps) * tiles * K->ne[2] * Q->ne[3];
    p.group_log2 = steps_all < nsm*fattn_quant_max_warps(D) ? 0 : K->ne[2] % 4 == 0 ? 2 : K->ne[2] % 2 == 0 ? 1 : 0;
    p.n_groups   = init_fastdiv_values(K->ne[2] >> p.group_log2);
    const int ndst = tiles * (K->ne[2] >> p.group_log2) * Q->ne[3];

    int nwarps = fattn_quant_max_warps(D);
    while (nwarps % 8 == 0 && steps_all <= int64_t(nsm)*nwarps/2) {
        nwarps /= 2;
    }
    const size_t max_shared = fattn_quant_max_shared(id);
    while (nwarps > FATTN_QUANT_MIN_WARPS && fattn_quant_nbytes_shared(K, V, nwarps) > max_shared) {
        nwarps -= FATTN_QUANT_MIN_WARPS;
    }
    const size_t nbytes_shared = fattn_quant_nbytes_shared(K, V, nwarps);
    GGML_ASSERT(nbytes_shared <= max_shared);

    CUDA_SET_SHARED_MEMORY_LIMIT(flash_attn_ext_quant<D>, max_shared);

    int blocks_per_sm = 1;
    CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_sm, flash_attn_ext_quant<D>, nwarps*WARP_SIZE, nbytes_shared));
    GGML_ASSERT(blocks_per_sm > 0);

    const int nwarps_head = nwarps >> p.group_log2;

    // as many parts of K and V as fill the device, but no warp without rows
    const int parts = std::max(std::min(blocks_per_sm*nsm / ndst, (steps + nwarps_head - 1) / nwarps_head), 1);
    p.steps_part    = steps / parts;
    p.steps_more    = steps % parts;

    ggml_cuda_pool_alloc<float>  dst_parts(ctx.pool());
    ggml_cuda_pool_alloc<float2> dst_meta(ctx.pool());
    p.dst  = (float *) dst->data;
    p.meta = nullptr;
    if (parts > 1) {
        p.dst  = dst_parts.alloc(parts*ggml_nelements(dst));
        p.meta = dst_meta.alloc(parts*ggml_nrows(dst));
    }

    const dim3 grid(tiles, parts, (K->ne[2] >> p.group_log2)*Q->ne[3]);
    const dim3 block(WARP_SIZE, nwarps, 1);
    const ggml_cuda_kernel_launch_params launch_params = ggml_cuda_kernel_launch_params(grid, block, nbytes_shared, stream);
    ggml_cuda_kernel_launch(flash_attn_ext_quant<D>, launch_params, p);
    CUDA_CHECK(cudaGetLastError());

    if (parts > 1) {
        const ggml_cuda_kernel_launch_params launch_params =
            ggml_cuda_kernel_launch_params(dim3(ggml_nrows(dst), 1, 1), dim3(256, 1, 1), 0, stream);
        ggml_cuda_kernel_launch(flash_attn_quant_combine<D>, launch_params,
            (const float *) dst_parts.ptr, (const float2 *) dst_meta.ptr, (float *) dst->data, parts);
        CUDA_CHECK(cudaGetLastError());
    }
}

void ggml_cuda_flash_attn_ext_quant(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    switch (dst->src[0]->ne[0]) {
        case  64: fattn_quant_case< 64>(ctx, dst); break;
        case 128: fattn_quant_case<128>(ctx, dst); break;
        case 256: fattn_quant_case<256>(ctx, dst); break;
        default: GGML_ABORT("fatal error");
    }
}

template <ggml_type type>
static __global__ void fattn_quant_to_fp16(
        const char * x, half * y, const int64_t ne0, const int64_t ne1, const int64_t nb1, const int64_t nb2, const int64_t nb3) {
    constexpr int ne = 8;
    constexpr bool nibbles = fattn_quant_is_nibbles(type);

    const int64_t i = int64_t(blockIdx.x)*blockDim.x + threadIdx.x;
    const int64_t i1 = ne1 == 1 ? 0 : i / (ne0/ne);
    const int64_t i0 = ne1 == 1 ? i : i % (ne0/ne);
    if (i1 >= ne1 || i0 >= ne0/ne) {
        return;
    }
    x += blockIdx.z*nb3 + blockIdx.y*nb2 + i1*nb1 + i0/(32/ne)*fattn_quant_block_bytes(type);
    y += ((int64_t(blockIdx.z)*gridDim.y + blockIdx.y)*ne1 + i1)*ne0 + i0/(32/ne)*32;

    const int s = i0 % (32/ne);
    half2 v[ne/2];
    ggml_cuda_pdl_sync();
    fattn_quant_load(fattn_quant_segment<type, ne, true>(x, s), 0, 0x64646464, v);
    if constexpr (nibbles) {
        ggml_cuda_memcpy_1<8>(y + s*ne/2 +  0, v + 0);
        ggml_cuda_memcpy_1<8>(y + s*ne/2 + 16, v + 2);
    } else {
        ggml_cuda_memcpy_1<16>(y + s*ne, v);
    }
}

template <ggml_type type>
static void fattn_quant_to_fp16_nc_cuda(
        const void * x, half * y, int64_t ne00, int64_t ne01, int64_t ne02, int64_t ne03, int64_t s01, int64_t s02, int64_t s03,
        cudaStream_t stream) {
    const int64_t nb   = fattn_quant_block_bytes(type);
    const dim3    grid((ne00/8*ne01 + 255)/256, ne02, ne03);
    const ggml_cuda_kernel_launch_params launch_params = ggml_cuda_kernel_launch_params(grid, dim3(256, 1, 1), 0, stream);
    ggml_cuda_kernel_launch(fattn_quant_to_fp16<type>, launch_params, (const char *) x, y, ne00, ne01, s01*nb, s02*nb, s03*nb);
}

template <ggml_type type>
static void fattn_quant_to_fp16_cuda(const void * x, half * y, int64_t k, cudaStream_t stream) {
    fattn_quant_to_fp16_nc_cuda<type>(x, y, k, 1, 1, 1, 0, 0, 0, stream);
}

bool ggml_cuda_fattn_quant_type_supported(const ggml_type type) {
    return fattn_quant_block_bytes(type) != 0;
}

to_fp16_cuda_t ggml_cuda_fattn_get_to_fp16(const ggml_type type) {
    switch (type) {
#define FATTN_QUANT_CASE(T) case GGML_TYPE_##T: return fattn_quant_to_fp16_cuda<GGML_TYPE_##T>;
        FATTN_QUANT_TYPES(FATTN_QUANT_CASE)
#undef FATTN_QUANT_CASE
        default: return ggml_get_to_fp16_cuda(type);
    }
}

to_fp16_nc_cuda_t ggml_cuda_fattn_get_to_fp16_nc(const ggml_type type) {
    switch (type) {
#define FATTN_QUANT_CASE(T) case GGML_TYPE_##T: return fattn_quant_to_fp16_nc_cuda<GGML_TYPE_##T>;
        FATTN_QUANT_TYPES(FATTN_QUANT_CASE)
#undef FATTN_QUANT_CASE
        default: return ggml_get_to_fp16_nc_cuda(type);
    }
}

#else // FATTN_QUANT_AVAILABLE

bool ggml_cuda_flash_attn_ext_quant_supported(int device, const ggml_tensor * dst) {
    GGML_UNUSED_VARS(device, dst);
    return false;
}

void ggml_cuda_flash_attn_ext_quant(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    GGML_UNUSED_VARS(ctx, dst);
    GGML_ABORT("fatal error");
}

bool ggml_cuda_fattn_quant_type_supported(const ggml_type type) {
    GGML_UNUSED(type);
    return false;
}

to_fp16_cuda_t ggml_cuda_fattn_get_to_fp16(const ggml_type type) {
    return ggml_get_to_fp16_cuda(type);
}

to_fp16_nc_cuda_t ggml_cuda_fattn_get_to_fp16_nc(const ggml_type type) {
    return ggml_get_to_fp16_nc_cuda(type);
}

#endif // FATTN_QUANT_AVAILABLE
