// Stored weights widened into a register of float32, exactly.
//
// A CPU without the instructions below has no product in float32 (MULTIPLIES).

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

constexpr int PARTS = LANES == 4 ? 4 : 2;  // registers for the outputs of a panel
constexpr int64_t PANEL = PARTS * LANES;

#ifdef MULTIPLIES
inline Floats widen(const float* at) { return load(at); }

#if defined(__AVX512F__)
inline Floats everywhere(float number) { return (Floats)_mm512_set1_ps(number); }
inline Floats widen(const Fp16* at) {
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
inline Floats widen(const int8_t* at) {
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}
#elif defined(__AVX2__)
inline Floats everywhere(float number) { return (Floats)_mm256_set1_ps(number); }
inline Floats widen(const Fp16* at) {
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
inline Floats widen(const int8_t* at) {
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
}
#else
inline Floats everywhere(float number) { return (Floats)vdupq_n_f32(number); }
inline Floats widen(const Fp16* at) { return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&at->bits))); }
inline Floats widen(const int8_t* at) {
    int32_t four;  // eight would be read past the last panel's end
    std::memcpy(&four, at, sizeof four);
    return (Floats)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
#endif

#if defined(__AVX2__) && !defined(__AVX512F__)
// The mask is read from memory: in a register it would push out a sum, which then costs the loop half of its speed.
alignas(32) const uint32_t UPPER[LANES] = {~0xffffu, ~0xffffu, ~0xffffu, ~0xffffu,
                                           ~0xffffu, ~0xffffu, ~0xffffu, ~0xffffu};
inline Words upper_halves(Words both) {
    asm("vpand %1, %0, %0" : "+x"(both) : "m"(UPPER));
    return both;
}
#else
inline Words upper_halves(Words both) { return both & 0xffff0000u; }
#endif

// Weights of one part's outputs, for the first or the second input of a pair. bfloat16 lies with both inputs of an
// output side by side, so that widening is a shift or a mask; the others with a panel's outputs for each input.
template <int INPUT>
inline Floats weights_of(const Bf16* pair, int part) {
    Words both;
    std::memcpy(&both, pair + 2 * LANES * part, sizeof both);
    return bits_of<Floats>(INPUT == 0 ? both << 16 : upper_halves(both));
}

template <int INPUT, class Weight>
inline Floats weights_of(const Weight* pair, int part) {
    return widen(pair + INPUT * PANEL + part * LANES);
}
#endif

}  // namespace
