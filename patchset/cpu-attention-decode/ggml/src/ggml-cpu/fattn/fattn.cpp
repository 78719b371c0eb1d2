// Each block of K and V is dequantized once for all query rows that share it, i.e. the query tokens of a unit of work
// times the query heads of the KV head: in registers, where the rows are few (decode.cpp).
//
// Chunks of keys are split the same way for a given number of threads, whichever thread takes them, and their partial
// results are combined in order.

#include "fattn.h"
#include "blocks.h"
#include "plan.h"

static constexpr int64_t KEYS_MIN = 64; // fewer are not worth it

// what is computed
static fattn fattn_of(const ggml_tensor * op) {
    fattn f = {};
    f.q     = op->src[0];
    f.k     = op->src[1];
    f.v     = op->src[2];
    f.mask  = op->src[3];
    f.sinks = op->src[4] ? (const float *) op->src[4]->data : nullptr;
    f.dst   = const_cast<ggml_tensor *>(op);

    f.DK  = f.k->ne[0];
    f.DV  = f.v->ne[0];
    f.N   = f.q->ne[1];
    f.H   = f.q->ne[2];
    f.B   = f.q->ne[3];
    f.HKV = f.k->ne[2];
    f.G   = f.H/f.HKV;
    f.KV  = f.k->ne[1];

    memcpy(&f.scale,    (const float *) op->op_params + 0, sizeof(float));
    memcpy(&f.max_bias, (const float *) op->op_params + 1, sizeof(float));
    memcpy(&f.softcap,  (const float *) op->op_params + 2, sizeof(float));
    if (f.softcap != 0.0f) {
        f.scale /= f.softcap;
    }
    f.n_head_log2 = 1u << (uint32_t) floor(log2(f.H));
    f.m0 = powf(2.0f, -(f.max_bias       ) / f.n_head_log2);
    f.m1 = powf(2.0f, -(f.max_bias / 2.0f) / f.n_head_log2);
    return f;
}

// how it is split
static void fattn_plan(fattn & f, int n_threads) {
    fattn_decode_plan(f, n_threads);
    f.scratch  = GGML_PAD(f.scratch, 16);
    f.partials = GGML_PAD(f.B*f.H*f.N*f.n_kc*(2 + f.DV), 16);
}

// the chunks of keys of the rows that are this thread's
static void fattn_combine(const fattn & f, float * partials, int ith, int nth) {
    const int64_t n_rows = f.B*f.H*f.N;
    for (int64_t row = n_rows*ith/nth; row < n_rows*(ith + 1)/nth; ++row) {
        const int64_t t    = row % f.N;
        const int64_t head = row / f.N % f.H;
        const int64_t b    = row / f.N / f.H;
        const float * part = f.partial_row(partials, b, head, t, 0);
        const size_t  ld   = 2 + f.DV;
        float * out = f.dst_row(b, head, t);

        float M = f.sinks ? f.sinks[head] : FATTN_LOW;
        for (int64_t c = 0; c < f.n_kc; ++c) {
            M = std::max(M, part[c*ld]);
        }
        float S = f.sinks ? expf(f.sinks[head] - M) : 0.0f;
        for (int64_t c = 0; c < f.n_kc; ++c) {
            S += expf(part[c*ld] - M)*part[c*ld + 1];
        }
        const float inv = S == 0.0f ? 0.0f : 1.0f/S;
        memset(out, 0, f.DV*sizeof(float));
        for (int64_t c = 0; c < f.n_kc; ++c) {
            const float factor = expf(part[c*ld] - M)*inv;
            ggml_vec_mad_f32(f.DV, out, part + c*ld + 2, factor);
        }
    }
}

bool ggml_fattn_supported(const ggml_tensor * op) {
    const ggml_tensor * q = op->src[0];
    const ggml_tensor * k = op->src[1];
    const ggml_tensor * v = op->src[2];
    const ggml_tensor * m = op->src[3];
    return q->type == GGML_TYPE_F32 && fattn_knows(k->type) && fattn_knows(v->type) &&
        k->ne[0] % 16 == 0 && v->ne[0] % 16 == 0 && k->ne[1] >= KEYS_MIN &&
        k->ne[2] == v->ne[2] && q->ne[2] % k->ne[2] == 0 && q->ne[2]/k->ne[2]*q->ne[1] <= FATTN_ROWS_DECODE &&
        k->ne[3] == v->ne[3] && q->ne[3] % k->ne[3] == 0 &&
        q->nb[0] == sizeof(float) && k->nb[0] == ggml_type_size(k->type) && v->nb[0] == ggml_type_size(v->type) &&
        (!m || (m->type == GGML_TYPE_F16 && m->nb[0] == sizeof(ggml_fp16_t)));
}

size_t ggml_fattn_work_size(const ggml_tensor * op, int n_tasks) {
    if (!ggml_fattn_supported(op)) {
        return 0;
    }
    // fewer threads may be granted than are planned for, and may need more: their units are larger
    fattn  f = fattn_of(op);
    size_t most = 0;
    for (int n_threads = 1; n_threads <= n_tasks; ++n_threads) {
        fattn_plan(f, n_threads);
        most = std::max(most, f.partials + n_threads*f.scratch);
    }
    return most*sizeof(float) + 64;
}

void ggml_compute_forward_fattn(const ggml_compute_params * params, ggml_tensor * op) {
    const int ith = params->ith;
    const int nth = params->nth;
    fattn f = fattn_of(op);
    fattn_plan(f, nth);

    float * partials = (float *) GGML_PAD((uintptr_t) params->wdata, 64);
    float * scratch  = partials + f.partials + ith*f.scratch;
    GGML_ASSERT((char *) (partials + f.partials + nth*f.scratch) <= (char *) params->wdata + params->wsize);

    const bool shared = f.n_units > nth && !ggml_is_numa();
    if (shared) {
        if (ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, nth);
        }
        ggml_barrier(params->threadpool);
    }

    for (int64_t unit = ith; unit < f.n_units; unit = shared ? ggml_threadpool_chunk_add(params->threadpool, 1) : unit + nth) {
        fattn_decode_unit(f, unit, partials, scratch);
    }

    ggml_barrier(params->threadpool);
    fattn_combine(f, partials, ith, nth);
}
