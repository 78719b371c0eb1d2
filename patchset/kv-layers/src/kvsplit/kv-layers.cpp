#include "kv-layers.h"

#include "llama-impl.h"
#include "llama-kvsplit.h"
#include "llama-model.h"

#include <string>
#include <utility>
#include <vector>

struct kv_layers {
    const llama_model * model = nullptr; // nullptr: no types by layer

    std::vector<llama_kv_layer_types> types;

    bool used = false; // a cache has asked
};

static thread_local kv_layers kv_layers_next;    // for the next context
static thread_local kv_layers kv_layers_current; // of the context that is being made

// no type of its own
static constexpr ggml_type KV_LAYERS_UNSET = GGML_TYPE_COUNT;

static llama_kv_layer_types kv_layers_types(uint32_t il, ggml_type type_k, ggml_type type_v) {
    // the layers of a NextN/MTP head come after those of the model, and keep type_k and type_v
    if (il >= kv_layers_current.types.size()) {
        return { type_k, type_v };
    }

    const auto & types = kv_layers_current.types[il];

    return {
        types.k == KV_LAYERS_UNSET ? type_k : types.k,
        types.v == KV_LAYERS_UNSET ? type_v : types.v,
    };
}

llama_kv_layer_types llama_kv_layers_types(uint32_t il, ggml_type type_k, ggml_type type_v) {
    if (!llama_kv_layers_active()) {
        return { type_k, type_v };
    }

    kv_layers_current.used = true;

    const auto res = kv_layers_types(il, type_k, type_v);
    LLAMA_LOG_DEBUG("llama_kv_cache: layer %3u: K (%s), V (%s)\n", il, ggml_type_name(res.k), ggml_type_name(res.v));

    return res;
}

bool llama_kv_layers_active() {
    return kv_layers_current.model != nullptr;
}

llama_kv_layers_scope::llama_kv_layers_scope() {
    std::swap(kv_layers_current, kv_layers_next);
}

llama_kv_layers_scope::~llama_kv_layers_scope() {
    if (checked && llama_kv_layers_active() && !kv_layers_current.used) {
        LLAMA_LOG_WARN("%s: the model has no KV cache, so the cache types by layer are not used\n", __func__);
    }

    kv_layers_current = {};
}

bool llama_kv_layers_scope::check(const llama_model * model, llama_context_params & params) {
    if (!llama_kv_layers_active()) {
        return true;
    }

    if (model != kv_layers_current.model) {
        LLAMA_LOG_ERROR("%s: the cache types by layer were set for another model\n", __func__);
        return false;
    }

    if (params.ctx_type == LLAMA_CONTEXT_TYPE_MTP) {
        LLAMA_LOG_ERROR("%s: an MTP context has none of the layers that cache types by layer were set for\n", __func__);
        return false;
    }

    const bool is_mla = model->hparams.is_mla();

    for (uint32_t il = 0; il < kv_layers_current.types.size(); ++il) {
        // params.type_k and params.type_v are checked by llama_init_from_model()
        const auto types = kv_layers_types(il, params.type_k, params.type_v);

        if (is_mla && types.k != types.v) {
            LLAMA_LOG_ERROR("%s: layer %u cannot have different K (%s) and V (%s) cache types in a model with MLA\n",
                    __func__, il, ggml_type_name(types.k), ggml_type_name(types.v));
            return false;
        }

        if (!ggml_is_quantized(types.v) || params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_ENABLED) {
            continue;
        }

        if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED) {
            LLAMA_LOG_ERROR("%s: the V cache type %s of layer %u requires flash_attn to be enabled\n", __func__,
                    ggml_type_name(types.v), il);
            return false;
        }

        LLAMA_LOG_INFO("%s: enabling flash_attn since it is required for the V cache type of layer %u\n", __func__, il);
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    }

    checked = true;

    return true;
}

