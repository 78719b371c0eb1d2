#include "attn-rot.cuh"

// Only for NVIDIA: the code counts on warps of 32.
#if !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

#include "fattn-quant.cuh"
#include "fwht-block.cuh"
#include "fwht.cuh"
#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "set-rows-kv.cuh"
#include "set-rows-kv-block.cuh"

#include <algorithm>
#include <unordered_set>
#include <vector>

static constexpr int ATTN_ROT_MAX_CHAINS = 3;   // of Q, K and V
static constexpr int ATTN_ROT_MAX_D      = 256; // values of a row, a head or a part of one

// What happens to the rows of one tensor.
struct attn_rot_job {
    const char    * x;
    const float   * norm;         // weights, nullptr without RMS norm
    const int32_t * pos;          // nullptr without RoPE
    const float   * freq_factors;
    const char    * idx;          // of a token's row in dst, nullptr for the same one
    char          * dst;
    int64_t nb1, nb2;             // of x: from head to head, from token to token
    int64_t nb_dst;               // from token to token
    uint3   n_heads;              // for fastdiv
    int     n_rows;
    int     type;                 // of dst
    int     block_bytes;          // of 32 values of dst
    bool    idx_64;
    bool    neox;
    int     n_dims;
    float   theta_scale, freq_scale, ext_factor, attn_factor, corr_low, corr_high;
    float   eps;
    int     n_rot;                // values rotated together, 0 without a rotation
    float   rot_scale;
};

struct attn_rot_params {
    attn_rot_job jobs[ATTN_ROT_MAX_CHAINS];
    unsigned int * counters; // for the attention that follows, are set to 0
    int n_counters;
};

// As in rope.cu.
static __device__ __forceinline__ void attn_rot_yarn(const attn_rot_job & job, const float theta_extrap, const int pair, float & c, float & s) {
    float theta  = job.freq_scale*theta_extrap;
    float mscale = job.attn_factor;
    if (job.ext_factor != 0.0f) {
        const float y   = (pair - job.corr_low) / max(0.001f, job.corr_high - job.corr_low);
        const float mix = (1.0f - min(1.0f, max(0.0f, y))) * job.ext_factor;
        theta   = theta*(1 - mix) + theta_extrap*mix;
        mscale *= 1.0f + 0.1f*logf(1.0f / job.freq_scale);
    }
    c = cosf(theta)*mscale;
    s = sinf(theta)*mscale;
}

