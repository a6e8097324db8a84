// Sixteen numbers at a time, whatever registers the CPU has, read from storage and rounded to it; and threads for rows.
//
// Storage is bfloat16 or float32, arithmetic is float32. What is computed is not known here.

#pragma once

#include <omp.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

struct Bf16 {
    uint16_t bits;
};
typedef float F __attribute__((vector_size(64)));
struct Halves {
    float low __attribute__((vector_size(32))), high __attribute__((vector_size(32)));
};
struct Quarters {
    float low __attribute__((vector_size(16))), high __attribute__((vector_size(16)));
};
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t Half __attribute__((vector_size(32)));
constexpr int LANES = 16;
typedef std::integral_constant<int, LANES> All;

template <class To, class From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "same bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// GCC 12 does both in halves where it is left to it.
#ifdef __AVX512F__
inline U widened(Half half) { return bits_of<U>(_mm512_cvtepu16_epi32(bits_of<__m256i>(half))); }
inline Half narrowed(U lanes) { return bits_of<Half>(_mm512_cvtepi32_epi16(bits_of<__m512i>(lanes))); }
#else
inline U widened(Half half) { return __builtin_convertvector(half, U); }
inline Half narrowed(U lanes) { return __builtin_convertvector(lanes, Half); }
#endif

inline F load(const float* from, All = {}) {
    F lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline F load(const Bf16* from, All = {}) {
    Half half;
    std::memcpy(&half, from, sizeof half);
    return bits_of<F>(widened(half) << 16);
}

// To the nearest, ties to even. What is no number stays none: adding could carry its bits round to zero.
inline U rounded(F lanes) {
    U bits = bits_of<U>(lanes);
    U near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    U none = bits_of<U>((bits & 0x7fffffffu) > 0x7f800000u);
    return (near & ~none) | (0x7fc0u & none);
}

inline void store(float* to, F lanes, All = {}) { std::memcpy(to, &lanes, sizeof lanes); }

inline void store(Bf16* to, F lanes, All = {}) {
    Half half = narrowed(rounded(lanes));
    std::memcpy(to, &half, sizeof half);
}

template <class T>
inline F load(const T* from, int count) {  // zeros behind the first `count`
    T part[LANES] = {};
    std::memcpy(part, from, count * sizeof(T));
    return load(part);
}

template <class T>
inline void store(T* to, F lanes, int count) {
    T part[LANES];
    store(part, lanes);
    std::memcpy(to, part, count * sizeof(T));
}

// Calls body(at, count) for every sixteen, then for the rest; `count` is a constant but for the rest.
template <class Body>
inline void each(int64_t begin, int64_t end, Body body) {
    int64_t at = begin;
    for (; at + LANES <= end; at += LANES) body(at, All());
    if (at < end) body(at, static_cast<int>(end - at));
}

template <class T>
inline F as_stored(F lanes) {
    return std::is_same<T, Bf16>::value ? bits_of<F>(rounded(lanes) << 16) : lanes;
}

template <class T>
inline float as_stored(float value) {
    return as_stored<T>(F{value})[0];
}

inline F kept(F lanes, All) { return lanes; }

inline F kept(F lanes, int count) {  // zeros behind the first `count`
    float part[LANES];
    store(part, lanes);
    return load(part, count);
}

// One number that storage can hold.
inline void put(float* to, float stored) { *to = stored; }
inline void put(Bf16* to, float stored) { to->bits = static_cast<uint16_t>(bits_of<uint32_t>(stored) >> 16); }

inline float value_of(float stored) { return stored; }
inline float value_of(Bf16 stored) { return bits_of<float>(static_cast<uint32_t>(stored.bits) << 16); }

inline float sum(F lanes) {
    Halves eight = bits_of<Halves>(lanes);
    Quarters four = bits_of<Quarters>(eight.low + eight.high);
    auto two = four.low + four.high;
    return (two[0] + two[1]) + (two[2] + two[3]);
}

// e^x = 2^n e^r with |r| <= ln(2)/2, by Taylor's series to r^7 (its rest is below 6e-9).
// ln(2) is in two parts, as Cody and Waite (1980) have it.
inline F exponential(F x) {
    const F least = F{} - 87.0f, most = F{} + 88.0f;
    x = x < least ? least : x;
    x = x > most ? most : x;
    F n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // adding 1.5 * 2^23 leaves no digit behind the point
    F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = r * (1 / 5040.0f) + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_of<F>((__builtin_convertvector(n, I) + 127) << 23);
}

// Starting and ending a parallel region takes 1 to 2 microseconds: fewer numbers than this are faster without.
constexpr int64_t WORTH_A_THREAD = 16384;
constexpr int64_t POWERS_WORTH_A_THREAD = 4096;

template <class Body>
inline void for_rows(int64_t rows, int64_t width, int64_t worthwhile, int threads, Body body) {
    if (threads == 1 || rows == 1 || rows * width < worthwhile) {
        for (int64_t row = 0; row < rows; ++row) body(row);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; ++row) body(row);
}

}  // namespace
