// One llama.cpp with a model, and a cache in memory that grows as it is told to:
//
//  depths MODEL K V PLACES
//
// Lines on standard input are answered by a line each: the seconds that it took.
//
//  threads N    from now on, so many
//  read N       a prompt of N tokens, in batches of 512, behind what the cache holds
//  answer N     N tokens, one after the other, behind what the cache holds, and forgotten then

#include "llama.h"
#include "type_of.h"
#if __has_include("ggml-cpu.h")
#define GET_ONE(tokens, n, at)  llama_batch_get_one(tokens, n)
#define FORGET(context, at)     llama_memory_seq_rm(llama_get_memory(context), 0, at, -1)
#define FLASH(params)           params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED
#else // ik_llama.cpp, which left llama.cpp before these were named so
#define GET_ONE(tokens, n, at)  llama_batch_get_one(tokens, n, at, 0)
#define FORGET(context, at)     llama_kv_cache_seq_rm(context, 0, at, -1)
#define FLASH(params)           params.flash_attn = true
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static constexpr int BATCH = 512;

// n tokens from position at on, so many at once
static void decode(llama_context * context, int at, int n, int at_once) {
    std::vector<llama_token> tokens(n);
    for (int i = 0; i < n; ++i) {
        tokens[i] = 3 + (unsigned) (at + i)*2654435761u % 3000u;
    }
    for (int i = 0; i < n; i += at_once) {
        const int some = std::min(at_once, n - i);
        if (llama_decode(context, GET_ONE(tokens.data() + i, some, at + i)) != 0) {
            fprintf(stderr, "depths: llama_decode failed\n");
            exit(1);
        }
    }
    llama_synchronize(context);
}

int main(int argc, char ** argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: depths MODEL K V PLACES\n");
        return 1;
    }
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    llama_context_params params = llama_context_default_params();
    params.type_k  = type_of(argv[2]);
    params.type_v  = type_of(argv[3]);
    params.n_ctx   = atoi(argv[4]);
    params.n_batch = params.n_ubatch = BATCH;
    FLASH(params);
    llama_context * context = model ? llama_init_from_model(model, params) : nullptr;
    if (!context) {
        return 1;
    }
    int  held = 0;
    char word[16];
    int  n;
    while (scanf("%15s %d", word, &n) == 2) {
        const auto before = std::chrono::steady_clock::now();
        if (strcmp(word, "threads") == 0) {
            llama_set_n_threads(context, n, n);
        } else if (strcmp(word, "read") == 0) {
            decode(context, held, n, BATCH);
            held += n;
        } else {
            decode(context, held, n, 1);
            FORGET(context, held);
        }
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - before;
        printf("%.6f\n", taken.count());
        fflush(stdout);
    }
}
