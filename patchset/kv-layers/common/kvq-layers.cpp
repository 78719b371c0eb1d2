#include "kvq-layers.h"

#include "common.h"
#include "llama-kvsplit.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

struct kvq_layers_range {
    int first;
    int last;

    ggml_type type_k;
    ggml_type type_v;
};

struct kvq_layers {
    std::vector<kvq_layers_range> ranges;

    // of the layers that are not named, GGML_TYPE_COUNT: those of the whole cache
    ggml_type type_k = GGML_TYPE_COUNT;
    ggml_type type_v = GGML_TYPE_COUNT;
};

static std::invalid_argument kvq_layers_invalid(const std::string & part, const std::string & reason) {
    return std::invalid_argument(
        string_format("'%s' %s; write a map like 0-3:8/8,4-29:8/4", part.c_str(), reason.c_str()));
}

static int kvq_layers_number(const std::string & part, const std::string & digits) {
    if (digits.empty() || digits.size() > 6 || !std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; })) {
        throw kvq_layers_invalid(part, "does not begin with a layer, a range of layers or 'rest'");
    }
    return std::stoi(digits);
}

static ggml_type kvq_layers_type(const std::string & text) {
    for (const auto type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                             GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1 }) {
        if (text == ggml_type_name(type)) {
            return type;
        }
    }
    return common_kvq_type(text);
}

static kvq_layers kvq_layers_parse(const std::string & layers) {
    kvq_layers res;

    if (layers.empty()) {
        throw std::invalid_argument("the map of layers is empty; write one like 0-3:8/8,4-29:8/4");
    }

    bool has_rest = false;

    for (const auto & part : string_split<std::string>(layers, ',')) {
        const size_t colon = part.find(':');
        if (colon == std::string::npos) {
            throw kvq_layers_invalid(part, "is not layers:K/V");
        }

        const std::string named = part.substr(0, colon);
        const std::string types = part.substr(colon + 1);

        // "8/4", "K8V4", or one for both
        const bool   lettered = types[0] == 'K' && types.find('V') != std::string::npos;
        const size_t begin    = lettered ? 1 : 0;
        const size_t middle   = types.find(lettered ? 'V' : '/');

        const ggml_type type_k = kvq_layers_type(types.substr(begin, middle == std::string::npos ? middle : middle - begin));
        const ggml_type type_v = middle == std::string::npos ? type_k : kvq_layers_type(types.substr(middle + 1));

        if (named == "rest") {
            if (has_rest) {
                throw kvq_layers_invalid(part, "names the rest a second time");
            }
            has_rest   = true;
            res.type_k = type_k;
            res.type_v = type_v;
            continue;
        }

        const size_t dash  = named.find('-');
        const int    first = kvq_layers_number(part, named.substr(0, dash));
        const int    last  = dash == std::string::npos ? first : kvq_layers_number(part, named.substr(dash + 1));

        if (last < first) {
            throw kvq_layers_invalid(part, "ends before it begins");
        }
        for (const auto & range : res.ranges) {
            if (first <= range.last && range.first <= last) {
                throw kvq_layers_invalid(part, string_format("names layer %d a second time", std::max(first, range.first)));
            }
        }

        res.ranges.push_back({ first, last, type_k, type_v });
    }

    return res;
}

void common_kvq_layers_check(const std::string & layers) {
    kvq_layers_parse(layers);
}

std::string common_kvq_layers_env() {
    const char * layers = getenv("LLAMA_ARG_KVQ_LAYERS");

    return layers ? layers : "";
}

// throws std::invalid_argument
static void kvq_layers_set(const llama_model * model, const kvq_layers & map) {
    const int n_layer = llama_model_n_layer(model);

    std::vector<ggml_type> types_k(n_layer, map.type_k);
    std::vector<ggml_type> types_v(n_layer, map.type_v);

    for (const auto & range : map.ranges) {
        if (range.last >= n_layer) {
            throw std::invalid_argument(
                string_format("it names layer %d, and the model has layers 0 to %d", range.last, n_layer - 1));
        }
        std::fill(types_k.begin() + range.first, types_k.begin() + range.last + 1, range.type_k);
        std::fill(types_v.begin() + range.first, types_v.begin() + range.last + 1, range.type_v);
    }

    if (const char * error = llama_kvsplit_set_layers(model, types_k.data(), types_v.data(), n_layer)) {
        throw std::invalid_argument(error);
    }
}

llama_context * common_kvq_layers_init(llama_model * model, const llama_context_params & cparams, const std::string & layers) {
    if (!layers.empty()) {
        try {
            kvq_layers_set(model, kvq_layers_parse(layers));
        } catch (const std::invalid_argument & err) {
            // not into the log: llama-bench shows none, and other programs may end before it is written
            fprintf(stderr, "error: the map of layers %s cannot be used: %s\n", layers.c_str(), err.what());
            return nullptr;
        }
    }

    return llama_init_from_model(model, cparams);
}

static thread_local std::string kvq_layers_fit_path;
static thread_local std::string kvq_layers_fit_text;

common_kvq_layers_fit_scope::common_kvq_layers_fit_scope(const std::string & path_model, const std::string & layers) {
    kvq_layers_fit_path = path_model;
    kvq_layers_fit_text = layers;
}

common_kvq_layers_fit_scope::~common_kvq_layers_fit_scope() {
    kvq_layers_fit_path.clear();
    kvq_layers_fit_text.clear();
}

llama_context * common_kvq_layers_fit(const char * path_model, llama_model * model, const llama_context_params & cparams) {
    // a draft is fitted in the same go, and an MTP context runs on the same model
    const bool mapped = kvq_layers_fit_path == path_model && cparams.ctx_type == LLAMA_CONTEXT_TYPE_DEFAULT;

    return common_kvq_layers_init(model, cparams, mapped ? kvq_layers_fit_text : "");
}
