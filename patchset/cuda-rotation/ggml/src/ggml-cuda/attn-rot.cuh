#pragma once

#include "common.cuh"

struct ggml_backend_graph_optimize_params;

// With a quantized KV cache Q, K, V and the result of the attention are each multiplied by a Hadamard matrix. These rotations
// are fused with what stands beside them in the graph.

// Computes the nodes from node_idx on that fuse with a rotation, as far as there are any: up to 3 chains of [RMS_NORM + MUL] +
// [ROPE] + [rotation] + [SET_ROWS], then FLASH_ATTN_EXT + [rotation], or one of these. Returns how many nodes after node_idx that
// were, 0 if nothing was computed.
int ggml_cuda_try_fuse_attn_rot(ggml_backend_cuda_context & ctx, const ggml_cgraph * cgraph, int node_idx);

// Before tensors are allocated: moves what can be fused together, and keeps the memory of Q from becoming the fused result's.
void ggml_cuda_attn_rot_optimize(int device, ggml_cgraph * cgraph, const ggml_backend_graph_optimize_params * params);
