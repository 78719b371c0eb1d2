// What a compiled kernel and the device share: who a thread is, and how it waits for the others.
//
// Each thread of a threadgroup is a fiber with a stack of STACK bytes, and its Lane lies at the start of it, so that a
// kernel finds it from the stack pointer alone.
#pragma once

namespace softmetal {

constexpr unsigned long STACK = 1 << 16;
constexpr int WIDTH = 32;

struct Uint3 { unsigned x, y, z; };

// Where a thread stands, under the names of Metal's attributes.
struct Position {
    Uint3 threadgroup_position_in_grid, threadgroups_per_grid, threads_per_threadgroup;
    Uint3 thread_position_in_threadgroup, thread_position_in_grid, threads_per_grid;
    unsigned thread_index_in_threadgroup, thread_index_in_simdgroup;
    unsigned simdgroup_index_in_threadgroup, simdgroups_per_threadgroup;
};

struct Simdgroup;

struct Lane {
    void * stack_pointer;
    Lane * next;             // of this simdgroup, in the order they run, round and round
    Simdgroup * simdgroup;
    void (*wait)(Lane *, const void * place, bool threadgroup);
    void * (*threadgroup_memory)(Lane *, const void * variable, unsigned long size);
    void (*loaded)(Lane *, const void * address, unsigned size);
    unsigned parity;         // which of the two exchange areas is next
    unsigned index;          // in the simdgroup
    Position position;
};

struct Simdgroup {
    unsigned live;           // a bit for each lane that took part in the last wait
    alignas(64) char exchange[2][2048];
};

// A kernel as its shared library exports it, under the name softmetal_kernel.
struct Constant { int index; int size; void * value; Constant * next; };
struct Kernel {
    void (*run)(void * const * buffers, void * const * threadgroup, const Position & position);
    Constant * const * constants;
};

}
