// f16 weights in a buffer for AMX, times one row and many: against sums in double precision, and a row that is computed
// among many against the same one among few, which another kernel computes, bit by bit. test-backend-ops has its weights in
// the CPU's own buffer. Without such a buffer there is nothing to test.

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

static const double max_nmse = 1e-10;

static ggml_backend_buffer_type_t find_buffer_type(ggml_backend_dev_t device) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
    auto get = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts");
    for (ggml_backend_buffer_type_t * type = get ? get(device) : nullptr; type && *type; ++type) {
        if (std::string(ggml_backend_buft_name(*type)) == "AMX") {
            return *type;
        }
    }
    return nullptr;
}

static std::vector<float> random_values(int64_t n, uint32_t seed) {
    std::vector<float> values(n);
    for (float & x : values) {
        seed = seed*1664525u + 1013904223u;
        x = (seed >> 8)/8388608.0f - 1.0f;
    }
    return values;
}

// the products of the first m rows of a with the n rows of b
static std::vector<float> multiply(ggml_backend_t backend, ggml_backend_buffer_type_t type, int m, int n, int k,
        const std::vector<float> & a, const std::vector<ggml_fp16_t> & b) {
    ggml_context * weights = ggml_init({ ggml_tensor_overhead()*2, nullptr, true });
    ggml_context * ctx     = ggml_init({ ggml_tensor_overhead()*4 + ggml_graph_overhead(), nullptr, true });
    ggml_tensor  * tb = ggml_new_tensor_2d(weights, GGML_TYPE_F16, k, n);
    ggml_tensor  * ta = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, k, m);
    ggml_backend_buffer_t of_weights = ggml_backend_alloc_ctx_tensors_from_buft(weights, type);
    ggml_tensor  * out   = ggml_mul_mat(ctx, tb, ta);
    ggml_cgraph  * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);

    ggml_backend_tensor_set(tb, b.data(), 0, ggml_nbytes(tb));
    ggml_backend_tensor_set(ta, a.data(), 0, ggml_nbytes(ta));
    std::vector<float> values(m*n);
    ggml_backend_graph_compute(backend, graph);
    ggml_backend_tensor_get(out, values.data(), 0, ggml_nbytes(out));

    ggml_backend_buffer_free(buffer);
    ggml_backend_buffer_free(of_weights);
    ggml_free(ctx);
    ggml_free(weights);
    return values;
}

int main() {
    ggml_backend_load_all();
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_buffer_type_t type = device ? find_buffer_type(device) : nullptr;
    if (!type) {
        printf("no buffer for AMX here: nothing to test\n");
        return 0;
    }
    ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);
    int n_run = 0, n_failed = 0;
    double worst = 0.0;
    for (int n_threads : { 1, 3 }) {
        ggml_backend_cpu_set_n_threads(backend, n_threads);
        for (int k : { 16, 576, 784, 2048, 8208 }) {
            for (int n : { 32, 64, 320 }) {
                for (int m : { 1, 15, 16, 17, 63, 66, 131 }) {
                    const std::vector<float> a = random_values((int64_t) m*k, m);
                    const std::vector<float> w = random_values((int64_t) n*k, n);
                    std::vector<ggml_fp16_t> b(w.size());
                    ggml_fp32_to_fp16_row(w.data(), b.data(), b.size());
                    const std::vector<float> got = multiply(backend, type, m, n, k, a, b);
                    double error = 0.0, power = 0.0;
                    for (int i = 0; i < m; ++i) {
                        for (int j = 0; j < n; ++j) {
                            double want = 0.0;
                            for (int l = 0; l < k; ++l) {
                                want += (double) a[(int64_t) i*k + l]*ggml_fp16_to_fp32(b[(int64_t) j*k + l]);
                            }
                            error += (got[i*n + j] - want)*(got[i*n + j] - want);
                            power += want*want;
                        }
                    }
                    const int few = m < 15 ? m : 15;
                    const bool same = memcmp(got.data(), multiply(backend, type, few, n, k, a, b).data(), few*n*sizeof(float)) == 0;
                    const double nmse = error/power;
                    const bool   ok   = same && nmse <= max_nmse;
                    n_run++;
                    n_failed += !ok;
                    worst = fmax(worst, nmse);
                    if (!ok) {
                        printf("m=%d n=%d k=%d threads=%d: %.3e%s FAIL\n", m, n, k, n_threads, nmse, same ? "" : ", other bits than among few rows");
                    }
                }
            }
        }
    }
    ggml_backend_free(backend);
    printf("%d cases, %d failed, worst NMSE %.2e\n", n_run, n_failed, worst);
    return n_failed == 0 ? 0 : 1;
}
