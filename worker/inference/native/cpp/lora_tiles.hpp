// Where the factors of LoRA are and which rows use them; and their products for many rows of one adapter, in tiles
// whose sums stay in registers: where the CPU multiplies bfloat16, none elsewhere.

#pragma once

#include <algorithm>
#include <vector>

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

#ifdef __AVX512BF16__
inline __mmask32 mask_of(int64_t count) { return count >= 32 ? 0xffffffffu : (1u << count) - 1; }
#endif

// Dots of four rows of `a` with each of as many rows of x as can be taken at once; gives how many rows that were.
template <class Storage>
inline int64_t dot_rows(const LoraPart&, int64_t, const Storage*, int64_t, const Storage*, int64_t) {
    return 0;
}

#ifdef __AVX512BF16__
inline int64_t dot_rows(const LoraPart& part, int64_t column, const Bf16* x, int64_t x_stride, const Bf16* a,
                        int64_t inputs) {
    int64_t row = 0;
    for (; row + 4 <= part.count; row += 4) {
        const Bf16* from[4];
        __m512 sums[4][4];
        for (int which = 0; which < 4; ++which) {
            from[which] = x + part.rows[row + which] * x_stride;
            for (int other = 0; other < 4; ++other) sums[which][other] = _mm512_setzero_ps();
        }
        for (int64_t at = 0; at < inputs; at += 32) {
            __mmask32 mask = mask_of(inputs - at);
            __m512bh factors[4];
            for (int other = 0; other < 4; ++other)
                factors[other] = (__m512bh)_mm512_maskz_loadu_epi16(mask, a + other * inputs + at);
            for (int which = 0; which < 4; ++which) {
                __m512bh lanes = (__m512bh)_mm512_maskz_loadu_epi16(mask, from[which] + at);
                for (int other = 0; other < 4; ++other)
                    sums[which][other] = _mm512_dpbf16_ps(sums[which][other], lanes, factors[other]);
            }
        }
#pragma GCC unroll 4
        for (int which = 0; which < 4; ++which)
#pragma GCC unroll 4
            for (int other = 0; other < 4; ++other)
                part.h[(row + which) * part.rank + column + other] = sum(bits_of<Floats>(sums[which][other]));
    }
    return row;
}
#endif

#ifdef __AVX512BF16__
constexpr int TILE_ROWS = 8;

// 32 outputs of ROWS rows of a part from `at` on, `width` of them: the sums stay in registers. `pairs` has two of a
// row's h for every two columns.
template <int ROWS>
inline void expand_tile(const LoraPart& part, int64_t row, int64_t at, int64_t width, const uint32_t* pairs, Bf16* y,
                        int64_t y_stride, const LoraSite& site) {
    const int64_t outputs = site.widths[part.section];
    const int64_t rank = part.rank;
    const __mmask32 mask = mask_of(width);
    const __m512i zero = _mm512_setzero_si512();
    const Bf16* b = static_cast<const Bf16*>(site.b[part.section]) + part.begin * outputs + at;
    __m512 even[ROWS];
    __m512 odd[ROWS];
    Bf16* places[ROWS];
    for (int which = 0; which < ROWS; ++which) {
        places[which] = y + part.rows[row + which] * y_stride + site.offsets[part.section] + at;
        __m512i lanes = _mm512_maskz_loadu_epi16(mask, places[which]);
        even[which] = (__m512)_mm512_unpacklo_epi16(zero, lanes);
        odd[which] = (__m512)_mm512_unpackhi_epi16(zero, lanes);
    }
    for (int64_t column = 0; column < rank; column += 2) {
        __m512i one = _mm512_maskz_loadu_epi16(mask, b + column * outputs);
        __m512i other = _mm512_maskz_loadu_epi16(column + 1 < rank ? mask : 0, b + (column + 1) * outputs);
        __m512bh low = (__m512bh)_mm512_unpacklo_epi16(one, other);
        __m512bh high = (__m512bh)_mm512_unpackhi_epi16(one, other);
        for (int which = 0; which < ROWS; ++which) {
            __m512bh both = (__m512bh)_mm512_set1_epi32(pairs[column / 2 * TILE_ROWS + which]);
            even[which] = _mm512_dpbf16_ps(even[which], both, low);
            odd[which] = _mm512_dpbf16_ps(odd[which], both, high);
        }
    }
#pragma GCC unroll 8
    for (int which = 0; which < ROWS; ++which) {
        __m512i low = bits_of<__m512i>(round_to_bf16(bits_of<Floats>(even[which])));
        __m512i high = bits_of<__m512i>(round_to_bf16(bits_of<Floats>(odd[which])));
        _mm512_mask_storeu_epi16(places[which], mask, _mm512_packus_epi32(low, high));
    }
}

// As expand, of whole runs of TILE_ROWS rows; gives how many rows that are.
inline int64_t expand_tiles(const LoraPart& part, int64_t from, int64_t to, Bf16* y, int64_t y_stride,
                            const LoraSite& site) {
    static thread_local std::vector<uint32_t> pairs;
    pairs.resize((part.rank + 1) / 2 * TILE_ROWS);
    int64_t row = 0;
    for (; row + TILE_ROWS <= part.count; row += TILE_ROWS) {
        for (int64_t column = 0; column < part.rank; column += 2)
            for (int which = 0; which < TILE_ROWS; ++which) {
                const float* h = part.h + (row + which) * part.rank + column;
                uint32_t second = column + 1 < part.rank ? bits_of<uint32_t>(h[1]) : 0;
                pairs[column / 2 * TILE_ROWS + which] = bits_of<uint32_t>(h[0]) >> 16 | second;
            }
        for (int64_t at = from; at < to; at += 32)
            expand_tile<TILE_ROWS>(part, row, at, std::min<int64_t>(32, to - at), pairs.data(), y, y_stride, site);
    }
    return row;
}
#endif

template <class Storage>
int64_t expand_tiles(const LoraPart&, int64_t, int64_t, Storage*, int64_t, const LoraSite&) {
    return 0;
}

}  // namespace
