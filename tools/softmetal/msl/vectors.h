// Metal's scalar, vector and matrix types. Vectors are classes: clang's own do not convert half4 to float4 as Metal does.
#pragma once

using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long;
using uint64_t = unsigned long;
using size_t = unsigned long;
using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned;
using ulong = unsigned long;
using half = _Float16;
using bfloat = __bf16;
inline half operator""h(long double value) { return half(value); }

#define FLT_MAX __FLT_MAX__
#define FLT_MIN __FLT_MIN__
#define FLT_EPSILON __FLT_EPSILON__
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define INT_MAX __INT_MAX__
#define INT_MIN (-__INT_MAX__ - 1)
#define UINT_MAX (__INT_MAX__ * 2u + 1u)
#define MAXHALF ((half) 65504.0f)
#define HALF_MAX MAXHALF
#define M_PI_F 3.14159265358979323846f

namespace metal {

template <class T, class U> struct is_same { static constexpr bool value = false; };
template <class T> struct is_same<T, T> { static constexpr bool value = true; };
template <class T, class U> constexpr bool is_same_v = is_same<T, U>::value;
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { using type = T; };
template <bool B, class T, class F> struct conditional { using type = T; };
template <class T, class F> struct conditional<false, T, F> { using type = F; };
template <bool B, class T, class F> using conditional_t = typename conditional<B, T, F>::type;

template <class T> constexpr bool is_scalar = __is_arithmetic(T) || is_same_v<T, half> || is_same_v<T, bfloat>;

template <class T, int N> struct storage { T v[N]; };
template <class T> struct storage<T, 2> { union { T v[2]; struct { T x, y; }; struct { T r, g; }; }; };
template <class T> struct storage<T, 3> { union { T v[4]; struct { T x, y, z; }; struct { T r, g, b; }; }; };
template <class T> struct storage<T, 4> { union { T v[4]; struct { T x, y, z, w; }; struct { T r, g, b, a; }; }; };

template <class T, int N> struct vec : storage<T, N> {
    using storage<T, N>::v;
    using element = T;

    vec() = default;
    vec(const vec &) = default;
    vec & operator=(const vec &) = default;
    template <class S, class = typename enable_if<is_scalar<S>>::type> vec(S value) { for (int i = 0; i < N; i++) v[i] = T(value); }
    template <class U> explicit vec(const vec<U, N> & other) { for (int i = 0; i < N; i++) v[i] = T(other.v[i]); }
    template <class A, class B> vec(A a, B b) { static_assert(N == 2); v[0] = T(a); v[1] = T(b); }
    template <class A, class B, class C> vec(A a, B b, C c) { static_assert(N == 3); v[0] = T(a); v[1] = T(b); v[2] = T(c); }
    template <class A, class B, class C, class D> vec(A a, B b, C c, D d) { v[0] = T(a); v[1] = T(b); v[2] = T(c); v[3] = T(d); }

    T & operator[](int i) { return v[i]; }
    const T & operator[](int i) const { return v[i]; }

#define SOFTMETAL_OPERATOR(op)                                                                                            \
    friend vec operator op(const vec & a, const vec & b) { vec r; for (int i = 0; i < N; i++) r.v[i] = T(a.v[i] op b.v[i]); return r; } \
    vec & operator op##=(const vec & b) { return *this = *this op b; }
    SOFTMETAL_OPERATOR(+)
    SOFTMETAL_OPERATOR(-)
    SOFTMETAL_OPERATOR(*)
    SOFTMETAL_OPERATOR(/)
#undef SOFTMETAL_OPERATOR
#define SOFTMETAL_OPERATOR(op)                                                                                            \
    template <class U = T, class = typename enable_if<__is_integral(U)>::type>                                            \
    friend vec operator op(const vec & a, const vec & b) { vec r; for (int i = 0; i < N; i++) r.v[i] = T(a.v[i] op b.v[i]); return r; }
    SOFTMETAL_OPERATOR(&)
    SOFTMETAL_OPERATOR(|)
    SOFTMETAL_OPERATOR(^)
    SOFTMETAL_OPERATOR(%)
    SOFTMETAL_OPERATOR(<<)
    SOFTMETAL_OPERATOR(>>)
#undef SOFTMETAL_OPERATOR
#define SOFTMETAL_OPERATOR(op)                                                                                            \
    friend vec<bool, N> operator op(const vec & a, const vec & b) { vec<bool, N> r; for (int i = 0; i < N; i++) r.v[i] = a.v[i] op b.v[i]; return r; }
    SOFTMETAL_OPERATOR(<)
    SOFTMETAL_OPERATOR(>)
    SOFTMETAL_OPERATOR(<=)
    SOFTMETAL_OPERATOR(>=)
    SOFTMETAL_OPERATOR(==)
    SOFTMETAL_OPERATOR(!=)
#undef SOFTMETAL_OPERATOR
    friend vec operator-(const vec & a) { vec r; for (int i = 0; i < N; i++) r.v[i] = -a.v[i]; return r; }
};

// C columns of R elements, m[column][row].
template <class T, int C, int R> struct matrix {
    vec<T, R> columns[C];

    matrix() = default;
    matrix(const matrix &) = default;
    matrix & operator=(const matrix &) = default;
    explicit matrix(T diagonal) {
        for (int c = 0; c < C; c++) for (int r = 0; r < R; r++) columns[c][r] = c == r ? diagonal : T(0);
    }
    template <class U> explicit matrix(const matrix<U, C, R> & other) { for (int c = 0; c < C; c++) columns[c] = vec<T, R>(other.columns[c]); }
    template <class... V> matrix(const vec<T, R> & first, const V &... rest) : columns { first, rest... } {}
    vec<T, R> & operator[](int c) { return columns[c]; }
    const vec<T, R> & operator[](int c) const { return columns[c]; }
    friend matrix operator*(const matrix & m, T by) { matrix r; for (int c = 0; c < C; c++) r[c] = m[c] * by; return r; }
    friend matrix operator*(T by, const matrix & m) { return m * by; }
};

#define SOFTMETAL_VECTORS(T) using T##2 = vec<T, 2>; using T##3 = vec<T, 3>; using T##4 = vec<T, 4>;
SOFTMETAL_VECTORS(char) SOFTMETAL_VECTORS(uchar) SOFTMETAL_VECTORS(short) SOFTMETAL_VECTORS(ushort) SOFTMETAL_VECTORS(int)
SOFTMETAL_VECTORS(uint) SOFTMETAL_VECTORS(long) SOFTMETAL_VECTORS(ulong) SOFTMETAL_VECTORS(half) SOFTMETAL_VECTORS(bfloat)
SOFTMETAL_VECTORS(float) SOFTMETAL_VECTORS(bool)
#undef SOFTMETAL_VECTORS
using packed_char4 = char4;
using packed_uchar4 = uchar4;
using packed_float4 = float4;
using packed_half4 = half4;
#define SOFTMETAL_MATRICES(T) using T##2x2 = matrix<T, 2, 2>; using T##2x4 = matrix<T, 2, 4>; using T##3x3 = matrix<T, 3, 3>; \
    using T##4x2 = matrix<T, 4, 2>; using T##4x4 = matrix<T, 4, 4>;
SOFTMETAL_MATRICES(half) SOFTMETAL_MATRICES(float)
#undef SOFTMETAL_MATRICES

template <class T, class U> T as_type(const U & value) {
    static_assert(sizeof(T) == sizeof(U));
    T result;
    __builtin_memcpy(&result, &value, sizeof result);
    return result;
}

}