// the models whose cache or graph is not that of the common code paths: caches of indexers or of compressed keys, which
// have layers of their own kind, and graphs that rotate by themselves (self_k_rot outside of llama-graph.cpp)
static bool kv_layers_has_own_cache(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_DEEPSEEK32:
        case LLM_ARCH_DEEPSEEK4:
        case LLM_ARCH_DFLASH:
        case LLM_ARCH_DOTS3NOTE:
        case LLM_ARCH_GEMMA4_ASSISTANT:
        case LLM_ARCH_GLM5_NEXT:
        case LLM_ARCH_GLM_DSA:
        case LLM_ARCH_HY_V4:
        case LLM_ARCH_MINIMAX_M3:
        case LLM_ARCH_QWEN4EXP:
            return true;
        default:
            return false;
    }
}

// what a cache can hold: plain floats, and blocks that can be written a row at a time
static bool kv_layers_is_cache_type(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
            return true;
        default:
            return type >= 0 && type < GGML_TYPE_COUNT && ggml_is_quantized(type) &&
                ggml_get_type_traits(type)->from_float_ref != nullptr && !ggml_quantize_requires_imatrix(type);
    }
}

// empty if heads of n_embd_head values can be stored so
static std::string kv_layers_type_error(const char * side, int32_t il, ggml_type type, uint32_t n_embd_head) {
    if (type == KV_LAYERS_UNSET) {
        return "";
    }

    if (!kv_layers_is_cache_type(type)) {
        const bool known = type >= 0 && type < GGML_TYPE_COUNT;
        return format("layer %d: type %d (%s) cannot hold a KV cache", il, (int) type, known ? ggml_type_name(type) : "unknown");
    }

    const uint32_t blck_size = ggml_blck_size(type);
    if (n_embd_head % blck_size != 0) {
        return format("layer %d: %s cache type %s with block size %u does not divide the head size %u", il, side,
                ggml_type_name(type), blck_size, n_embd_head);
    }

    return "";
}

static std::string kv_layers_error(
        const llama_model & model,
          const ggml_type * types_k,
          const ggml_type * types_v,
                  int32_t   n_layer) {
    const auto & hparams = model.hparams;

    if (!types_k || !types_v || n_layer <= 0) {
        return "no cache types were given";
    }

    if ((uint32_t) n_layer != hparams.n_layer()) {
        return format("cache types for %d layers were given, and the model has %u", n_layer, hparams.n_layer());
    }

    if (llm_arch_is_recurrent(model.arch)) {
        return format("the model (%s) has no KV cache", llm_arch_name(model.arch));
    }

    if (kv_layers_has_own_cache(model.arch)) {
        return format("the model (%s) has a cache of its own kind, which has the same types in all layers", llm_arch_name(model.arch));
    }

    for (int32_t il = 0; il < n_layer; ++il) {
        const uint32_t n_embd_head_k = hparams.n_embd_head_k(il);
        const uint32_t n_embd_head_v = hparams.is_mla() ? n_embd_head_k : hparams.n_embd_head_v(il);

        std::string res = kv_layers_type_error("K", il, types_k[il], n_embd_head_k);
        if (res.empty()) {
            res = kv_layers_type_error("V", il, types_v[il], n_embd_head_v);
        }
        if (!res.empty()) {
            return res;
        }
    }

    return "";
}

const char * llama_kvsplit_set_layers(
        const llama_model * model,
          const ggml_type * types_k,
          const ggml_type * types_v,
                  int32_t   n_layer) {
    static thread_local std::string error;

    kv_layers_next = {};

    if (!model) {
        return nullptr;
    }

    error = kv_layers_error(*model, types_k, types_v, n_layer);
    if (!error.empty()) {
        return error.c_str();
    }

    kv_layers_next.model = model;
    for (int32_t il = 0; il < n_layer; ++il) {
        kv_layers_next.types.push_back({ types_k[il], types_v[il] });
    }

    return nullptr;
}
