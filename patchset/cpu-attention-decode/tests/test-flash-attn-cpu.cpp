// The CPU backend's flash attention where test-backend-ops, which compares it with its own plain path, cannot look:
// against attention computed in double precision from the dequantized K and V, with many numbers of threads, and with
// fewer threads than were planned for. Masks, ALiBi, softcap, sinks, batches and layouts are test-backend-ops's.
//
//  test-flash-attn-cpu          pass or fail
//  test-flash-attn-cpu -v       print each case with its NMSE and a hash of its result, to compare builds
//  test-flash-attn-cpu -n N     only every Nth case, but all of those with fewer threads

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

static const double max_nmse = 5e-4;

static const ggml_type types[] = {
    GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL,
};

struct test_case {
    ggml_type type_k, type_v;
    int64_t   dk, dv;
    int64_t   n_head_kv, gqa;
    int64_t   n_kv, n_tokens;
    int       n_threads;
    int       n_granted; // of them, as under OMP_THREAD_LIMIT

    std::string name() const {
        char text[256];
        snprintf(text, sizeof(text), "%s-%s dk=%d dv=%d heads=%dx%d kv=%d tokens=%d threads=%d granted=%d",
            ggml_type_name(type_k), ggml_type_name(type_v), (int) dk, (int) dv, (int) n_head_kv, (int) gqa, (int) n_kv,
            (int) n_tokens, n_threads, n_granted);
        return text;
    }
};

// splitmix64: the same numbers everywhere
struct random_numbers {
    uint64_t state;

    uint64_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15);
        z = (z ^ (z >> 30))*0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27))*0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
    int64_t below(int64_t n) { return next() % n; }
    float   uniform()        { return (next() >> 40)*0x1p-23f - 1.0f; }
    template <typename T, size_t N> T of(const T (& values)[N]) { return values[below(N)]; }
};

struct attention {
    ggml_context *        ctx;
    ggml_cgraph *         graph;
    ggml_backend_buffer_t buffer;
    ggml_tensor * q, * k, * v, * mask, * out;

    ~attention() {
        ggml_backend_buffer_free(buffer);
        ggml_free(ctx);
    }
};

static std::vector<float> set_random(ggml_tensor * t, random_numbers & random, float factor) {
    const int64_t n = ggml_nelements(t);
    std::vector<float> values(n);
    for (auto & x : values) {
        x = factor*(random.uniform() + random.uniform() + random.uniform());
    }
    if (t->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(t, values.data(), 0, ggml_nbytes(t));
        return values;
    }
    // as stored
    std::vector<char> data(ggml_nbytes(t));
    ggml_quantize_chunk(t->type, values.data(), data.data(), 0, n/t->ne[0], t->ne[0], nullptr);
    ggml_backend_tensor_set(t, data.data(), 0, data.size());
    ggml_get_type_traits(t->type)->to_float(data.data(), values.data(), n);
    return values;
}

// rows of heads of tokens, as in llama.cpp's cache
static ggml_tensor * new_rows(ggml_context * ctx, ggml_type type, int64_t d, int64_t heads, int64_t n) {
    return ggml_new_tensor_3d(ctx, type, d, heads, n);
}

static const float * row(const std::vector<float> & values, const ggml_tensor * t, int64_t head, int64_t i) {
    return values.data() + (i*t->ne[1] + head)*t->ne[0];
}

static ggml_tensor * as_operand(ggml_context * ctx, ggml_tensor * t) {
    return ggml_permute(ctx, t, 0, 2, 1, 3);
}

static std::vector<float> result(const attention & a) {
    std::vector<float> out(ggml_nelements(a.out));
    ggml_backend_tensor_get(a.out, out.data(), 0, ggml_nbytes(a.out));
    return out;
}

static void compute(ggml_cgraph * graph, int n_threads, int n_granted) {
    ggml_cplan plan = ggml_graph_plan(graph, n_threads, nullptr);
    std::vector<uint8_t> work(plan.work_size);
    plan.work_data = work.data();
    plan.n_threads = n_granted;
    ggml_graph_compute(graph, &plan);
}

struct outcome {
    double   nmse;
    bool     same; // twice
    uint64_t hash;
};

