#include "set-rows-kv.cuh"

// Only for NVIDIA: the code counts on warps of 32.
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

#include "set-rows-kv-block.cuh"

template <typename idx_t, typename block_t>
static __global__ void set_rows_kv(
        const char * src, const char * idx, char * dst, const uint32_t nblocks, const uint3 nblocks_row, const uint3 ne01, const uint3 ne02,
        const uint3 ne11, const uint3 ne12, const int64_t nb01, const int64_t nb02, const int64_t nb03,
        const int64_t nb10, const int64_t nb11, const int64_t nb12, const int64_t nb1, const int64_t nb2, const int64_t nb3) {
    const uint32_t i = blockIdx.x*blockDim.y + threadIdx.y;
    if (i >= nblocks) {
        return;
    }
    const uint2 block_row = fast_div_modulo(i,           nblocks_row);
    const uint2 row_1     = fast_div_modulo(block_row.x, ne01);
    const uint2 row_2     = fast_div_modulo(row_1.x,     ne02);
    const int   lane      = threadIdx.x;

    ggml_cuda_pdl_sync();

    const int64_t row = *(const idx_t *) (idx + row_1.y*nb10 + fastmodulo(row_2.y, ne11)*nb11 + fastmodulo(row_2.x, ne12)*nb12);
    const float   x   = ((const float *) (src + row_1.y*nb01 + row_2.y*nb02 + row_2.x*nb03))[block_row.y*32 + lane];

    set_rows_kv_block(x, lane, (block_t *) (dst + row*nb1 + row_2.y*nb2 + row_2.x*nb3) + block_row.y);
}

template <typename idx_t, typename block_t>
static void set_rows_kv_launch(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0];
    const ggml_tensor * src1 = dst->src[1];

    constexpr int warps = 4;
    const int64_t nblocks = ggml_nelements(src0)/32;
    if (nblocks == 0) {
        return;
    }
    GGML_ASSERT(nblocks < INT_MAX);

    const dim3 grid((nblocks + warps - 1)/warps, 1, 1);
    const dim3 block(WARP_SIZE, warps, 1);
    const ggml_cuda_kernel_launch_params launch_params = ggml_cuda_kernel_launch_params(grid, block, 0, ctx.stream());
    ggml_cuda_kernel_launch(set_rows_kv<idx_t, block_t>, launch_params,
        (const char *) src0->data, (const char *) src1->data, (char *) dst->data, (uint32_t) nblocks,
        init_fastdiv_values(src0->ne[0]/32), init_fastdiv_values(src0->ne[1]), init_fastdiv_values(src0->ne[2]),
        init_fastdiv_values(src1->ne[1]), init_fastdiv_values(src1->ne[2]),
        (int64_t) src0->nb[1], (int64_t) src0->nb[2], (int64_t) src0->nb[3],
        (int64_t) src1->nb[0], (int64_t) src1->nb[1], (int64_t) src1->nb[2],
        (int64_t) dst->nb[1], (int64_t) dst->nb[2], (int64_t) dst->nb[3]);
    CUDA_CHECK(cudaGetLastError());
}

bool ggml_cuda_set_rows_kv_supported(const ggml_tensor * dst) {
    if (dst->src[0]->type != GGML_TYPE_F32) {
        return false;
    }
    switch ((int) dst->type) {
#define SET_ROWS_KV_CASE(T) case GGML_TYPE_##T: return true;
        SET_ROWS_KV_TYPES(SET_ROWS_KV_CASE)
#undef SET_ROWS_KV_CASE
        default: return false;
    }
}

void ggml_cuda_set_rows_kv(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    switch ((int) dst->type) {
#define SET_ROWS_KV_CASE(T)                                     \
        case GGML_TYPE_##T:                                     \
            if (dst->src[1]->type == GGML_TYPE_I64) {           \
                set_rows_kv_launch<int64_t, block_##T>(ctx, dst); \
            } else {                                            \
                set_rows_kv_launch<int32_t, block_##T>(ctx, dst); \
            }                                                   \
            break;
        SET_ROWS_KV_TYPES(SET_ROWS_KV_CASE)
#undef SET_ROWS_KV_CASE
        default: GGML_ABORT("fatal error");
    }
}

#else // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

bool ggml_cuda_set_rows_kv_supported(const ggml_tensor * dst) {
    GGML_UNUSED(dst);
    return false;
}

void ggml_cuda_set_rows_kv(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    GGML_UNUSED_VARS(ctx, dst);
    GGML_ABORT("fatal error");
}

#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
