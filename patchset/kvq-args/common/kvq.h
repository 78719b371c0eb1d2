#pragma once

#include "arg.h"
#include "common.h"

#include <stdexcept>
#include <string>

// KV cache types by the bits a value takes, block scales not counted

struct common_kvq_width {
    const char * bits;
    ggml_type    type;
};

// of the two 5-bit types q5_1 has the smaller KL divergence to the f16 cache
static constexpr common_kvq_width common_kvq_widths[] = {
    { "16", GGML_TYPE_F16  },
    { "8",  GGML_TYPE_Q8_0 },
    { "5",  GGML_TYPE_Q5_1 },
    { "4",  GGML_TYPE_Q4_0 },
};

// "16 (f16), 8 (q8_0), ..."
inline std::string common_kvq_list() {
    std::string list;
    for (const auto & width : common_kvq_widths) {
        list += string_format("%s%s (%s)", list.empty() ? "" : ", ", width.bits, ggml_type_name(width.type));
    }
    return list;
}

inline ggml_type common_kvq_type(const std::string & bits) {
    for (const auto & width : common_kvq_widths) {
        if (bits == width.bits) {
            return width.type;
        }
    }
    throw std::invalid_argument(
        string_format("no KV cache type has '%s' bits, use one of: %s", bits.c_str(), common_kvq_list().c_str()));
}

template <typename F>
void common_kvq_add_args(const F & add_opt) {
    add_opt(common_arg(
        {"-kvq", "--kvq"}, "N",
        string_format("bits per value of the KV cache, K and V alike\nallowed values: %s", common_kvq_list().c_str()),
        [](common_params & params, const std::string & value) {
            params.cache_type_k = params.cache_type_v = common_kvq_type(value);
        }
    ).set_env("LLAMA_ARG_KVQ"));
    add_opt(common_arg(
        {"-kvqk", "--kvq-key"}, "N",
        string_format("bits per value of the KV cache for K\nallowed values: %s", common_kvq_list().c_str()),
        [](common_params & params, const std::string & value) {
            params.cache_type_k = common_kvq_type(value);
        }
    ).set_env("LLAMA_ARG_KVQ_KEY"));
    add_opt(common_arg(
        {"-kvqv", "--kvq-val"}, "N",
        string_format("bits per value of the KV cache for V\nallowed values: %s", common_kvq_list().c_str()),
        [](common_params & params, const std::string & value) {
            params.cache_type_v = common_kvq_type(value);
        }
    ).set_env("LLAMA_ARG_KVQ_VAL"));
}