static uint64_t fnv1a(const std::vector<float> & values) {
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < values.size()*sizeof(float); ++i) {
        hash = (hash ^ ((const uint8_t *) values.data())[i])*0x100000001b3;
    }
    return hash;
}

static outcome run(ggml_backend_t backend, const test_case & c, random_numbers random) {
    const int64_t n_head = c.n_head_kv*c.gqa;

    attention a = {};
    a.ctx = ggml_init({ ggml_tensor_overhead()*32 + ggml_graph_overhead(), nullptr, true });
    a.q = new_rows(a.ctx, GGML_TYPE_F32, c.dk, n_head,      c.n_tokens);
    a.k = new_rows(a.ctx, c.type_k,      c.dk, c.n_head_kv, c.n_kv);
    a.v = new_rows(a.ctx, c.type_v,      c.dv, c.n_head_kv, c.n_kv);
    a.mask = ggml_new_tensor_2d(a.ctx, GGML_TYPE_F16, c.n_kv, c.n_tokens);
    const float scale = 1.0f/sqrtf(c.dk);
    a.out = ggml_flash_attn_ext(a.ctx, as_operand(a.ctx, a.q), as_operand(a.ctx, a.k), as_operand(a.ctx, a.v), a.mask, scale, 0.0f, 0.0f);
    a.graph = ggml_new_graph(a.ctx);
    ggml_build_forward_expand(a.graph, a.out);
    a.buffer = ggml_backend_alloc_ctx_tensors(a.ctx, backend);

    const std::vector<float> q = set_random(a.q, random, 1.5f);
    const std::vector<float> k = set_random(a.k, random, 1.0f);
    const std::vector<float> v = set_random(a.v, random, 1.0f);

    // causal
    const auto n_visible = [&](int64_t t) { return c.n_kv - c.n_tokens + t + 1; };
    std::vector<ggml_fp16_t> mask(c.n_kv*c.n_tokens, ggml_fp32_to_fp16(0.0f));
    for (int64_t t = 0; t < c.n_tokens; ++t) {
        for (int64_t i = n_visible(t); i < c.n_kv; ++i) {
            mask[t*c.n_kv + i] = ggml_fp32_to_fp16(-INFINITY);
        }
    }
    ggml_backend_tensor_set(a.mask, mask.data(), 0, ggml_nbytes(a.mask));

    compute(a.graph, c.n_threads, c.n_granted);
    const std::vector<float> out = result(a);
    compute(a.graph, c.n_threads, c.n_granted);
    const bool same = out == result(a);

    double error = 0.0;
    double power = 0.0;
    std::vector<double> p(c.n_kv);
    std::vector<double> o(c.dv);
    for (int64_t head = 0; head < n_head; ++head) {
        for (int64_t t = 0; t < c.n_tokens; ++t) {
            const float * qr = row(q, a.q, head, t);
            double most = -INFINITY;
            for (int64_t i = 0; i < n_visible(t); ++i) {
                const float * kr = row(k, a.k, head/c.gqa, i);
                p[i] = 0.0;
                for (int64_t d = 0; d < c.dk; ++d) {
                    p[i] += (double) qr[d]*kr[d];
                }
                p[i] *= scale;
                most = fmax(most, p[i]);
            }
            double sum = 0.0;
            o.assign(c.dv, 0.0);
            for (int64_t i = 0; i < n_visible(t); ++i) {
                const double w = exp(p[i] - most);
                const float * vr = row(v, a.v, head/c.gqa, i);
                for (int64_t d = 0; d < c.dv; ++d) {
                    o[d] += w*vr[d];
                }
                sum += w;
            }
            const float * got = out.data() + (t*n_head + head)*c.dv;
            for (int64_t d = 0; d < c.dv; ++d) {
                const double want = o[d]/sum;
                error += (got[d] - want)*(got[d] - want);
                power += want*want;
            }
        }
    }
    return { error/power, same, fnv1a(out) };
}

