#pragma once

// kernels for flash attention with K and V of different types
//
// there are 30 pairs of types with some 70 kernels each - too many to compile when the library is loaded
// instead, each kernel is a library of its own, compiled from kernels/fa_mixed.metal when it is first used

#include "ggml-metal-device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_metal_fa_mixed_kernel {
    enum ggml_type type_k;
    enum ggml_type type_v;

    int32_t dk;
    int32_t dv;

    int32_t q;  // vec kernel: queries per threadgroup
    int32_t ne; // vec kernel: head elements per thread, 0 for the other kernel
};

// only with GGML_METAL_EMBED_LIBRARY there is a source to compile
bool ggml_metal_fa_mixed_has_kernels(void);

// "q8_0", or "q8_0_q4_0" when K and V have different types
const char * ggml_metal_fa_mixed_types(const struct ggml_tensor * op, char * buf, size_t size);

// the library of a kernel, which has this name there - NULL if it does not compile
ggml_metal_library_t ggml_metal_library_get_fa_mixed(ggml_metal_library_t lib, const char * name, struct ggml_metal_fa_mixed_kernel kernel);

// the libraries that have been compiled so far
typedef struct ggml_metal_fa_mixed_libs * ggml_metal_fa_mixed_libs_t;

ggml_metal_fa_mixed_libs_t ggml_metal_fa_mixed_libs_init(void);
void                       ggml_metal_fa_mixed_libs_free(ggml_metal_fa_mixed_libs_t libs);

ggml_metal_library_t ggml_metal_fa_mixed_libs_get(
        ggml_metal_fa_mixed_libs_t libs,
        ggml_metal_device_t dev,
        const char * name,
        struct ggml_metal_fa_mixed_kernel kernel);

#ifdef __cplusplus
}
#endif
