#include "llama-kvsplit.h"

#include "ggml-backend.h"
#include "ggml-cpp.h"

#include <stdexcept>

// whether the device stores keys and values of the type and computes attention with them, beside each type of the other side
static bool kv_4_bits_supported(ggml_backend_dev_t dev, ggml_type type) {
    // the shape does not matter much: a head size that all kernels have, and some rows
    const int64_t n_embd = 128;
    const int64_t n_kv   = 256;

    ggml_init_params params = {
        /*.mem_size   =*/ 32*ggml_tensor_overhead(),
        /*.mem_buffer =*/ NULL,
        /*.no_alloc   =*/ true,
    };
    ggml_context_ptr ctx(ggml_init(params));
    if (!ctx) {
        throw std::runtime_error("failed to create ggml context");
    }

    const auto attention = [&](ggml_type type_k, ggml_type type_v) {
        ggml_tensor * q    = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, n_embd, 1,    1);
        ggml_tensor * k    = ggml_new_tensor_3d(ctx.get(), type_k,        n_embd, n_kv, 1);
        ggml_tensor * v    = ggml_new_tensor_3d(ctx.get(), type_v,        n_embd, n_kv, 1);
        ggml_tensor * mask = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F16, n_kv,   1);

        return ggml_backend_dev_supports_op(dev, ggml_flash_attn_ext(ctx.get(), q, k, v, mask, 1.0f, 0.0f, 0.0f));
    };

    ggml_tensor * cache = ggml_new_tensor_2d(ctx.get(), type,          n_embd, n_kv);
    ggml_tensor * rows  = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_embd, 1);
    ggml_tensor * idxs  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I64, 1);

    return ggml_backend_dev_supports_op(dev, ggml_set_rows(ctx.get(), cache, rows, idxs)) &&
        attention(type, type) && attention(GGML_TYPE_Q8_0, type);
}

static ggml_type kv_4_bits_type() {
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        ggml_backend_dev_t dev = ggml_backend_dev_get(i);

        switch (ggml_backend_dev_type(dev)) {
            case GGML_BACKEND_DEVICE_TYPE_GPU:
            case GGML_BACKEND_DEVICE_TYPE_IGPU:
                break;
            default:
                continue; // the CPU has all types, and accelerators beside it hold no cache
        }

        // where the device has no kernels for q4_0 either, nothing is lost
        if (kv_4_bits_supported(dev, GGML_TYPE_Q4_0) && !kv_4_bits_supported(dev, GGML_TYPE_IQ4_NL)) {
            return GGML_TYPE_Q4_0;
        }
    }

    return GGML_TYPE_IQ4_NL;
}

enum ggml_type llama_kvsplit_type_4_bits(void) {
    if (ggml_backend_dev_count() == 0) {
        return GGML_TYPE_Q4_0; // nothing is loaded yet
    }

    static const ggml_type type = kv_4_bits_type();

    return type;
}
