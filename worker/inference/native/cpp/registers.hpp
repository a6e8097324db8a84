// A register of float32 as wide as the CPU has them, and stored weights widened into it, exactly.
//
// lanes.hpp's sixteen numbers may be several registers; a product has to count them. Which levels of CPU there are is
// levels.py's; one without the instructions below has no product in float32 (MULTIPLIES).

#pragma once

#include "lanes.hpp"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__) && defined(__F16C__))
#define MULTIPLIES
#include <immintrin.h>
#elif defined(__aarch64__)
#define MULTIPLIES
#include <arm_neon.h>
#endif

namespace {

struct Fp16 {
    uint16_t bits;
};

// WIDTH numbers in a register, PARTS registers for the outputs of a panel.
#if defined(__AVX512F__)
constexpr int WIDTH = 16, PARTS = 2;
#elif defined(__AVX2__)
constexpr int WIDTH = 8, PARTS = 2;
#else
constexpr int WIDTH = 4, PARTS = 4;
#endif
constexpr int64_t PANEL = PARTS * WIDTH;

#ifdef MULTIPLIES
typedef float Register __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));

inline Register load_register(const float* from) {
    Register numbers;
    std::memcpy(&numbers, from, sizeof numbers);
    return numbers;
}

inline void store_register(float* to, Register numbers) { std::memcpy(to, &numbers, sizeof numbers); }

inline Register widen(const float* at) { return load_register(at); }

#if defined(__AVX512F__)
inline Register everywhere(float number) { return (Register)_mm512_set1_ps(number); }
inline Register widen(const Fp16* at) {
    return (Register)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
inline Register widen(const int8_t* at) {
    return (Register)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}
#elif defined(__AVX2__)
inline Register everywhere(float number) { return (Register)_mm256_set1_ps(number); }
inline Register widen(const Fp16* at) {
    return (Register)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
inline Register widen(const int8_t* at) {
    return (Register)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}
#else
inline Register everywhere(float number) { return (Register)vdupq_n_f32(number); }
inline Register widen(const Fp16* at) { return (Register)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&at->bits))); }
inline Register widen(const int8_t* at) {
    int32_t four;  // eight would be read past the last panel's end
    std::memcpy(&four, at, sizeof four);
    return (Register)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// The mask is read from memory: in a register it would push out a sum, which then costs the loop half of its speed.
alignas(32) const uint32_t UPPER[WIDTH] = {~0xffffu, ~0xffffu, ~0xffffu, ~0xffffu,
                                           ~0xffffu, ~0xffffu, ~0xffffu, ~0xffffu};
inline Bits upper_halves(Bits both) {
    asm("vpand %1, %0, %0" : "+x"(both) : "m"(UPPER));
    return both;
}
#else
inline Bits upper_halves(Bits both) { return both & 0xffff0000u; }
#endif

// Weights of one part's outputs, for the first or the second input of a pair. bfloat16 lies with both inputs of an
// output side by side, so that widening is a shift or a mask; the others with a panel's outputs for each input.
template <int INPUT>
inline Register weights_of(const Bf16* pair, int part) {
    Bits both;
    std::memcpy(&both, pair + 2 * WIDTH * part, sizeof both);
    return bits_of<Register>(INPUT == 0 ? both << 16 : upper_halves(both));
}

template <int INPUT, class Weight>
inline Register weights_of(const Weight* pair, int part) {
    return widen(pair + INPUT * PANEL + part * WIDTH);
}
#endif

}  // namespace
