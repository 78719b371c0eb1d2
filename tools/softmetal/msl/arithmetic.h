// Metal's functions on numbers, computed in float; the hardware's own versions of exp() and the like are less exact.
#pragma once

#include "vectors.h"

namespace metal {

#define SOFTMETAL_FUNCTION(name, expression)                                                                     \
    template <class T> typename enable_if<is_scalar<T>, conditional_t<__is_integral(T), float, T>>::type name(T value) { \
        using R = conditional_t<__is_integral(T), float, T>;                                                     \
        float x = float(value);                                                                                  \
        return R(expression);                                                                                    \
    }                                                                                                            \
    template <class T, int N> vec<T, N> name(const vec<T, N> & x) { vec<T, N> r; for (int i = 0; i < N; i++) r[i] = name(x[i]); return r; }
#define SOFTMETAL_FUNCTIONS                                   \
    SOFTMETAL_FUNCTION(exp, __builtin_expf(x))                \
    SOFTMETAL_FUNCTION(exp2, __builtin_exp2f(x))              \
    SOFTMETAL_FUNCTION(log, __builtin_logf(x))                \
    SOFTMETAL_FUNCTION(log2, __builtin_log2f(x))              \
    SOFTMETAL_FUNCTION(sqrt, __builtin_sqrtf(x))              \
    SOFTMETAL_FUNCTION(rsqrt, 1.0f / __builtin_sqrtf(x))      \
    SOFTMETAL_FUNCTION(sin, __builtin_sinf(x))                \
    SOFTMETAL_FUNCTION(cos, __builtin_cosf(x))                \
    SOFTMETAL_FUNCTION(tan, __builtin_tanf(x))                \
    SOFTMETAL_FUNCTION(tanh, __builtin_tanhf(x))              \
    SOFTMETAL_FUNCTION(atan, __builtin_atanf(x))
SOFTMETAL_FUNCTIONS
SOFTMETAL_FUNCTION(floor, __builtin_floorf(x))
SOFTMETAL_FUNCTION(ceil, __builtin_ceilf(x))
SOFTMETAL_FUNCTION(round, __builtin_roundf(x))
SOFTMETAL_FUNCTION(rint, __builtin_rintf(x))
SOFTMETAL_FUNCTION(trunc, __builtin_truncf(x))
SOFTMETAL_FUNCTION(fabs, __builtin_fabsf(x))
SOFTMETAL_FUNCTION(sign, x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f)
namespace precise { SOFTMETAL_FUNCTIONS }
namespace fast { SOFTMETAL_FUNCTIONS }
#undef SOFTMETAL_FUNCTION
#undef SOFTMETAL_FUNCTIONS

template <class T> bool isnan(T x) { return __builtin_isnan(float(x)); }
template <class T> bool isinf(T x) { return __builtin_isinf(float(x)); }
template <class T> bool isfinite(T x) { return __builtin_isfinite(float(x)); }
template <class T> typename enable_if<is_scalar<T>, T>::type abs(T x) { return x < T(0) ? T(-x) : x; }
template <class T, int N> vec<T, N> abs(const vec<T, N> & x) { vec<T, N> r; for (int i = 0; i < N; i++) r[i] = abs(x[i]); return r; }

#define SOFTMETAL_FUNCTION(name, expression)                                                                     \
    template <class A, class B> typename enable_if<is_scalar<A> && is_scalar<B>, decltype(A() + B())>::type name(A a_, B b_) { \
        using R = decltype(A() + B());                                                                           \
        R a = R(a_), b = R(b_);                                                                                  \
        return expression;                                                                                       \
    }                                                                                                            \
    template <class T, int N> vec<T, N> name(const vec<T, N> & a, const vec<T, N> & b) {                         \
        vec<T, N> r; for (int i = 0; i < N; i++) r[i] = T(name(a[i], b[i])); return r; }                         \
    template <class T, int N, class S> typename enable_if<is_scalar<S>, vec<T, N>>::type name(const vec<T, N> & a, S b) { \
        return name(a, vec<T, N>(b)); }
SOFTMETAL_FUNCTION(max, __builtin_isnan(float(a)) || a < b ? b : a)
SOFTMETAL_FUNCTION(min, __builtin_isnan(float(a)) || b < a ? b : a)
SOFTMETAL_FUNCTION(fmax, __builtin_isnan(float(a)) || a < b ? b : a)
SOFTMETAL_FUNCTION(fmin, __builtin_isnan(float(a)) || b < a ? b : a)
SOFTMETAL_FUNCTION(pow, R(__builtin_powf(float(a), float(b))))
SOFTMETAL_FUNCTION(powr, R(__builtin_powf(float(a), float(b))))
SOFTMETAL_FUNCTION(fmod, R(__builtin_fmodf(float(a), float(b))))
SOFTMETAL_FUNCTION(atan2, R(__builtin_atan2f(float(a), float(b))))
#undef SOFTMETAL_FUNCTION

template <class T> T fma(T a, T b, T c) { return T(__builtin_fmaf(float(a), float(b), float(c))); }
template <class A, class B, class C> auto fma(A a, B b, C c) -> decltype(a * b + c) { using R = decltype(a * b + c); return fma<R>(R(a), R(b), R(c)); }
template <class T, class L, class H> T clamp(T x, L low, H high) { return T(min(max(x, T(low)), T(high))); }
template <class T> T mix(T a, T b, T t) { return a + (b - a) * t; }
template <class T> T select(T a, T b, bool choose) { return choose ? b : a; }
template <class T, int N> vec<T, N> select(const vec<T, N> & a, const vec<T, N> & b, const vec<bool, N> & choose) {
    vec<T, N> r; for (int i = 0; i < N; i++) r[i] = choose[i] ? b[i] : a[i]; return r; }
template <class T, int N> T dot(const vec<T, N> & a, const vec<T, N> & b) { T r = 0; for (int i = 0; i < N; i++) r += a[i] * b[i]; return r; }
template <class T, int N> T length(const vec<T, N> & a) { return T(sqrt(dot(a, a))); }
template <int N> bool any(const vec<bool, N> & x) { bool r = false; for (int i = 0; i < N; i++) r |= x[i]; return r; }
template <int N> bool all(const vec<bool, N> & x) { bool r = true; for (int i = 0; i < N; i++) r &= x[i]; return r; }
template <class T> T popcount(T x) { return T(__builtin_popcountll((unsigned long long) x)); }
template <class T> T extract_bits(T x, uint from, uint bits) { return T((x >> from) & ((T(1) << bits) - 1)); }

enum memory_order { memory_order_relaxed };
template <class T> struct atomic { T value; };
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;
template <class T> T atomic_load_explicit(const atomic<T> * a, memory_order) { T r; __atomic_load(&a->value, &r, __ATOMIC_RELAXED); return r; }
template <class T, class V> void atomic_store_explicit(atomic<T> * a, V value, memory_order) { T v = T(value); __atomic_store(&a->value, &v, __ATOMIC_RELAXED); }
template <class T, class V> T atomic_fetch_add_explicit(atomic<T> * a, V value, memory_order) { return __atomic_fetch_add(&a->value, T(value), __ATOMIC_RELAXED); }
template <class T, class V> T atomic_fetch_max_explicit(atomic<T> * a, V value, memory_order) { return __atomic_fetch_max(&a->value, T(value), __ATOMIC_RELAXED); }
template <class T, class V> T atomic_fetch_or_explicit(atomic<T> * a, V value, memory_order) { return __atomic_fetch_or(&a->value, T(value), __ATOMIC_RELAXED); }

}
