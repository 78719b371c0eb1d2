// Put in front of a preprocessed Metal source, to compile one kernel of it as C++.
#pragma once

#include "simdgroups.h"

// convergent: the compiler may not move or double a call so that some lanes make it elsewhere. Not optimized, or it would
// see that nothing in here needs that, and forget it.
extern "C" __attribute__((noinline, optnone, convergent, visibility("hidden"))) void softmetal_wait(bool threadgroup) {
    softmetal::Lane & self = softmetal::lane();
    self.wait(&self, __builtin_return_address(0), threadgroup);
}

#ifdef SOFTMETAL_COUNT_LOADS
#define SOFTMETAL_LOAD(size)                                                                                      \
    extern "C" __attribute__((no_sanitize("coverage"), visibility("hidden"))) void __sanitizer_cov_load##size(const void * address) { \
        softmetal::Lane & self = *reinterpret_cast<softmetal::Lane *>(                                            \
            reinterpret_cast<unsigned long>(__builtin_frame_address(0)) & ~(softmetal::STACK - 1));               \
        self.loaded(&self, address, size);                                                                        \
    }
SOFTMETAL_LOAD(1)
SOFTMETAL_LOAD(2)
SOFTMETAL_LOAD(4)
SOFTMETAL_LOAD(8)
SOFTMETAL_LOAD(16)
#undef SOFTMETAL_LOAD
#endif

namespace softmetal {

static Constant * constants = nullptr;

// A function constant: a variable that is set before each dispatch.
struct Register {
    Constant constant;
    Register(int index, int size, void * value) : constant { index, size, value, constants } { constants = &constant; }
};

template <class A, class B> auto remainder(A value, B by) -> decltype(value % by) { return by ? value % by : value; }

template <class T> struct Argument {
    static T from_buffer(void * pointer) { return reinterpret_cast<T>(pointer); }
};
template <class T> struct Argument<T &> {
    static T & from_buffer(void * pointer) { return *reinterpret_cast<T *>(pointer); }
};

template <class T> T as(Uint3 value) {
    if constexpr (metal::is_scalar<T>) return T(value.x);
    else if constexpr (sizeof(T) == 2 * sizeof(typename T::element)) return T(value.x, value.y);
    else return T(value.x, value.y, value.z);
}
template <class T> T as(unsigned value) { return T(value); }

}

#define kernel static inline
#define device
#define thread
#define threadgroup
#define constant const
