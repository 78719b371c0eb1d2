#pragma once

// Flash attention with keys and values of different types.
//
// There are too many pairs to compile them all when a program starts, as the other kernels are. So each kernel is a
// library of its own, compiled from kernels/fa_mixed.metal when it is first asked for. That needs the source in the
// library (GGML_METAL_EMBED_LIBRARY, the default); without it, supports_op refuses as before.

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// whether K and V have different types, and there is a kernel for them and their head sizes
bool ggml_metal_fa_mixed_supports_op(const struct ggml_tensor * op);

// the types of K and V in the name of a kernel: "q8_0", or "q8_0_q4_0" when they differ
const char * ggml_metal_fa_mixed_types(const struct ggml_tensor * op, char * buf, size_t size);

// what kernels/fa_mixed.metal is compiled for
struct ggml_metal_fa_mixed {
    const char * type_k;
    const char * type_v;
    int dk;
    int dv;
    int q;  // vec kernel: queries per threadgroup
    int ne; // vec kernel: head elements per thread; 0 for the other kernel
};

// reads the name of a kernel; false if it is not one for different types
bool ggml_metal_fa_mixed_parse(const char * base, struct ggml_metal_fa_mixed * res);

#ifdef __cplusplus
}
#endif
