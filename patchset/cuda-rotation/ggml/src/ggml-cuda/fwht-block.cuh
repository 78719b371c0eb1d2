#pragma once

#include "common.cuh"

// The Hadamard transform of n values of a block, of which thread e has value e % n. All threads of the block call it. They
// exchange values through two buffers in turn, n_threads values each, so one barrier is enough for each exchange. As fwht.cu does.
static __device__ __forceinline__ float fwht_block(
        float x, const int e, const int n, const float scale, float * buffers, const int n_threads, int & buffer) {
    x *= scale;
#pragma unroll
    for (int h = 1; h < WARP_SIZE; h *= 2) {
        const float other = __shfl_xor_sync(0xFFFFFFFF, x, h, WARP_SIZE);
        x = e & h ? other - x : x + other;
    }
    for (int h = WARP_SIZE; h < n; h *= 2) {
        float * values = buffers + buffer*n_threads;
        values[e] = x;
        __syncthreads();
        const float other = values[e ^ h];
        x = e & h ? other - x : x + other;
        buffer ^= 1;
    }
    return x;
}
