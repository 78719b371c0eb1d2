#include "common.h"
#include "dequantize.h"
#include "fa_common.metal"
#include "fa_vec_common.metal"

// flash attention with K and V of different types - a single kernel, compiled when it is first used
// ref: ggml-metal-fa-mixed-libs.h
//
//   FA_NAME       name of the kernel
//   FA_K,  FA_V   types
//   FA_DK, FA_DV  head sizes
//   FA_Q          vec kernel: queries per threadgroup
//   FA_NE         vec kernel: head elements per thread, 0 for the other kernel
#ifdef FA_NAME

#define FA_CAT_(a, b) a##b
#define FA_CAT(a, b)  FA_CAT_(a, b)
#define FA_STR_(x)    #x
#define FA_STR(x)     FA_STR_(x)

#if FA_NE == 0
// same as in fa_q8_0.metal
#define FA_TYPES \
    half,   half4,     simdgroup_half8x8,  \
    half,   half4x4,   simdgroup_half8x8,  \
    half,   half4x4,   simdgroup_half8x8,  \
    float,             simdgroup_float8x8, \
    float,  float2,    simdgroup_float8x8, \
    float,  float4,    simdgroup_float8x8

#define FA_F16()           half4x4,      1,     dequantize_f16
#define FA_BLOCK(type, qk) block_##type, qk/16, dequantize_##type
#else
// same as in fa_vec_q8_0.metal
#define FA_TYPES \
           half4,  \
           half4,  \
           half4,  \
    float,         \
    float, float4, \
           float4

#define FA_F16()           half4,        1,    dequantize_f16_t4
#define FA_BLOCK(type, qk) block_##type, qk/4, dequantize_##type##_t4
#endif

// what the kernel reads from device memory: the block, the number of pieces in it, and how to dequantize a piece
#define FA_TYPE_f16  FA_F16()
#define FA_TYPE_q8_0 FA_BLOCK(q8_0, QK8_0)
#define FA_TYPE_q5_1 FA_BLOCK(q5_1, QK5_1)
#define FA_TYPE_q5_0 FA_BLOCK(q5_0, QK5_0)
#define FA_TYPE_q4_1 FA_BLOCK(q4_1, QK4_1)
#define FA_TYPE_q4_0 FA_BLOCK(q4_0, QK4_0)

#if FA_NE == 0
#define FA_KERNEL kernel_flash_attn_ext<FA_TYPES, FA_CAT(FA_TYPE_, FA_K), FA_CAT(FA_TYPE_, FA_V), FA_DK, FA_DV>
#else
#define FA_KERNEL kernel_flash_attn_ext_vec<FA_TYPES, FA_CAT(FA_TYPE_, FA_K), FA_CAT(FA_TYPE_, FA_V), FA_DK, FA_DV, FA_NE, FA_Q>
#endif

typedef decltype(FA_KERNEL) flash_attn_ext_mixed_t;

template [[host_name(FA_STR(FA_NAME))]] kernel flash_attn_ext_mixed_t FA_KERNEL;

#endif // FA_NAME
