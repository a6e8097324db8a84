// The products of rows and weights in panels, each for the threads of one team.

#pragma once

#include "panels.hpp"

#ifdef MULTIPLIES
extern "C" void multiply_f32(float* y, const float* x, const float* added, int64_t rows, const Panels* panels);
#endif
#ifdef __AVX512BF16__
extern "C" void multiply_bf16(Bf16* y, const Bf16* x, const Bf16* added, int64_t rows, const Panels* panels,
                              Bf16* apart);
#endif

namespace {

constexpr int64_t APART = 32;  // numbers between rows that would collide in the caches

// Gives x times the weights plus the bias, and plus `added` unless that is null; y is neither x nor `added`. `apart`
// has room for the rows, each with APART numbers more; it is one for all threads of the team. They do not wait for each
// other at the end.
#ifdef MULTIPLIES
inline void multiply(float* y, const float* x, const float* added, int64_t rows, const Panels& panels, float*) {
    multiply_f32(y, x, added, rows, &panels);
}
#endif
#ifdef __AVX512BF16__
inline void multiply(Bf16* y, const Bf16* x, const Bf16* added, int64_t rows, const Panels& panels, Bf16* apart) {
    multiply_bf16(y, x, added, rows, &panels, apart);
}
#endif

}  // namespace
