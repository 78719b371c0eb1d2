// The CPU backend's flash attention against attention computed in double precision from the dequantized K and V:
// every pair of K and V types, sizes, masks and numbers of threads; and fewer threads than were planned for.
//
//  test-flash-attn-cpu          pass or fail
//  test-flash-attn-cpu -v       print each case with its NMSE, to compare builds
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

enum mask_kind { MASK_NONE, MASK_CAUSAL, MASK_HOLES, MASK_BIAS, N_MASKS };

static const char * mask_names[] = { "none", "causal", "holes", "bias" };

struct test_case {
    ggml_type type_k, type_v;
    int64_t   dk, dv;
    int64_t   n_head_kv, gqa;
    int64_t   n_kv, n_tokens, n_batch;
    mask_kind mask;
    float     max_bias, softcap;
    bool      sinks;
    bool      by_token; // heads of a token lie together, as in llama.cpp's cache
    int       n_threads;
    int       n_granted; // of them, as under OMP_THREAD_LIMIT

    std::string name() const {
        char text[256];
        snprintf(text, sizeof(text), "%s-%s dk=%d dv=%d heads=%dx%d kv=%d tokens=%d batch=%d mask=%s bias=%.0f softcap=%.0f sinks=%d by_token=%d threads=%d granted=%d",
            ggml_type_name(type_k), ggml_type_name(type_v), (int) dk, (int) dv, (int) n_head_kv, (int) gqa, (int) n_kv,
            (int) n_tokens, (int) n_batch, mask_names[mask], max_bias, softcap, sinks, by_token, n_threads, n_granted);
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
    ggml_tensor * q, * k, * v, * mask, * sinks, * out;

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

// index of element (d, i, head, batch) in the memory of a tensor of such rows
static size_t element(const ggml_tensor * t, bool by_token, int64_t i, int64_t head, int64_t batch) {
    // t is what was allocated: [d, heads, n, batch] or [d, n, heads, batch]
    return by_token ? ((batch*t->ne[2] + i)*t->ne[1] + head)*t->ne[0] : ((batch*t->ne[2] + head)*t->ne[1] + i)*t->ne[0];
}

static ggml_tensor * new_rows(ggml_context * ctx, ggml_type type, bool by_token, int64_t d, int64_t n, int64_t heads, int64_t batch) {
    return by_token ? ggml_new_tensor_4d(ctx, type, d, heads, n, batch) : ggml_new_tensor_4d(ctx, type, d, n, heads, batch);
}

static ggml_tensor * as_operand(ggml_context * ctx, ggml_tensor * t, bool by_token) {
    return by_token ? ggml_permute(ctx, t, 0, 2, 1, 3) : t;
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

// Runs a case; returns the NMSE, or NAN where two runs differ
static double run(ggml_backend_t backend, const test_case & c, random_numbers random) {
    const int64_t n_head = c.n_head_kv*c.gqa;

    attention a = {};
    a.ctx = ggml_init({ ggml_tensor_overhead()*32 + ggml_graph_overhead(), nullptr, true });
    a.q = new_rows(a.ctx, GGML_TYPE_F32, c.by_token, c.dk, c.n_tokens, n_head,      c.n_batch);
    a.k = new_rows(a.ctx, c.type_k,      c.by_token, c.dk, c.n_kv,     c.n_head_kv, c.n_batch);
    a.v = new_rows(a.ctx, c.type_v,      c.by_token, c.dv, c.n_kv,     c.n_head_kv, c.n_batch);
    if (c.mask != MASK_NONE) {
        a.mask = ggml_new_tensor_4d(a.ctx, GGML_TYPE_F16, c.n_kv, c.n_tokens, 1, c.n_batch);
    }
    if (c.sinks) {
        a.sinks = ggml_new_tensor_1d(a.ctx, GGML_TYPE_F32, n_head);
    }
    const float scale = 1.0f/sqrtf(c.dk);
    a.out = ggml_flash_attn_ext(a.ctx, as_operand(a.ctx, a.q, c.by_token), as_operand(a.ctx, a.k, c.by_token), as_operand(a.ctx, a.v, c.by_token),
        a.mask, scale, c.max_bias, c.softcap);
    ggml_flash_attn_ext_add_sinks(a.out, a.sinks);
    a.graph = ggml_new_graph(a.ctx);
    ggml_build_forward_expand(a.graph, a.out);
    a.buffer = ggml_backend_alloc_ctx_tensors(a.ctx, backend);

    const std::vector<float> q = set_random(a.q, random, 1.5f);
    const std::vector<float> k = set_random(a.k, random, 1.0f);
    const std::vector<float> v = set_random(a.v, random, 1.0f);
    std::vector<float> sinks;
    if (a.sinks) {
        sinks = set_random(a.sinks, random, 2.0f);
    }
    std::vector<float> mask;
    if (a.mask) {
        mask.resize(ggml_nelements(a.mask));
        const int64_t hole0 = random.below(c.n_kv);
        const int64_t hole1 = hole0 + random.below(c.n_kv - hole0 + 1);
        for (int64_t b = 0; b < c.n_batch; ++b) {
            for (int64_t t = 0; t < c.n_tokens; ++t) {
                const bool nothing = c.mask == MASK_HOLES && random.below(8) == 0; // a row that sees no key
                for (int64_t i = 0; i < c.n_kv; ++i) {
                    float & m = mask[(b*c.n_tokens + t)*c.n_kv + i];
                    const bool future = i > c.n_kv - c.n_tokens + t;
                    switch (c.mask) {
                        case MASK_CAUSAL: m = future ? -INFINITY : 0.0f; break;
                        case MASK_HOLES:  m = nothing || (i >= hole0 && i < hole1) || random.below(16) == 0 ? -INFINITY : 0.0f; break;
                        default:          m = future ? -INFINITY : (float) (i - (c.n_kv - c.n_tokens + t))/8; break;
                    }
                }
            }
        }
        std::vector<ggml_fp16_t> stored(mask.size());
        ggml_fp32_to_fp16_row(mask.data(), stored.data(), mask.size());
        ggml_fp16_to_fp32_row(stored.data(), mask.data(), mask.size());
        ggml_backend_tensor_set(a.mask, stored.data(), 0, ggml_nbytes(a.mask));
    }

    compute(a.graph, c.n_threads, c.n_granted);
    const std::vector<float> out = result(a);
    compute(a.graph, c.n_threads, c.n_granted);
    const bool same = out == result(a);

    const uint32_t n_head_log2 = 1u << (uint32_t) floor(log2(n_head));
    const double m0 = pow(2.0, -c.max_bias/n_head_log2);
    const double m1 = pow(2.0, -c.max_bias/2/n_head_log2);

    double error = 0.0;
    double power = 0.0;
    std::vector<double> p(c.n_kv);
    std::vector<double> o(c.dv);
    for (int64_t b = 0; b < c.n_batch; ++b) {
        for (int64_t head = 0; head < n_head; ++head) {
            const double slope = c.max_bias <= 0.0f ? 1.0 : head < n_head_log2 ? pow(m0, head + 1) : pow(m1, 2*(head - n_head_log2) + 1);
            for (int64_t t = 0; t < c.n_tokens; ++t) {
                const float * qr = q.data() + element(a.q, c.by_token, t, head, b);
                double most = c.sinks ? sinks[head] : -INFINITY;
                for (int64_t i = 0; i < c.n_kv; ++i) {
                    const float m = a.mask ? mask[(b*c.n_tokens + t)*c.n_kv + i] : 0.0f;
                    p[i] = -INFINITY;
                    if (m == -INFINITY) {
                        continue;
                    }
                    const float * kr = k.data() + element(a.k, c.by_token, i, head/c.gqa, b);
                    double s = 0.0;
                    for (int64_t d = 0; d < c.dk; ++d) {
                        s += (double) qr[d]*kr[d];
                    }
                    s *= scale;
                    if (c.softcap != 0.0f) {
                        s = c.softcap*tanh(s/c.softcap);
                    }
                    p[i] = s + slope*m;
                    most = fmax(most, p[i]);
                }
                double sum = c.sinks ? exp(sinks[head] - most) : 0.0;
                o.assign(c.dv, 0.0);
                for (int64_t i = 0; i < c.n_kv; ++i) {
                    if (p[i] == -INFINITY) {
                        continue;
                    }
                    const double w = exp(p[i] - most);
                    const float * vr = v.data() + element(a.v, c.by_token, i, head/c.gqa, b);
                    for (int64_t d = 0; d < c.dv; ++d) {
                        o[d] += w*vr[d];
                    }
                    sum += w;
                }
                const float * got = out.data() + ((b*c.n_tokens + t)*n_head + head)*c.dv;
                for (int64_t d = 0; d < c.dv; ++d) {
                    const double want = sum == 0.0 ? 0.0 : o[d]/sum;
                    error += (got[d] - want)*(got[d] - want);
                    power += want*want;
                }
            }
        }
    }
    if (!same) {
        return NAN;
    }
    return power > 0.0 ? error/power : error;
}

static std::vector<std::pair<test_case, random_numbers>> all_cases() {
    static const int64_t dims[][2] = { {64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 192}, {256, 256}, {192, 128}, {576, 512} };
    static const int64_t tokens[]  = { 1, 2, 5, 9, 33, 75 };
    static const int64_t kvs[]     = { 1, 7, 64, 113, 256, 300, 512, 1031 };
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
                    c.n_batch   = random.below(6) == 0 ? 2 : 1;
                    c.mask      = (mask_kind) random.below(N_MASKS);
                    c.max_bias  = c.mask != MASK_NONE && random.below(4) == 0 ? 8.0f : 0.0f;
                    c.softcap   = random.below(5) == 0 ? 30.0f : 0.0f;
                    c.sinks     = random.below(4) == 0;
                    c.by_token  = random.below(2) == 0;
                    c.n_threads = random.of(threads);
                    c.n_granted = c.n_threads;
                    const uint64_t seed = random.next();
                    if (c.mask == MASK_CAUSAL || c.mask == MASK_BIAS) {
                        c.n_kv = c.n_kv > n_tokens ? c.n_kv : n_tokens; // every token sees itself
                    }
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
        for (int64_t n_tokens : { 1, 75 }) {
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
                    c.n_batch   = 1;
                    c.mask      = MASK_CAUSAL;
                    c.by_token  = true;
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
        const double nmse = run(backend, c, random);
        const bool   ok   = nmse <= max_nmse;
        n_run++;
        n_failed += !ok;
        worst = ok ? fmax(worst, nmse) : worst;
        if (verbose || !ok) {
            printf("%s: %.3e%s\n", running.c_str(), nmse, ok ? "" : std::isnan(nmse) ? " FAIL: two runs differ" : " FAIL");
        }
    }
    ggml_backend_free(backend);
    printf("%zu cases, %zu failed, worst NMSE %.2e\n", n_run, n_failed, worst);
    return n_failed == 0 ? 0 : 1;
}
