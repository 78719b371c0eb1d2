#pragma once

#include "kvq.h"

#include <string>

// KV cache types by layer, as text: "0-3:8/8,4-29:8/4,30:f16/q8_0,rest:5/5"
//
// Layers, one or a range, then the types of their K and V, by bits or by name; K8V4 is another way to write 8/4, and a
// single one is for both. "rest" are the layers that are not named; without it they have the types of the whole cache.

// throws std::invalid_argument for a text that means nothing, whatever the model
void common_kvq_layers_check(const std::string & layers);

// LLAMA_ARG_KVQ_LAYERS, for a program that parses its arguments itself
std::string common_kvq_layers_env();

// llama_init_from_model() with types by layer, unless the text is empty. nullptr, with the reason on stderr or in the log, if it cannot be made
llama_context * common_kvq_layers_init(llama_model * model, const llama_context_params & cparams, const std::string & layers);

// while it lives, common_kvq_layers_fit() makes the contexts of the model of that path with these types by layer. So the
// memory that common_fit_params() counts with is the real one
struct common_kvq_layers_fit_scope {
    common_kvq_layers_fit_scope(const std::string & path_model, const std::string & layers);
    ~common_kvq_layers_fit_scope();
};

llama_context * common_kvq_layers_fit(const char * path_model, llama_model * model, const llama_context_params & cparams);

template <typename F>
void common_kvq_layers_add_args(const F & add_opt) {
    add_opt(common_arg(
        {"-kvql", "--kvq-layers"}, "MAP",
        string_format(
            "types of the KV cache by layer, such as 0-3:8/8,4-29:8/4: layers, then bits or type of K and of V\n"
            "'rest' are the layers not named (default: --kvq, --cache-type-k, --cache-type-v)\n"
            "bits: %s", common_kvq_list().c_str()),
        [](common_params & params, const std::string & value) {
            common_kvq_layers_check(value);
            params.kvq_layers = value;
        }
    ).set_env("LLAMA_ARG_KVQ_LAYERS").set_examples({LLAMA_EXAMPLE_CLI, LLAMA_EXAMPLE_COMPLETION, LLAMA_EXAMPLE_PERPLEXITY, LLAMA_EXAMPLE_SERVER}));
}