// A block for each row, a thread for each of its values: value 32*w + l is that of thread l of warp w throughout.
__launch_bounds__(ATTN_ROT_MAX_D)
static __global__ void attn_rot(const attn_rot_params p) {
    ggml_cuda_pdl_lc();

    int row = blockIdx.x;
    int i   = 0;
    while (row >= p.jobs[i].n_rows) {
        row -= p.jobs[i].n_rows;
        ++i;
    }
    const attn_rot_job & job = p.jobs[i];

    const int   e          = threadIdx.x;
    const int   lane       = e % WARP_SIZE;
    const int   warp       = e / WARP_SIZE;
    const uint2 token_head = fast_div_modulo((uint32_t) row, job.n_heads);

    // Threads exchange values through these buffers in turn, so one barrier is enough for each exchange.
    __shared__ float shared[2][ATTN_ROT_MAX_D];
    int buffer = 0;

    ggml_cuda_pdl_sync();

    if (blockIdx.x == 0) {
        for (int k = e; k < p.n_counters; k += blockDim.x) {
            p.counters[k] = 0;
        }
    }

    float x = ((const float *) (job.x + token_head.x*job.nb2 + token_head.y*job.nb1))[e];

    if (job.norm) {
        const float sum_warp = warp_reduce_sum(x*x);
        if (lane == 0) {
            shared[buffer][warp] = sum_warp;
        }
        __syncthreads();
        float sum = 0.0f;
        for (int w = 0; w < (int) blockDim.x/WARP_SIZE; ++w) {
            sum += shared[buffer][w];
        }
        buffer ^= 1;
        x = rsqrtf(sum/blockDim.x + job.eps) * x * job.norm[e];
    }

    if (job.pos) {
        shared[buffer][e] = x;
        __syncthreads();
        if (e < job.n_dims) {
            const int  n_pairs = job.n_dims/2;
            const int  pair    = job.neox ? e % n_pairs  : e/2;
            const bool second  = job.neox ? e >= n_pairs : e % 2 == 1;
            const float other  = shared[buffer][job.neox ? (second ? e - n_pairs : e + n_pairs) : e ^ 1];

            const float theta_base  = job.pos[token_head.x]*powf(job.theta_scale, pair);
            const float freq_factor = job.freq_factors ? job.freq_factors[pair] : 1.0f;

            float cos_theta;
            float sin_theta;
            attn_rot_yarn(job, theta_base/freq_factor, pair, cos_theta, sin_theta);
            x = second ? other*sin_theta + x*cos_theta : x*cos_theta - other*sin_theta;
        }
        buffer ^= 1;
    }

    if (job.n_rot) {
        x = fwht_block(x, e, job.n_rot, job.rot_scale, shared[0], ATTN_ROT_MAX_D, buffer);
    }

    int64_t token_dst = token_head.x;
    if (job.idx) {
        token_dst = job.idx_64 ? ((const int64_t *) job.idx)[token_dst] : ((const int32_t *) job.idx)[token_dst];
    }
    char * dst = job.dst + token_dst*job.nb_dst + int64_t(token_head.y*(blockDim.x/WARP_SIZE) + warp)*job.block_bytes;

    switch (job.type) {
        case GGML_TYPE_F32: ((float *) dst)[lane] = x; break;
        case GGML_TYPE_F16: ((half  *) dst)[lane] = x; break;
#define ATTN_ROT_CASE(T) case GGML_TYPE_##T: set_rows_kv_block(x, lane, (block_##T *) dst); break;
        SET_ROWS_KV_TYPES(ATTN_ROT_CASE)
#undef ATTN_ROT_CASE
        default: break;
    }
}

// Nodes that follow each other without anything else in between using their results. Those that there are not are nullptr.
struct attn_rot_chain {
    const ggml_tensor * x; // what the first one reads
    const ggml_tensor * mul;
    const ggml_tensor * rope;
    const ggml_tensor * rot;
    const ggml_tensor * set;
    const ggml_tensor * last;
};

struct attn_rot_chains {
    attn_rot_chain chains[ATTN_ROT_MAX_CHAINS];
    int n = 0;
    int D = 0; // values of a head, 0 as long as none has RoPE
};

static bool attn_rot_is_noop(const ggml_tensor * t) {
    return ggml_is_empty(t) || t->op == GGML_OP_NONE || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW ||
        t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE;
}

static bool attn_rot_is_rotation(const ggml_tensor * t) {
    return ggml_cuda_op_mul_mat_use_fwht(t) && t->src[1]->type == GGML_TYPE_F32 &&
        (t->ne[0] == 64 || t->ne[0] == 128 || t->ne[0] == 256);
}

static const ggml_tensor * attn_rot_root(const ggml_tensor * t) {
    return t->view_src ? t->view_src : t;
}

// The node that t has the values of, all of them and in their order, if nothing else uses it or a view of it on the way.
static const ggml_tensor * attn_rot_producer(const ggml_cgraph * cgraph, const ggml_tensor * t) {
    while (true) {
        const size_t i = ggml_hash_find(&cgraph->visited_hash_set, t);
        if (i == GGML_HASHSET_FULL || !ggml_bitset_get(cgraph->visited_hash_set.used, i) || cgraph->use_counts[i] != 1 ||
                (t->flags & GGML_TENSOR_FLAG_OUTPUT)) {
            return nullptr;
        }
        if (t->op != GGML_OP_RESHAPE && t->op != GGML_OP_VIEW) {
            return t;
        }
        const ggml_tensor * src = t->src[0];
        if (!ggml_is_contiguous(t) || !ggml_is_contiguous(src) || ggml_nelements(t) != ggml_nelements(src)) {
            return nullptr;
        }
        t = src;
    }
}