static std::vector<std::pair<test_case, random_numbers>> all_cases() {
    static const int64_t dims[][2] = { {64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 192}, {256, 256}, {192, 128}, {576, 512} };
    static const int64_t tokens[]  = { 1, 2, 5 };
    static const int64_t kvs[]     = { 7, 64, 113, 256, 300, 512, 1031 };
    static const int64_t gqas[]    = { 1, 2, 3, 4, 8 };
    static const int64_t heads[]   = { 1, 2, 4 };
    static const int     threads[] = { 1, 2, 3, 4, 7, 16 };

    std::vector<std::pair<test_case, random_numbers>> cases;
    random_numbers random = { 1 };
    for (ggml_type type_k : types) {
        for (ggml_type type_v : types) {
            for (const auto & dim : dims) {
                for (int64_t n_tokens : tokens) {
                    test_case c = {};
                    c.type_k    = type_k;
                    c.type_v    = type_v;
                    c.dk        = dim[0];
                    c.dv        = dim[1];
                    c.n_tokens  = n_tokens;
                    c.n_kv      = random.of(kvs);
                    c.gqa       = random.of(gqas);
                    c.n_head_kv = random.of(heads);
                    c.n_threads = random.of(threads);
                    c.n_granted = c.n_threads;
                    const uint64_t seed = random.next();
                    c.n_kv = c.n_kv > n_tokens ? c.n_kv : n_tokens; // every token sees itself
                    if (c.dk % ggml_blck_size(type_k) == 0 && c.dv % ggml_blck_size(type_v) == 0) {
                        cases.push_back({ c, { seed } });
                    }
                }
            }
        }
    }
    return cases;
}

// Fewer threads take larger units, so that they may need more room
static std::vector<std::pair<test_case, random_numbers>> granted_cases() {
    static const ggml_type pairs[][2] = { {GGML_TYPE_F16, GGML_TYPE_F16}, {GGML_TYPE_Q8_0, GGML_TYPE_Q4_0} };

    std::vector<std::pair<test_case, random_numbers>> cases;
    for (const auto & pair : pairs) {
        for (int64_t n_tokens : { 1 }) {
            for (int n_threads = 1; n_threads <= 17; ++n_threads) {
                for (int n_granted = 1; n_granted <= n_threads; ++n_granted) {
                    test_case c = {};
                    c.type_k    = pair[0];
                    c.type_v    = pair[1];
                    c.dk        = 64;
                    c.dv        = 64;
                    c.n_head_kv = n_tokens == 1 ? 16 : 2;
                    c.gqa       = 7;
                    c.n_kv      = 256;
                    c.n_tokens  = n_tokens;
                    c.n_threads = n_threads;
                    c.n_granted = n_granted;
                    cases.push_back({ c, { 1 } });
                }
            }
        }
    }
    return cases;
}

static std::string running; // the case, for an assertion that fails in it

static void print_abort(const char * message) {
    printf("%s: FAIL: %s\n", running.c_str(), message);
    fflush(stdout);
}

int main(int argc, char ** argv) {
    bool   verbose = false;
    size_t every   = 1;
    for (int i = 1; i < argc; ++i) {
        const std::string arg = argv[i];
        if (arg == "-v") {
            verbose = true;
        } else if (arg == "-n" && i + 1 < argc) {
            every = atoi(argv[++i]);
        } else {
            fprintf(stderr, "usage: %s [-v] [-n N]\n", argv[0]);
            return 1;
        }
    }

    ggml_backend_load_all();
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    if (!backend) {
        fprintf(stderr, "no CPU backend\n");
        return 1;
    }

    std::vector<std::pair<test_case, random_numbers>> cases = granted_cases();
    const auto all = all_cases();
    for (size_t i = 0; i < all.size(); i += every) {
        cases.push_back(all[i]);
    }
    ggml_set_abort_callback(print_abort);

    size_t n_run = 0, n_failed = 0;
    double worst = 0.0;
    for (const auto & [c, random] : cases) {
        running = c.name();
        const outcome got = run(backend, c, random);
        const bool    ok  = got.same && got.nmse <= max_nmse;
        n_run++;
        n_failed += !ok;
        worst = ok ? fmax(worst, got.nmse) : worst;
        if (verbose || !ok) {
            printf("%s: %.3e %016llx%s\n", running.c_str(), got.nmse, (unsigned long long) got.hash,
                ok ? "" : got.same ? " FAIL" : " FAIL: two runs differ");
        }
    }
    ggml_backend_free(backend);
    printf("%zu cases, %zu failed, worst NMSE %.2e\n", n_run, n_failed, worst);
    return n_failed == 0 ? 0 : 1;
}
