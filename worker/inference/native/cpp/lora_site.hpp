// Where the factors of LoRA are, and which rows use which of them.

#pragma once

#include "lanes.hpp"

namespace {

// Modules that share an input: a_LRI, and of each its b_RO and where its outputs lie in y. As rows.py's LoraSite.
constexpr int MOST_SECTIONS = 8;
struct LoraSite {
    const void* a;
    int64_t sections;
    int64_t columns;
    int64_t inputs;
    const void* b[MOST_SECTIONS];
    int64_t offsets[MOST_SECTIONS];
    int64_t widths[MOST_SECTIONS];
};

// As rows.py's LoraRows: which columns of the bank each row uses, of each section where `ranks_stride` is not 0.
struct LoraRows {
    const int32_t* begins;
    const int32_t* ranks;
    int64_t ranks_stride;
    int64_t count;
};

// Rows of one adapter in one module: they share the reads of its factors. h, of `count` times `rank` numbers, is what
// lies between the two.
struct LoraPart {
    int64_t section;
    int64_t begin;
    int64_t rank;
    const int32_t* rows;
    int64_t count;
    float* h;
};

}  // namespace