static bool attn_rot_overlap(const ggml_tensor * a, const ggml_tensor * b) {
    const char * a_data = (const char *) a->data;
    const char * b_data = (const char *) b->data;
    return a_data < b_data + ggml_nbytes(b) && b_data < a_data + ggml_nbytes(a);
}

// Heads of D values.
static bool attn_rot_fits(const attn_rot_chain & c, const int D) {
    return (!c.rope || c.rope->ne[0] == D) && (!c.rot || D % c.rot->ne[0] == 0) && (!c.set || c.set->src[0]->ne[0] % D == 0) &&
        ggml_nelements(c.last) % D == 0;
}

static bool attn_rot_fit(const attn_rot_chains & c, const int D) {
    for (int i = 0; i < c.n; ++i) {
        if (!attn_rot_fits(c.chains[i], D)) {
            return false;
        }
    }
    return true;
}

static int attn_rot_get_D(const attn_rot_chains & c) {
    for (int D : { c.D, 128, 64, 256 }) {
        if (D != 0 && attn_rot_fit(c, D)) {
            return D;
        }
        if (D != 0 && D == c.D) {
            break;
        }
    }
    return 0;
}

// Whether the chains can be computed at once, no matter in which order their rows are.
static bool attn_rot_independent(const attn_rot_chains & c) {
    for (int i = 0; i < c.n; ++i) {
        const ggml_tensor * out = c.chains[i].set ? attn_rot_root(c.chains[i].set) : c.chains[i].last;
        for (int j = 0; j < c.n; ++j) {
            const ggml_tensor * x   = c.chains[j].x;
            const ggml_tensor * set = c.chains[j].set;
            // a row is read before it is written
            const bool in_place = i == j && !set && x->data == out->data && ggml_is_contiguous(x);
            if (!in_place && attn_rot_overlap(out, x)) {
                return false;
            }
            if (i != j && attn_rot_overlap(out, set ? attn_rot_root(set) : c.chains[j].last)) {
                return false;
            }
        }
    }
    return true;
}

// The chain whose last node produces t, else a new one that reads t. nullptr if there is no place for it.
static attn_rot_chain * attn_rot_continue(const ggml_cgraph * cgraph, attn_rot_chains & c, const ggml_tensor * t, const int max_chains) {
    const ggml_tensor * producer = attn_rot_producer(cgraph, t);
    for (int i = 0; i < c.n; ++i) {
        if (c.chains[i].last == producer) {
            return &c.chains[i];
        }
    }
    if (c.n == max_chains || t->type != GGML_TYPE_F32 || t->nb[0] != sizeof(float)) {
        return nullptr;
    }
    attn_rot_chain & chain = c.chains[c.n++];
    chain   = {};
    chain.x = t;
    return &chain;
}

static bool attn_rot_takes_rope(const ggml_tensor * rope) {
    const int32_t * params = (const int32_t *) rope->op_params;
    const int n_dims = params[1];
    const int mode   = params[2];
    const int n_offs = params[15];
    const int64_t D  = rope->ne[0];
    return rope->type == GGML_TYPE_F32 && (D == 64 || D == 128 || D == 256) && rope->ne[3] == 1 && ggml_is_contiguous(rope) &&
        (mode == GGML_ROPE_TYPE_NORMAL || mode == GGML_ROPE_TYPE_NEOX) && n_offs == 0 && n_dims % 2 == 0 && n_dims <= D;
}

