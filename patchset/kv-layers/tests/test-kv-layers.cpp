// KV cache types by layer: their text, and what llama_kvsplit_set_layers() makes of a model's cache
//
// test-kv-layers [model.gguf ...]: without a model, the text alone

#include "common.h"
#include "kvq-layers.h"
#include "llama-cpp.h"
#include "llama-kvsplit.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

static int n_failed = 0;

static void check(bool ok, const std::string & what) {
    printf("%s: %s\n", ok ? "OK  " : "FAIL", what.c_str());
    n_failed += !ok;
}

//
// text
//

static void test_text() {
    for (const char * layers : { "0-3:8/8,4-29:8/4", "7:f16", "0:q8_0/q4_0,rest:K8V4", "rest:16/5" }) {
        common_kvq_layers_check(layers);
    }

    const std::pair<const char *, const char *> invalid[] = {
        { "",                 "empty"           },
        { "0-3",              "not layers:K/V"  },
        { "0-3:8/8,",         "not layers:K/V"  },
        { ":8/8",             "does not begin"  },
        { "x:8/8",            "does not begin"  },
        { "-1:8/8",           "does not begin"  },
        { "99999999:8/8",     "does not begin"  },
        { "3-1:8/8",          "ends before"     },
        { "0-3:8/8,3:8/4",    "names layer 3"   },
        { "rest:8,rest:4",    "the rest"        },
        { "0:8/7",            "has '7' bits"    },
        { "0:8/",             "has '' bits"     },
    };

    for (const auto & [layers, words] : invalid) {
        std::string said;
        try {
            common_kvq_layers_check(layers);
        } catch (const std::invalid_argument & err) {
            said = err.what();
        }
        check(said.find(words) != std::string::npos, "'" + std::string(layers) + "': " + said);
    }
}

//
// models
//

struct layer_types {
    std::vector<ggml_type> k;
    std::vector<ggml_type> v;
};

static layer_types all_layers(int n_layer, ggml_type k, ggml_type v) {
    return { std::vector<ggml_type>(n_layer, k), std::vector<ggml_type>(n_layer, v) };
}

static llama_context_ptr make_context(llama_model * model, ggml_type k, ggml_type v) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx     = 256;
    params.n_threads = params.n_threads_batch = 2;
    params.swa_full  = false;
    params.type_k    = k;
    params.type_v    = v;
    return llama_context_ptr(llama_init_from_model(model, params));
}

static llama_context_ptr make_context(llama_model * model, const layer_types & types) {
    const char * error = llama_kvsplit_set_layers(model, types.k.data(), types.v.data(), types.k.size());
    if (error) {
        printf("      %s\n", error);
        return nullptr;
    }
    return make_context(model, GGML_TYPE_F16, GGML_TYPE_F16);
}

// the logits of the last of n tokens at the positions from pos
static std::vector<float> decode(llama_context * ctx, int n, llama_pos pos) {
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(ctx)));

    std::mt19937 rng(pos);
    common_batch batch(ctx);
    for (int i = 0; i < n; i++) {
        batch.add(rng() % n_vocab, pos + i, 0, i + 1 == n);
    }
    if (llama_process(ctx, LLAMA_PROCESS_TYPE_DECODE, batch.get())) {
        throw std::runtime_error("failed to decode");
    }
    const float * logits = llama_get_logits_ith(ctx, n - 1);
    return std::vector<float>(logits, logits + n_vocab);
}

// without a map, too, the shift aborts for a quantized K with MLA, and for a cache of which no layer has RoPE
static bool can_shift(const llama_model * model, llama_context * ctx) {
    char arch[64];
    char rank[16] = "0";
    llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch));
    llama_model_meta_val_str(model, (std::string(arch) + ".attention.kv_lora_rank").c_str(), rank, sizeof(rank));
    return llama_memory_can_shift(llama_get_memory(ctx)) && !llama_model_is_hybrid(model) && atoi(rank) == 0;
}

// the next logits after what a cache can go through: more than a batch of tokens, and a shift where it can be shifted
static std::vector<float> run(llama_context * ctx, bool shift) {
    llama_memory_t mem = llama_get_memory(ctx);

    decode(ctx, 70, 0);
    if (shift && can_shift(llama_get_model(ctx), ctx) && llama_memory_seq_rm(mem, 0, 10, 20)) {
        llama_memory_seq_add(mem, 0, 20, -1, -10);
        return decode(ctx, 1, 60);
    }
    return decode(ctx, 1, 70);
}

static double nmse(const std::vector<float> & a, const std::vector<float> & b) {
    double error = 0.0;
    double power = 0.0;
    for (size_t i = 0; i < a.size(); i++) {
        error += (a[i] - b[i])*(a[i] - b[i]);
        power += b[i]*b[i];
    }
    return error/power;
}

static void test_same_as_pair(llama_model * model, ggml_type k, ggml_type v) {
    const std::string pair = std::string(ggml_type_name(k)) + "/" + ggml_type_name(v);

    llama_context_ptr plain  = make_context(model, k, v);
    llama_context_ptr mapped = make_context(model, all_layers(llama_model_n_layer(model), k, v));
    check(!plain == !mapped, pair + " by layer is made, or refused, as for all layers at once");

    if (plain && mapped) {
        for (const bool shift : { false, true }) {
            llama_memory_clear(llama_get_memory(plain.get()), true);
            llama_memory_clear(llama_get_memory(mapped.get()), true);
            check(run(plain.get(), shift) == run(mapped.get(), shift), pair + " by layer has the same logits" + (shift ? ", shifted" : ""));
        }
    }
}

