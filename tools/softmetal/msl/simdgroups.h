// What the threads of a simdgroup do together. Each of these waits for the other lanes, except loading and storing a
// matrix: the hardware does not wait there either, and a barrier that is missing in front must not go unnoticed.
#pragma once

#include "arithmetic.h"
#include "../device/lane.h"

extern "C" void softmetal_wait(bool threadgroup) __attribute__((convergent));

namespace softmetal {

inline Lane & lane() {
    return *reinterpret_cast<Lane *>(reinterpret_cast<unsigned long>(__builtin_frame_address(0)) & ~(STACK - 1));
}

// Every lane puts a value where all can read it. Two areas in turn: nobody is further ahead than one wait.
template <class T> const T * exchange(const T & value) {
    Lane & self = lane();
    T * all = reinterpret_cast<T *>(self.simdgroup->exchange[self.parity ^= 1]);
    static_assert(sizeof(T) * WIDTH <= sizeof self.simdgroup->exchange[0]);
    all[self.index] = value;
    softmetal_wait(false);
    return all;
}

// Before one lane alone goes on: the hardware's lanes read in the same step, so the others have read what it writes.
inline bool lockstep() {
    softmetal_wait(false);
    return true;
}

inline void * threadgroup_array(const void * name, unsigned long size) {
    Lane & self = lane();
    return self.threadgroup_memory(&self, name, size);
}

template <class T, class F> T reduce(T value, F combine) {
    const T * all = exchange(value);
    unsigned live = lane().simdgroup->live;
    bool any = false;
    T result = value;
    for (int i = 0; i < WIDTH; i++) {
        if (!(live >> i & 1)) continue;
        result = any ? combine(result, all[i]) : all[i];
        any = true;
    }
    return result;
}

}

namespace metal {

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

inline void simdgroup_barrier(mem_flags) { softmetal_wait(false); }
inline void threadgroup_barrier(mem_flags) { softmetal_wait(true); }

template <class T> T simd_sum(T x) { return softmetal::reduce(x, [](T a, T b) { return T(a + b); }); }
template <class T> T simd_max(T x) { return softmetal::reduce(x, [](T a, T b) { return T(max(a, b)); }); }
template <class T> T simd_min(T x) { return softmetal::reduce(x, [](T a, T b) { return T(min(a, b)); }); }
template <class T> T simd_shuffle(T x, ushort from) { return softmetal::exchange(x)[from % softmetal::WIDTH]; }
template <class T> T simd_broadcast(T x, ushort from) { return softmetal::exchange(x)[from % softmetal::WIDTH]; }
template <class T> T simd_broadcast_first(T x) { return softmetal::exchange(x)[0]; }
template <class T> T simd_shuffle_xor(T x, ushort mask) { return softmetal::exchange(x)[(softmetal::lane().index ^ mask) % softmetal::WIDTH]; }
// Out of range, the hardware gives anything: here, the lane's own value.
template <class T> T simd_shuffle_down(T x, ushort by) {
    unsigned from = softmetal::lane().index + by;
    return softmetal::exchange(x)[from < softmetal::WIDTH ? from : softmetal::lane().index];
}
template <class T> T simd_shuffle_up(T x, ushort by) {
    unsigned self = softmetal::lane().index;
    return softmetal::exchange(x)[self >= by ? self - by : self];
}
template <class T> T simd_prefix_exclusive_sum(T x) {
    const T * all = softmetal::exchange(x);
    T sum = 0;
    for (unsigned i = 0; i < softmetal::lane().index; i++) sum += all[i];
    return sum;
}
template <class T> T simd_prefix_inclusive_sum(T x) { return simd_prefix_exclusive_sum(x) + x; }
inline bool simd_all(bool x) { return simd_min(int(x)); }
inline bool simd_any(bool x) { return simd_max(int(x)); }
inline bool simd_is_first() { return softmetal::lane().index == 0; }

// 8x8 elements, two next to each other in a row for each lane.
template <class T, int R = 8, int C = 8> struct simdgroup_matrix {
    static_assert(R == 8 && C == 8);
    T own[2];
    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal) {
        for (int i = 0; i < 2; i++) own[i] = row() == column() + i ? diagonal : T(0);
    }
    static int row() { return softmetal::lane().index / 4; }
    static int column() { return softmetal::lane().index % 4 * 2; }
    vec<T, 2> & thread_elements() { return reinterpret_cast<vec<T, 2> &>(own); }
};
using simdgroup_half8x8 = simdgroup_matrix<half>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat>;
using simdgroup_float8x8 = simdgroup_matrix<float>;

template <class T, int R, int C = R> simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, R, C> m;
    m.own[0] = m.own[1] = value;
    return m;
}

template <class T, class P> void simdgroup_load(simdgroup_matrix<T> & m, const P * from, ulong stride = 8, ulong2 origin = 0, bool transpose = false) {
    static_assert(is_same_v<T, P>, "a matrix is loaded from elements of its own type");
    from += origin.y * stride + origin.x;
    int row = m.row(), column = m.column();
    for (int i = 0; i < 2; i++) m.own[i] = transpose ? from[(column + i) * stride + row] : from[row * stride + column + i];
}

template <class T, class P> void simdgroup_store(const simdgroup_matrix<T> & m, P * to, ulong stride = 8, ulong2 origin = 0, bool transpose = false) {
    static_assert(is_same_v<T, P>, "a matrix is stored to elements of its own type");
    to += origin.y * stride + origin.x;
    int row = m.row(), column = m.column();
    for (int i = 0; i < 2; i++) (transpose ? to[(column + i) * stride + row] : to[row * stride + column + i]) = m.own[i];
}

// d = a * b + c, summed in float.
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D> & d, const simdgroup_matrix<A> & a, const simdgroup_matrix<B> & b, const simdgroup_matrix<C> & c) {
    struct Pair { float a[2], b[2]; };
    const Pair * all = softmetal::exchange(Pair { { float(a.own[0]), float(a.own[1]) }, { float(b.own[0]), float(b.own[1]) } });
    int row = d.row(), pair = d.column() / 2;
    float sum[2] = { float(c.own[0]), float(c.own[1]) };
    for (int k = 0; k < 8; k++) {
        float left = all[row * 4 + k / 2].a[k % 2];
        const float * right = all[k * 4 + pair].b;
        sum[0] += left * right[0];
        sum[1] += left * right[1];
    }
    d.own[0] = D(sum[0]);
    d.own[1] = D(sum[1]);
}
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D> & d, const simdgroup_matrix<A> & a, const simdgroup_matrix<B> & b) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8>(D(0)));
}

}