static bool attn_rot_takes_set(const ggml_tensor * set) {
    const ggml_tensor * src = set->src[0];
    const ggml_tensor * idx = set->src[1];
    return (ggml_cuda_set_rows_kv_supported(set) || (set->type == GGML_TYPE_F16 && src->type == GGML_TYPE_F32)) &&
        src->ne[2] == 1 && src->ne[3] == 1 && ggml_is_contiguous(idx) && ggml_nelements(idx) == src->ne[1] &&
        (idx->type == GGML_TYPE_I64 || idx->type == GGML_TYPE_I32) && set->nb[0] == ggml_type_size(set->type);
}

// Adds node i, and the two behind it if it is an RMS norm. Returns the index of the last node that was added, -1 if none was.
static int attn_rot_add(const ggml_cgraph * cgraph, attn_rot_chains & c, int i, const int max_chains) {
    const ggml_tensor * node = cgraph->nodes[i];
    attn_rot_chain * chain = nullptr;

    switch (node->op) {
        case GGML_OP_RMS_NORM: {
            if (!ggml_can_fuse(cgraph, i, { GGML_OP_RMS_NORM, GGML_OP_MUL, GGML_OP_ROPE }) || node->type != GGML_TYPE_F32) {
                return -1;
            }
            const ggml_tensor * mul    = cgraph->nodes[i + 1];
            const ggml_tensor * rope   = cgraph->nodes[i + 2];
            const ggml_tensor * weight = mul->src[1];
            if (mul->src[0] != node || rope->src[0] != mul || !attn_rot_takes_rope(rope) ||
                    weight->type != GGML_TYPE_F32 || ggml_nelements(weight) != rope->ne[0] || weight->ne[0] != rope->ne[0] ||
                    !ggml_is_contiguous(weight)) {
                return -1;
            }
            chain = attn_rot_continue(cgraph, c, node->src[0], max_chains);
            if (!chain || chain->last) {
                return -1;
            }
            chain->mul  = mul;
            chain->rope = rope;
            i += 2;
        } break;
        case GGML_OP_ROPE:
            chain = attn_rot_takes_rope(node) ? attn_rot_continue(cgraph, c, node->src[0], max_chains) : nullptr;
            if (!chain || chain->last) {
                return -1;
            }
            chain->rope = node;
            break;
        case GGML_OP_MUL_MAT:
            chain = attn_rot_is_rotation(node) ? attn_rot_continue(cgraph, c, node->src[1], max_chains) : nullptr;
            if (!chain || chain->rot || chain->set) {
                return -1;
            }
            chain->rot = node;
            break;
        case GGML_OP_SET_ROWS:
            chain = attn_rot_takes_set(node) ? attn_rot_continue(cgraph, c, node->src[0], max_chains) : nullptr;
            if (!chain || chain->set || (chain->rope && chain->rope->ne[0]*chain->rope->ne[1] != node->src[0]->ne[0])) {
                return -1;
            }
            chain->set = node;
            break;
        default:
            return -1;
    }

    chain->last = cgraph->nodes[i];
    if (chain->rope) {
        c.D = chain->rope->ne[0];
    }
    return attn_rot_get_D(c) != 0 ? i : -1;
}

