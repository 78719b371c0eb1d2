// Milliseconds of one flash attention, over more copies of a cache than the CPU's own caches hold.
//
//  attention_op THREADS REPEATS [K V KEYS HEADS KV_HEADS DEPTH TOKENS]...
//
// Prints a line of JSON for each case: the median and the least of REPEATS runs, and the bytes that one operation reads.

#include "ggml.h"
#include "type_of.h"
#if __has_include("ggml-cpu.h")
#include "ggml-cpu.h" // ik_llama.cpp has all of it in ggml.h
#define PLAN(graph, threads) ggml_graph_plan(graph, threads, nullptr)
#else
#define PLAN(graph, threads) ggml_graph_plan(graph, threads)
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#ifndef COPIES
#define COPIES 256 // at most
#endif

static constexpr size_t BYTES_DECODE  = 600u << 20; // of all copies
static constexpr size_t BYTES_PREFILL = 40u << 20;

// random values, the same again and again
static void fill(ggml_tensor * t, unsigned seed) {
    std::vector<float> x(1 << 16);
    for (float & value : x) {
        seed  = seed*1664525u + 1013904223u;
        value = ((seed >> 8)/8388608.0f - 1.0f)*1.7f;
    }
    std::vector<char> row(ggml_row_size(t->type, x.size()));
    if (t->type == GGML_TYPE_F32) {
        memcpy(row.data(), x.data(), row.size());
    } else if (t->type == GGML_TYPE_F16) {
        ggml_fp32_to_fp16_row(x.data(), (ggml_fp16_t *) row.data(), x.size());
    } else {
        ggml_quantize_chunk(t->type, x.data(), row.data(), 0, x.size()/256, 256, nullptr);
    }
    const size_t size = ggml_row_size(t->type, ggml_nelements(t));
    for (size_t at = 0; at < size; at += row.size()) {
        memcpy((char *) t->data + at, row.data(), std::min(row.size(), size - at));
    }
}

int main(int argc, char ** argv) {
    const int threads = atoi(argv[1]);
    const int repeats = atoi(argv[2]);
    for (int arg = 3; arg + 7 <= argc; arg += 7) {
        const ggml_type tk = type_of(argv[arg]);
        const ggml_type tv = type_of(argv[arg + 1]);
        const int64_t KV = atoi(argv[arg + 2]), H = atoi(argv[arg + 3]), HKV = atoi(argv[arg + 4]);
        const int64_t D  = atoi(argv[arg + 5]), N = atoi(argv[arg + 6]);
        const size_t  bytes  = KV*HKV*(ggml_row_size(tk, D) + ggml_row_size(tv, D));
        const int64_t copies = std::max<int64_t>(2, std::min<int64_t>(COPIES, (N > 1 ? BYTES_PREFILL : BYTES_DECODE)/bytes));
        const int64_t rows   = (N + 63)/64*64; // of the mask, which ik_llama.cpp wants padded

        ggml_init_params params = {
            copies*(bytes + N*H*D*sizeof(float) + (1 << 16)) + N*H*D*sizeof(float) + KV*rows*sizeof(ggml_fp16_t) + (64u << 20),
            nullptr, false,
        };
        ggml_context * ctx   = ggml_init(params);
        ggml_cgraph  * graph = ggml_new_graph_custom(ctx, 4096, false);
        ggml_tensor  * q     = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, D, N, H, 1);
        ggml_tensor  * mask  = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, KV, rows, 1, 1);
        fill(q, 7);
        for (int64_t t = 0; t < rows; ++t) {
            for (int64_t j = 0; j < KV; ++j) {
                const bool seen = t < N && j <= KV - N + t;
                ((ggml_fp16_t *) mask->data)[t*KV + j] = ggml_fp32_to_fp16(seen ? 0.0f : -INFINITY);
            }
        }
        for (int64_t i = 0; i < copies; ++i) {
            ggml_tensor * views[2];
            for (int side = 0; side < 2; ++side) {
                const ggml_type type = side ? tv : tk;
                ggml_tensor * cache = ggml_new_tensor_2d(ctx, type, D*HKV, KV);
                fill(cache, side);
                views[side] = ggml_view_4d(ctx, cache, D, KV, HKV, 1, ggml_row_size(type, D*HKV), ggml_row_size(type, D), ggml_nbytes(cache), 0);
            }
            ggml_tensor * out = ggml_flash_attn_ext(ctx, q, views[0], views[1], mask, 1.0f/sqrtf(D), 0.0f, 0.0f);
            ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
            ggml_build_forward_expand(graph, out);
        }
        ggml_cplan plan = PLAN(graph, threads);
        std::vector<uint8_t> work(plan.work_size + 64);
        plan.work_data = work.data();

        std::vector<double> ms;
        for (int i = 0; i <= repeats; ++i) { // the first wakes the threads
            const auto before = std::chrono::steady_clock::now();
            ggml_graph_compute(graph, &plan);
            const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - before;
            if (i > 0) {
                ms.push_back(taken.count()/copies);
            }
        }
        std::sort(ms.begin(), ms.end());
        printf("{\"k\": \"%s\", \"v\": \"%s\", \"keys\": %d, \"heads\": %d, \"kv_heads\": %d, \"depth\": %d, \"tokens\": %d, "
               "\"ms\": %.4f, \"least_ms\": %.4f, \"bytes\": %zu}\n",
               argv[arg], argv[arg + 1], (int) KV, (int) H, (int) HKV, (int) D, (int) N, ms[ms.size()/2], ms[0], bytes);
        fflush(stdout);
        ggml_free(ctx);
    }
}
