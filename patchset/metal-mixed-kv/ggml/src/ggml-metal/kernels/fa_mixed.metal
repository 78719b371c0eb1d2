#include "common.h"
#include "dequantize.h"
#include "fa_common.metal"
#include "fa_vec_common.metal"

// flash attention with keys and values of different types: one kernel, for
//   FA_NAME        what it is called
//   FA_K,  FA_V    the types
//   FA_DK, FA_DV   the head sizes
//   FA_NE          vec kernel: head elements per thread; 0 for the other kernel
//   FA_Q           vec kernel: queries per threadgroup
// compiled on first use, see ggml-metal-fa-mixed.h
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

// type in device memory, how many of the kernel's pieces it holds, and how to get one
#define FA_DEQ_f16  half4x4,    1, dequantize_f16
#define FA_DEQ_q8_0 block_q8_0, 2, dequantize_q8_0
#define FA_DEQ_q5_1 block_q5_1, 2, dequantize_q5_1
#define FA_DEQ_q5_0 block_q5_0, 2, dequantize_q5_0
#define FA_DEQ_q4_1 block_q4_1, 2, dequantize_q4_1
#define FA_DEQ_q4_0 block_q4_0, 2, dequantize_q4_0

typedef decltype(kernel_flash_attn_ext<FA_TYPES, FA_CAT(FA_DEQ_, FA_K), FA_CAT(FA_DEQ_, FA_V), FA_DK, FA_DV>) flash_attn_ext_t;

template [[host_name(FA_STR(FA_NAME))]] kernel flash_attn_ext_t kernel_flash_attn_ext<FA_TYPES, FA_CAT(FA_DEQ_, FA_K), FA_CAT(FA_DEQ_, FA_V), FA_DK, FA_DV>;

#else

// same as in fa_vec_q8_0.metal
#define FA_TYPES \
           half4,  \
           half4,  \
           half4,  \
    float,         \
    float, float4, \
           float4

#define FA_DEQ_f16  half4,      1, dequantize_f16_t4
#define FA_DEQ_q8_0 block_q8_0, 8, dequantize_q8_0_t4
#define FA_DEQ_q5_1 block_q5_1, 8, dequantize_q5_1_t4
#define FA_DEQ_q5_0 block_q5_0, 8, dequantize_q5_0_t4
#define FA_DEQ_q4_1 block_q4_1, 8, dequantize_q4_1_t4
#define FA_DEQ_q4_0 block_q4_0, 8, dequantize_q4_0_t4

typedef decltype(kernel_flash_attn_ext_vec<FA_TYPES, FA_CAT(FA_DEQ_, FA_K), FA_CAT(FA_DEQ_, FA_V), FA_DK, FA_DV, FA_NE, FA_Q>) flash_attn_ext_vec_t;

template [[host_name(FA_STR(FA_NAME))]] kernel flash_attn_ext_vec_t kernel_flash_attn_ext_vec<FA_TYPES, FA_CAT(FA_DEQ_, FA_K), FA_CAT(FA_DEQ_, FA_V), FA_DK, FA_DV, FA_NE, FA_Q>;

#endif

#endif // FA_NAME