static attn_rot_job attn_rot_get_job(const attn_rot_chain & c, const int D) {
    attn_rot_job job = {};

    const ggml_tensor * x   = c.x;
    const ggml_tensor * out = c.set ? c.set : c.last;

    const int64_t n_heads = c.rope ? c.rope->ne[1] : c.set ? c.set->src[0]->ne[0]/D : 1;
    job.n_heads = init_fastdiv_values(n_heads);
    job.n_rows  = ggml_nelements(c.set ? c.set->src[0] : c.last)/D;

    job.x   = (const char *) x->data;
    job.nb1 = c.rope ? x->nb[1] : D*sizeof(float);
    job.nb2 = c.rope ? x->nb[2] : c.set && !c.rot ? x->nb[1] : n_heads*D*sizeof(float);

    if (c.mul) {
        job.norm = (const float *) c.mul->src[1]->data;
        memcpy(&job.eps, c.mul->src[0]->op_params, sizeof(float));
    }

    if (c.rope) {
        const int32_t * params = (const int32_t *) c.rope->op_params;
        job.pos          = (const int32_t *) c.rope->src[1]->data;
        job.freq_factors = c.rope->src[2] ? (const float *) c.rope->src[2]->data : nullptr;
        job.n_dims       = params[1];
        job.neox         = params[2] == GGML_ROPE_TYPE_NEOX;

        float freq_base, beta_fast, beta_slow, corr_dims[2];
        memcpy(&freq_base,       params +  5, sizeof(float));
        memcpy(&job.freq_scale,  params +  6, sizeof(float));
        memcpy(&job.ext_factor,  params +  7, sizeof(float));
        memcpy(&job.attn_factor, params +  8, sizeof(float));
        memcpy(&beta_fast,       params +  9, sizeof(float));
        memcpy(&beta_slow,       params + 10, sizeof(float));
        job.theta_scale = powf(freq_base, -2.0f/job.n_dims);
        ggml_rope_yarn_corr_dims(job.n_dims, params[4], freq_base, beta_fast, beta_slow, corr_dims);
        job.corr_low  = corr_dims[0];
        job.corr_high = corr_dims[1];
    }

    if (c.rot) {
        job.n_rot     = c.rot->ne[0];
        job.rot_scale = 1/sqrtf(job.n_rot);
    }

    job.dst         = (char *) out->data;
    job.type        = out->type;
    job.block_bytes = ggml_row_size(out->type, 32);
    job.nb_dst      = c.set ? c.set->nb[1] : n_heads*D*sizeof(float);
    if (c.set) {
        job.idx    = (const char *) c.set->src[1]->data;
        job.idx_64 = c.set->src[1]->type == GGML_TYPE_I64;
    }
    return job;
}

// The index of the next node that computes something, -1 if there is none.
static int attn_rot_next(const ggml_cgraph * cgraph, int i) {
    do {
        i++;
    } while (i < cgraph->n_nodes && attn_rot_is_noop(cgraph->nodes[i]));
    return i < cgraph->n_nodes && (cgraph->nodes[i]->flags & GGML_TENSOR_FLAG_COMPUTE) ? i : -1;
}

static bool attn_rot_takes_attention(const int device, const ggml_tensor * node) {
    return node->op == GGML_OP_FLASH_ATTN_EXT && ggml_cuda_flash_attn_ext_quant_supported(device, node);
}

// The index of the rotation of the result of the attention that is node i, if nothing else uses that. -1 if there is none.
static int attn_rot_find_result(const ggml_cgraph * cgraph, const int i) {
    const int i_rot = attn_rot_next(cgraph, i);
    if (i_rot < 0) {
        return -1;
    }
    const ggml_tensor * rot = cgraph->nodes[i_rot];
    return attn_rot_is_rotation(rot) && rot->ne[0] <= 128 && cgraph->nodes[i]->ne[0] % rot->ne[0] == 0 &&
        attn_rot_producer(cgraph, rot->src[1]) == cgraph->nodes[i] ? i_rot : -1;
}

// Computes the attention that is node i and the rotation of its result, if there is one. Returns the index of the last node computed.
static int attn_rot_attention(ggml_backend_cuda_context & ctx, const ggml_cgraph * cgraph, const int i, unsigned int * counters) {
    ggml_tensor * attn = cgraph->nodes[i];
    int i_rot = attn_rot_find_result(cgraph, i);
    for (int j = 0; j < GGML_MAX_SRC; ++j) {
        if (i_rot >= 0 && attn->src[j] && attn_rot_overlap(cgraph->nodes[i_rot], attn->src[j])) {
            i_rot = -1;
        }
    }
    if (i_rot < 0 && !counters) {
        return i - 1;
    }
    ggml_cuda_flash_attn_ext_quant(ctx, attn, i_rot < 0 ? nullptr : cgraph->nodes[i_rot], counters);
    return i_rot < 0 ? i : i_rot;
}

