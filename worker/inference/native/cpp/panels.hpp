// A layer's weights as panels.py's Panels has them, outputs side by side, and the products of rows with them, each for
// the threads of one team.
//
// How products are computed is not known here.

#pragma once

#include "registers.hpp"

namespace {

// As panels.py numbers them.
enum Kind : int32_t { OF_BF16, OF_FP16, OF_INT8 };

constexpr int64_t GROUP = 128;  // inputs that share a scale, where rows are in float32; the last may be fewer

struct Panels {
    const void* weights;
    const float* scale;  // of each output, padded to whole panels, for one group of inputs after another; null: none
    const void* bias;    // in the type of the results; null: none
    int64_t inputs;
    int64_t outputs;
    int32_t kind;
};

// Where a panel's outputs go, and what is added to them there.
template <class Storage>
struct Outputs {
    Storage* y;
    const Storage* added;  // null: nothing
    int64_t stride;
    int64_t begin;
    int64_t width;
};

template <class Storage>
inline Outputs<Storage> outputs_of(int64_t panel, Storage* y, const Storage* added, int64_t outputs) {
    const int64_t begin = panel * PANEL;
    return {y, added, outputs, begin, outputs - begin < PANEL ? outputs - begin : PANEL};
}

}  // namespace

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
