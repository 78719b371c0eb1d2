#pragma once

#include <stdint.h>

struct ggml_compute_params;

// C[j][i] = the dot product of row i of A (Q4_1, k blocks, lda blocks apart) and row j of B (Q8_1, ldb blocks apart)
// All threads call it. Returns false, and does nothing, on a CPU without instructions for it and where it would not pay.
bool llamafile_sgemm_q4_1(const struct ggml_compute_params * params, int64_t m, int64_t n, int64_t k,
                          const void * A, int64_t lda, const void * B, int64_t ldb, float * C, int64_t ldc);