// Returns the index of the last node computed.
static int attn_rot_compute_chains(ggml_backend_cuda_context & ctx, const ggml_cgraph * cgraph, const int node_idx) {
    // on a stream beside others there is one of Q, K and V
    const bool is_alone   = ctx.curr_stream_no == 0;
    const int  max_chains = is_alone ? ATTN_ROT_MAX_CHAINS : 1;

    // as many nodes as can be computed at once: what one chain writes may be stored elsewhere by its next node
    attn_rot_chains c;
    attn_rot_chains longer;
    int last     = node_idx;
    int n_nodes  = 0;
    int n_longer = 0;
    for (int i = node_idx; i >= 0; i = attn_rot_next(cgraph, i)) {
        i = attn_rot_add(cgraph, longer, i, max_chains);
        if (i < 0) {
            break;
        }
        n_longer++;
        if (attn_rot_independent(longer)) {
            c       = longer;
            last    = i;
            n_nodes = n_longer;
        }
    }

    bool has_rot = false;
    for (int i = 0; i < c.n; ++i) {
        has_rot = has_rot || c.chains[i].rot;
    }
    if (!has_rot || n_nodes < 2) {
        return node_idx - 1;
    }

    attn_rot_params p = {};
    const int D = attn_rot_get_D(c);
    int64_t n_rows = 0;
    for (int i = 0; i < c.n; ++i) {
        p.jobs[i] = attn_rot_get_job(c.chains[i], D);
        n_rows += p.jobs[i].n_rows;
    }
    if (n_rows > INT_MAX) {
        return node_idx - 1;
    }

    const int  i_attn   = attn_rot_next(cgraph, last);
    const bool has_attn = is_alone && i_attn >= 0 && attn_rot_takes_attention(ctx.device, cgraph->nodes[i_attn]);
    ggml_cuda_pool_alloc<unsigned int> counters(ctx.pool());
    if (has_attn) {
        p.n_counters = ggml_cuda_flash_attn_ext_quant_max_counters(cgraph->nodes[i_attn]);
        p.counters   = counters.alloc(p.n_counters);
    }

    const ggml_cuda_kernel_launch_params launch_params = ggml_cuda_kernel_launch_params(dim3(n_rows, 1, 1), dim3(D, 1, 1), 0, ctx.stream());
    ggml_cuda_kernel_launch(attn_rot, launch_params, p);
    CUDA_CHECK(cudaGetLastError());

    return has_attn ? attn_rot_attention(ctx, cgraph, i_attn, p.counters) : last;
}

int ggml_cuda_try_fuse_attn_rot(ggml_backend_cuda_context & ctx, const ggml_cgraph * cgraph, const int node_idx) {
    const ggml_tensor * node = cgraph->nodes[node_idx];

    switch (node->op) {
        case GGML_OP_RMS_NORM:
        case GGML_OP_ROPE:
        case GGML_OP_MUL_MAT:
        case GGML_OP_SET_ROWS:
            return std::max(attn_rot_compute_chains(ctx, cgraph, node_idx) - node_idx, 0);
        case GGML_OP_FLASH_ATTN_EXT:
            if (!attn_rot_takes_attention(ctx.device, node)) {
                return 0;
            }
            return std::max(attn_rot_attention(ctx, cgraph, node_idx, nullptr) - node_idx, 0);
        default:
            return 0;
    }
}

