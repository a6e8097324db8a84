// As many numbers at a time as a register of the CPU holds, read from storage and rounded to it.
//
// Storage is bfloat16 or float32, arithmetic is float32. What is computed is not known here. Which levels of CPU there
// are is levels.py's.

#pragma once

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
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint16_t HalfWords __attribute__((vector_size(2 * LANES)));
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
inline Words widen(HalfWords half) { return bits_of<Words>(_mm512_cvtepu16_epi32(bits_of<__m256i>(half))); }
inline HalfWords narrow(Words lanes) { return bits_of<HalfWords>(_mm512_cvtepi32_epi16(bits_of<__m512i>(lanes))); }
#else
inline Words widen(HalfWords half) { return __builtin_convertvector(half, Words); }
inline HalfWords narrow(Words lanes) { return __builtin_convertvector(lanes, HalfWords); }
#endif

inline Floats load(const float* from, All = {}) {
    Floats lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline Floats load(const Bf16* from, All = {}) {
    HalfWords half;
    std::memcpy(&half, from, sizeof half);
    return bits_of<Floats>(widen(half) << 16);
}

// To the nearest, ties to even. What is no number stays none: adding could carry its bits round to zero.
inline Words round_to_bf16(Floats lanes) {
    Words bits = bits_of<Words>(lanes);
    Words near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    Words none = bits_of<Words>((bits & 0x7fffffffu) > 0x7f800000u);
    return (near & ~none) | (0x7fc0u & none);
}

inline void store(float* to, Floats lanes, All = {}) { std::memcpy(to, &lanes, sizeof lanes); }

inline void store(Bf16* to, Floats lanes, All = {}) {
    HalfWords half = narrow(round_to_bf16(lanes));
    std::memcpy(to, &half, sizeof half);
}

template <class Storage>
inline Floats load(const Storage* from, int count) {  // zeros behind the first `count`
    Storage part[LANES] = {};
    std::memcpy(part, from, count * sizeof(Storage));
    return load(part);
}

template <class Storage>
inline void store(Storage* to, Floats lanes, int count) {
    Storage part[LANES];
    store(part, lanes);
    std::memcpy(to, part, count * sizeof(Storage));
}

// Calls body(at, count) for every full register, then for the rest; `count` is a constant but for the rest.
template <class Body>
inline void for_lanes(int64_t begin, int64_t end, Body body) {
    int64_t at = begin;
    for (; at + LANES <= end; at += LANES) body(at, All());
    if (at < end) body(at, static_cast<int>(end - at));
}

template <class Storage>
inline Floats as_stored(Floats lanes) {
    return std::is_same<Storage, Bf16>::value ? bits_of<Floats>(round_to_bf16(lanes) << 16) : lanes;
}

template <class Storage>
inline float as_stored(float value) {
    return as_stored<Storage>(Floats{value})[0];
}

inline Floats zero_rest(Floats lanes, All) { return lanes; }

inline Floats zero_rest(Floats lanes, int count) {  // zeros behind the first `count`
    float part[LANES];
    store(part, lanes);
    return load(part, count);
}

// One number that storage can hold.
inline void store_one(float* to, float stored) { *to = stored; }
inline void store_one(Bf16* to, float stored) { to->bits = static_cast<uint16_t>(bits_of<uint32_t>(stored) >> 16); }

inline float to_float(float stored) { return stored; }
inline float to_float(Bf16 stored) { return bits_of<float>(static_cast<uint32_t>(stored.bits) << 16); }

inline float sum(Floats lanes) {
    float part[LANES];
    store(part, lanes);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) part[lane] += part[lane + half];
    return part[0];
}

inline float largest(const float* numbers, int64_t count) {  // of one at least
    Floats most = Floats{} + numbers[0];
    for_lanes(0, count / LANES * LANES, [&](int64_t at, auto) {
        Floats lanes = load(numbers + at);
        most = lanes > most ? lanes : most;
    });
    float found = most[0];
    for (int lane = 1; lane < LANES; ++lane) found = most[lane] > found ? most[lane] : found;
    for (int64_t at = count / LANES * LANES; at < count; ++at) found = numbers[at] > found ? numbers[at] : found;
    return found;
}

// e^x = 2^n e^r with |r| <= ln(2)/2, by Taylor's series to r^7 (its rest is below 6e-9).
// ln(2) is in two parts, as Cody and Waite (1980) have it.
inline Floats exponential(Floats x) {
    const Floats least = Floats{} - 87.0f;
    const Floats most = Floats{} + 88.0f;
    x = x < least ? least : x;
    x = x > most ? most : x;
    Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // adding 1.5 * 2^23 leaves no digit behind the point
    Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = r * (1 / 5040.0f) + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_of<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
}

}  // namespace
