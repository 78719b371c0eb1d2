#pragma once

// flash attention with K and V of different types

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// whether K and V of this op have different types that the kernels can read, at head sizes that there are kernels for
bool ggml_metal_fa_mixed(const struct ggml_tensor * op);

#ifdef __cplusplus
}
#endif