// Moves the chains of Q, K and V, which are among the nodes from begin to attn, to right before attn.
static void attn_rot_gather(ggml_cgraph * cgraph, const int begin, const int attn) {
    std::unordered_set<const ggml_tensor *> late;
    bool has_rot = false;

    auto add_chain = [&](const ggml_tensor * t) {
        const ggml_tensor * next = nullptr;
        while (t) {
            if (t->op == GGML_OP_RESHAPE || t->op == GGML_OP_VIEW || t->op == GGML_OP_PERMUTE) {
                t = t->src[0];
                continue;
            }
            if (attn_rot_is_rotation(t)) {
                has_rot = true;
                late.insert(t);
                next = t;
                t    = t->src[1];
                continue;
            }
            const bool is_norm = next && ((t->op == GGML_OP_MUL && next->op == GGML_OP_ROPE) || (t->op == GGML_OP_RMS_NORM && next->op == GGML_OP_MUL));
            if (t->op != GGML_OP_ROPE && !is_norm) {
                break;
            }
            late.insert(t);
            next = t;
            t    = t->src[0];
        }
    };

    add_chain(cgraph->nodes[attn]->src[0]);
    for (int i = begin; i < attn; ++i) {
        const ggml_tensor * node = cgraph->nodes[i];
        if (node->op == GGML_OP_SET_ROWS && (attn_rot_root(node) == attn_rot_root(cgraph->nodes[attn]->src[1]) ||
                                             attn_rot_root(node) == attn_rot_root(cgraph->nodes[attn]->src[2]))) {
            late.insert(node);
            add_chain(node->src[0]);
        }
    }
    if (!has_rot) {
        return;
    }

    std::vector<ggml_tensor *> nodes[2]; // those that stay, and those that come after them
    for (int i = begin; i < attn; ++i) {
        ggml_tensor * node = cgraph->nodes[i];
        bool is_late = late.count(node) || late.count(node->view_src);
        for (int j = 0; j < GGML_MAX_SRC; ++j) {
            is_late = is_late || (node->src[j] && late.count(node->src[j]));
        }
        if (is_late) {
            late.insert(node);
            nodes[1].push_back(node);
            continue;
        }
        nodes[0].push_back(node);

        // Nodes that work on the same memory keep their order.
        if (attn_rot_is_noop(node)) {
            continue;
        }
        for (const ggml_tensor * other : nodes[1]) {
            if (attn_rot_is_noop(other)) {
                continue;
            }
            for (int j = 0; j < GGML_MAX_SRC; ++j) {
                if ((node->src[j]  && other->view_src && attn_rot_root(node->src[j])  == other->view_src) ||
                    (other->src[j] && node->view_src  && attn_rot_root(other->src[j]) == node->view_src)) {
                    return;
                }
            }
            if (node->view_src && node->view_src == other->view_src) {
                return;
            }
        }
    }

    int i = begin;
    for (const std::vector<ggml_tensor *> & part : nodes) {
        for (ggml_tensor * node : part) {
            cgraph->nodes[i++] = node;
        }
    }
}

void ggml_cuda_attn_rot_optimize(const int device, ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params) {
    int begin = 0;
    for (int i = 0; i < cgraph->n_nodes; ++i) {
        ggml_tensor * attn = cgraph->nodes[i];
        if (attn->op != GGML_OP_FLASH_ATTN_EXT) {
            continue;
        }
        attn_rot_gather(cgraph, begin, i);
        begin = i + 1;

        const int i_rot = attn_rot_find_result(cgraph, i);
        if (i_rot >= 0 && attn_rot_takes_attention(device, attn)) {
            params->add_alloc_dep(params->user_data, attn->src[0], cgraph->nodes[i_rot]);
        }
    }
}

#else // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)

int ggml_cuda_try_fuse_attn_rot(ggml_backend_cuda_context & ctx, const ggml_cgraph * cgraph, const int node_idx) {
    GGML_UNUSED_VARS(ctx, cgraph, node_idx);
    return 0;
}

void ggml_cuda_attn_rot_optimize(const int device, ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params) {
    GGML_UNUSED_VARS(device, cgraph, params);
}

#endif // !defined(GGML_USE_HIP) && !defined(GGML_USE_MUSA)
