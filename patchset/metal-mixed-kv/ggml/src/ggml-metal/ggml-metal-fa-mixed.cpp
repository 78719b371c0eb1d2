#include "ggml-metal-fa-mixed.h"
#include "ggml-metal-tuning.h"

#include <cstdio>
#include <cstring>

static const ggml_type k_types[] = {
    GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0,
};

// the head sizes of the other kernels that blocks of 32 fit into
static const struct { int dk, dv; } k_sizes[] = {
    {  32,  32 }, {  64,  64 }, {  96,  96 }, {  96,  64 }, { 128, 128 }, { 192, 192 }, { 192, 128 },
    { 256, 256 }, { 320, 256 }, { 512, 512 }, { 576, 512 },
};

static bool has_type(ggml_type type) {
    for (ggml_type t : k_types) {
        if (t == type) {
            return true;
        }
    }
    return false;
}

static bool has_sizes(int64_t dk, int64_t dv) {
    for (auto s : k_sizes) {
        if (s.dk == dk && s.dv == dv) {
            return true;
        }
    }
    return false;
}

bool ggml_metal_fa_mixed_supports_op(const ggml_tensor * op) {
#if GGML_METAL_EMBED_LIBRARY
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];

    return k->type != v->type && has_type(k->type) && has_type(v->type) && has_sizes(k->ne[0], v->ne[0]);
#else
    (void) op;
    return false;
#endif
}

const char * ggml_metal_fa_mixed_types(const ggml_tensor * op, char * buf, size_t size) {
    const ggml_type tk = op->src[1]->type;
    const ggml_type tv = op->src[2]->type;

    if (tk == tv) {
        return ggml_type_name(tk);
    }

    snprintf(buf, size, "%s_%s", ggml_type_name(tk), ggml_type_name(tv));
    return buf;
}

// moves p behind the prefix, if it is there
static bool skip(const char *& p, const char * prefix) {
    const size_t n = strlen(prefix);
    if (strncmp(p, prefix, n) != 0) {
        return false;
    }
    p += n;
    return true;
}

static const char * skip_type(const char *& p) {
    for (ggml_type t : k_types) {
        if (skip(p, ggml_type_name(t))) {
            return ggml_type_name(t);
        }
    }
    return nullptr;
}

bool ggml_metal_fa_mixed_parse(const char * base, ggml_metal_fa_mixed * res) {
    const char * p = base;
    if (!skip(p, "kernel_flash_attn_ext_")) {
        return false;
    }
    const bool is_vec = skip(p, "vec_");

    res->type_k = skip_type(p);
    if (!res->type_k || !skip(p, "_")) {
        return false;
    }
    res->type_v = skip_type(p);
    if (!res->type_v) {
        return false;
    }

    int n = 0;
    if (sscanf(p, "_dk%d_dv%d%n", &res->dk, &res->dv, &n) != 2 || !has_sizes(res->dk, res->dv)) {
        return false;
    }
    p += n;

    res->q  = 1;
    res->ne = is_vec ? ggml_metal_tuning::fa_vec_baseline_ne(res->dk, res->dv) : 0;
    if (*p) {
        return is_vec && sscanf(p, "_q%d_ne%d", &res->q, &res->ne) == 2;
    }
    return true;
}
