// Where the factors of LoRA are, and which rows use which of them.

#pragma once

#include "lanes.hpp"

namespace {

// Modules that share an input: a_SRI, and of each its b_RO and where its outputs lie in y. As rows.py's LoraSite.
constexpr int MOST_SECTIONS = 8;
struct LoraSite {
    const void* a;
    int64_t sections, columns, inputs;
    const void* b[MOST_SECTIONS];
    int64_t offsets[MOST_SECTIONS], widths[MOST_SECTIONS];
};

// As rows.py's LoraRows: which columns of the bank each row uses, of each section where `ranks_stride` is not 0.
struct LoraRows {
    const int32_t *begins, *ranks;
    int64_t ranks_stride, count;
};

// Rows of one adapter in one module: they share the reads of its factors. h_MR is what lies between the two.
struct LoraPart {
    int64_t section, begin, rank;
    const int32_t* rows;
    int64_t count;
    float* h;
};

}  // namespace
