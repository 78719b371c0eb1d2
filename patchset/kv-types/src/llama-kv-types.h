#pragma once

#include "ggml-cpp.h"
#include "ggml-backend.h"
#include "llama-impl.h"

// Whether a device can put rows into a cache of these types. A cache that lies where nothing can write it ends the
// process (ggml_backend_sched), so one of a type behind GGML_TYPE_COUNT, which few devices know, then lies in the CPU's
// memory, and the CPU computes attention with it.
static bool llama_kv_types_storable(ggml_backend_dev_t dev, ggml_type type_k, ggml_type type_v) {
    for (const ggml_type type : { type_k, type_v }) {
        if (type < GGML_TYPE_COUNT) {
            continue;
        }
        ggml_context_ptr ctx(ggml_init({ 4*ggml_tensor_overhead(), nullptr, true }));
        ggml_tensor * cache = ggml_new_tensor_2d(ctx.get(), type, 256, 1);
        ggml_tensor * rows  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, 256, 1);
        ggml_tensor * idxs  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1);
        if (!ggml_backend_dev_supports_op(dev, ggml_set_rows(ctx.get(), cache, rows, idxs))) {
            LLAMA_LOG_WARN("%s: %s cannot store a %s cache: it stays with the CPU\n", __func__, ggml_backend_dev_name(dev), ggml_type_name(type));
            return false;
        }
    }
    return true;
}
