// A layer's weights as panels.py's Panels has them: outputs side by side, and where a product's results go.
//
// What is computed with them is not known here.

#pragma once

#include "registers.hpp"

namespace {

// As panels.py numbers them.
enum Kind : int32_t { OF_BF16, OF_FP16, OF_INT8 };

struct Panels {
    const void* weights;
    const float* scale;  // of each output; null: none
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