static void test_mixed(llama_model * model, const layer_types & mixed, const layer_types & other) {
    for (const bool shift : { false, true }) {
        llama_context_ptr plain  = make_context(model, GGML_TYPE_F16, GGML_TYPE_F16);
        llama_context_ptr coarse = make_context(model, GGML_TYPE_Q5_1, GGML_TYPE_Q5_1);
        llama_context_ptr mapped = make_context(model, mixed);
        if (!mapped) {
            check(false, "a mixed map is made");
            return;
        }
        const auto   expected = run(plain.get(), shift);
        const double limit    = nmse(run(coarse.get(), shift), expected);
        const double error    = nmse(run(mapped.get(), shift), expected);
        printf("      NMSE %g, with its coarsest type in all layers %g\n", error, limit);
        check(error < 2*limit + 1e-9, std::string("a mixed map is as near to f16 as its types are") + (shift ? ", shifted" : ""));
    }

    llama_context_ptr first = make_context(model, mixed);
    decode(first.get(), 70, 0);
    std::vector<uint8_t> state(llama_state_seq_get_size(first.get(), 0));
    check(llama_state_seq_get_data(first.get(), state.data(), state.size(), 0) == state.size(), "the state is written");

    llama_context_ptr second = make_context(model, mixed);
    check(llama_state_seq_set_data(second.get(), state.data(), state.size(), 0) == state.size(), "the state is read");
    std::vector<uint8_t> again(llama_state_seq_get_size(second.get(), 0));
    llama_state_seq_get_data(second.get(), again.data(), again.size(), 0);
    check(again == state, "the state read is the state written");
    // the cells of a sliding window lie elsewhere now, and are summed up in another order
    check(nmse(decode(second.get(), 1, 70), decode(first.get(), 1, 70)) < 1e-5, "the logits after it are the same");

    llama_context_ptr third = make_context(model, other);
    check(llama_state_seq_set_data(third.get(), state.data(), state.size(), 0) == 0, "another map refuses the state");
    decode(third.get(), 3, 0); // and works on
}

static void test_refused(llama_model * model) {
    const int  n_layer = llama_model_n_layer(model);
    const auto types   = all_layers(n_layer + 1, GGML_TYPE_F16, GGML_TYPE_F16);
    const auto unknown = all_layers(n_layer, GGML_TYPE_I32, GGML_TYPE_F16);

    check(llama_kvsplit_set_layers(model, types.k.data(), types.v.data(), n_layer + 1), "a layer too many is refused");
    check(llama_kvsplit_set_layers(model, types.k.data(), types.v.data(), n_layer - 1), "a layer too few is refused");
    check(llama_kvsplit_set_layers(model, types.k.data(), types.v.data(), 0), "no layers are refused");
    check(llama_kvsplit_set_layers(model, nullptr, types.v.data(), n_layer), "no types are refused");
    check(llama_kvsplit_set_layers(model, unknown.k.data(), unknown.v.data(), n_layer), "a type that is none of a cache is refused");

    const auto quantized = all_layers(n_layer, GGML_TYPE_F16, GGML_TYPE_Q8_0);
    if (!llama_kvsplit_set_layers(model, quantized.k.data(), quantized.v.data(), n_layer)) {
        llama_context_params params = llama_context_default_params();
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        check(!llama_init_from_model(model, params), "quantized V without flash attention is refused");
        params.n_ctx = 256;
        llama_context_ptr next(llama_init_from_model(model, params));
        check(next != nullptr, "and the context after that has no map");
    }
}

int main(int argc, char ** argv) {
    test_text();

    llama_backend_init();
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_ERROR && level != GGML_LOG_LEVEL_CONT) {
            fputs(text, stdout);
        }
    }, nullptr);

    for (int i = 1; i < argc; i++) {
        llama_model_ptr model(llama_model_load_from_file(argv[i], llama_model_default_params()));
        if (!model) {
            check(false, std::string(argv[i]) + " is loaded");
            continue;
        }

        const int n_layer = llama_model_n_layer(model.get());
        printf("\n%s: %d layers\n", argv[i], n_layer);

        layer_types mixed = all_layers(n_layer, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0);
        layer_types other = mixed;
        if (const char * error = llama_kvsplit_set_layers(model.get(), mixed.k.data(), mixed.v.data(), n_layer)) {
            printf("      %s\n", error);
            continue;
        }
        llama_kvsplit_set_layers(nullptr, nullptr, nullptr, 0);

        test_same_as_pair(model.get(), GGML_TYPE_F16,  GGML_TYPE_F16);
        test_same_as_pair(model.get(), GGML_TYPE_Q8_0, GGML_TYPE_Q8_0);
        test_same_as_pair(model.get(), GGML_TYPE_Q8_0, GGML_TYPE_Q4_0);

        // a model with latent attention has the same type on both sides
        const bool equal_sides = !make_context(model.get(), GGML_TYPE_Q8_0, GGML_TYPE_F16);
        const ggml_type types[] = { GGML_TYPE_Q8_0, GGML_TYPE_F16, GGML_TYPE_Q5_1 };
        for (int il = 0; il < n_layer; il++) {
            mixed.k[il] = types[il % 3];
            mixed.v[il] = types[equal_sides ? il % 3 : (il + 1) % 3];
            other.k[il] = types[(il + 1) % 3];
            other.v[il] = types[equal_sides ? (il + 1) % 3 : (il + 2) % 3];
        }
        test_mixed(model.get(), mixed, other);
        test_refused(model.get());
    }

    llama_backend_free();

    printf("\n%d failed\n", n_failed);
    return n_failed > 0;
}
