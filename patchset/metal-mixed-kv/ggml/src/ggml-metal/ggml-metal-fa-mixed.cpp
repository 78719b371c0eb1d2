#include "ggml-metal-fa-mixed.h"

#include <cassert>

// F16, and the types that kernel_flash_attn_ext_kv_*_f16 is instantiated for
static const ggml_type k_fa_mixed_types[] = {
    GGML_TYPE_F16,
    GGML_TYPE_Q8_0,
    GGML_TYPE_Q5_1,
    GGML_TYPE_Q5_0,
    GGML_TYPE_Q4_1,
    GGML_TYPE_Q4_0,
};

// head sizes of the F16 kernels, where they are whole blocks
static const struct {
    int64_t dk;
    int64_t dv;
} k_fa_mixed_sizes[] = {
    {  32,  32 },
    {  64,  64 },
    {  96,  96 },
    {  96,  64 },
    { 128, 128 },
    { 192, 192 },
    { 192, 128 },
    { 256, 256 },
    { 320, 256 },
    { 512, 512 },
    { 576, 512 },
};

static bool ggml_metal_fa_mixed_has_type(ggml_type type) {
    for (const ggml_type t : k_fa_mixed_types) {
        if (t == type) {
            return true;
        }
    }

    return false;
}

static bool ggml_metal_fa_mixed_has_sizes(int64_t dk, int64_t dv) {
    for (const auto & s : k_fa_mixed_sizes) {
        if (s.dk == dk && s.dv == dv) {
            return true;
        }
    }

    return false;
}

bool ggml_metal_fa_mixed(const ggml_tensor * op) {
    assert(op->op == GGML_OP_FLASH_ATTN_EXT);

    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];

    return k->type != v->type &&
        ggml_metal_fa_mixed_has_type(k->type) &&
        ggml_metal_fa_mixed_has_type(v->type) &&
        ggml_metal_fa_mixed_has_sizes(k->ne[0], v->ne[0]);
}
