// The two products of LoRA for rows of one adapter: x times A transposed, and that, rounded to storage, times B.

#pragma once

#include <algorithm>

#include "lora_tiles.hpp"

namespace {

constexpr int64_t MOST_OUTPUTS = 1024;  // a chunk's sums of four rows fit in the first-level cache

// Dots of COLUMNS rows of `a`, which are the bank's columns, with x.
template <int COLUMNS, class Storage>
inline void dot(float* dots, const Storage* x, const Storage* a, int64_t inputs) {
    Floats sums[COLUMNS] = {};
    for_lanes(0, inputs, [&](int64_t at, auto count) {
        Floats lanes = load(x + at, count);
        for (int row = 0; row < COLUMNS; ++row) {
            __builtin_prefetch(a + (row + COLUMNS) * inputs + at);
            sums[row] += lanes * load(a + row * inputs + at, count);
        }
    });
    for (int row = 0; row < COLUMNS; ++row) dots[row] = sum(sums[row]);
}

#ifdef __AVX512BF16__
template <int COLUMNS>
inline void dot(float* dots, const Bf16* x, const Bf16* a, int64_t inputs) {
    __m512 sums[COLUMNS];
    for (int row = 0; row < COLUMNS; ++row) sums[row] = _mm512_setzero_ps();
    for (int64_t at = 0; at < inputs; at += 32) {
        __mmask32 mask = mask_of(inputs - at);
        __m512bh lanes = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + at);
        for (int row = 0; row < COLUMNS; ++row) {
            __m512bh factors = (__m512bh)_mm512_maskz_loadu_epi16(mask, a + row * inputs + at);
            __builtin_prefetch(a + (row + COLUMNS) * inputs + at);
            sums[row] = _mm512_dpbf16_ps(sums[row], lanes, factors);
        }
    }
    for (int row = 0; row < COLUMNS; ++row) dots[row] = sum(bits_of<Floats>(sums[row]));
}
#endif

// Columns [from, to) of a part's h.
template <class Storage>
void shrink(const LoraPart& part, int64_t from, int64_t to, const Storage* x, int64_t x_stride, const LoraSite& site) {
    const Storage* a = static_cast<const Storage*>(site.a) + (part.section * site.columns + part.begin) * site.inputs;
    for (int64_t column = from; column < to;) {
        int64_t step = to - column >= 4 ? 4 : 1;
        int64_t begin = step == 4 ? dot_rows(part, column, x, x_stride, a + column * site.inputs, site.inputs) : 0;
        for (int64_t row = 0; row < begin; ++row) {
            float* h = part.h + row * part.rank + column;
            for (int64_t at = 0; at < step; ++at) h[at] = as_stored<Storage>(h[at]);
        }
        for (int64_t row = begin; row < part.count; ++row) {
            const Storage* in = x + part.rows[row] * x_stride;
            float* h = part.h + row * part.rank + column;
            if (step == 4) dot<4>(h, in, a + column * site.inputs, site.inputs);
            else dot<1>(h, in, a + column * site.inputs, site.inputs);
            for (int64_t at = 0; at < step; ++at) h[at] = as_stored<Storage>(h[at]);
        }
        column += step;
    }
}

// Reads outputs as sums, and writes them back. Sums of an output chunk are float32, of bfloat16 pairwise in the order
// in which the CPU's unpacking leaves them.
template <class Storage>
inline void load_sums(float* sums, const Storage* y, int64_t width) {
    for_lanes(0, width, [&](int64_t at, auto count) { store(sums + at, load(y + at, count)); });
}

template <class Storage>
inline void store_sums(Storage* y, const float* sums, int64_t width) {
    for_lanes(0, width, [&](int64_t at, auto count) { store(y + at, load(sums + at), count); });
}

// Adds COLUMNS rows of b, weighted by h, to the sums of ROWS rows; `h_stride` and `sums_stride` lie between these.
template <int ROWS, int COLUMNS, class Storage>
inline void accumulate(float* sums, int64_t sums_stride, const float* h, int64_t h_stride, const Storage* b,
                       int64_t b_stride, int64_t width) {
    for_lanes(0, width, [&](int64_t at, auto count) {
        Floats factors[COLUMNS];
        for (int column = 0; column < COLUMNS; ++column) {
            __builtin_prefetch(b + (column + COLUMNS) * b_stride + at);
            factors[column] = load(b + column * b_stride + at, count);
        }
        for (int row = 0; row < ROWS; ++row) {
            Floats total = load(sums + row * sums_stride + at);
            for (int column = 0; column < COLUMNS; ++column) total += h[row * h_stride + column] * factors[column];
            store(sums + row * sums_stride + at, total);
        }
    });
}

#ifdef __AVX512BF16__
inline void load_sums(float* sums, const Bf16* y, int64_t width) {
    for (int64_t at = 0; at < width; at += 32) {
        __m512i low = _mm512_setzero_si512();
        __m512i lanes = _mm512_maskz_loadu_epi16(mask_of(width - at), y + at);
        store(sums + at, bits_of<Floats>(_mm512_unpacklo_epi16(low, lanes)));
        store(sums + at + LANES, bits_of<Floats>(_mm512_unpackhi_epi16(low, lanes)));
    }
}

inline void store_sums(Bf16* y, const float* sums, int64_t width) {
    for (int64_t at = 0; at < width; at += 32) {
        __m512i even = bits_of<__m512i>(round_to_bf16(load(sums + at)));
        __m512i odd = bits_of<__m512i>(round_to_bf16(load(sums + at + LANES)));
        _mm512_mask_storeu_epi16(y + at, mask_of(width - at), _mm512_packus_epi32(even, odd));
    }
}

// Two rows of b at a time: their numbers side by side are what dpbf16 multiplies by two of h.
template <int ROWS, int COLUMNS>
inline void accumulate(float* sums, int64_t sums_stride, const float* h, int64_t h_stride, const Bf16* b,
                       int64_t b_stride, int64_t width) {
    constexpr int PAIRS = (COLUMNS + 1) / 2;
    __m512bh pairs[ROWS][PAIRS];
    for (int row = 0; row < ROWS; ++row)
        for (int pair = 0; pair < PAIRS; ++pair) {
            const float* two = h + row * h_stride + 2 * pair;
            uint32_t second = 2 * pair + 1 < COLUMNS ? bits_of<uint32_t>(two[1]) : 0;
            pairs[row][pair] = (__m512bh)_mm512_set1_epi32(bits_of<uint32_t>(two[0]) >> 16 | second);
        }
    for (int64_t at = 0; at < width; at += 32) {
        __m512bh even[PAIRS];
        __m512bh odd[PAIRS];
        for (int pair = 0; pair < PAIRS; ++pair) {
            const Bf16* factors = b + 2 * pair * b_stride + at;
            __m512i one = _mm512_maskz_loadu_epi16(mask_of(width - at), factors);
            __m512i other = _mm512_setzero_si512();
            __builtin_prefetch(factors + COLUMNS * b_stride);
            if (2 * pair + 1 < COLUMNS) {
                other = _mm512_maskz_loadu_epi16(mask_of(width - at), factors + b_stride);
                __builtin_prefetch(factors + (COLUMNS + 1) * b_stride);
            }
            even[pair] = (__m512bh)_mm512_unpacklo_epi16(one, other);
            odd[pair] = (__m512bh)_mm512_unpackhi_epi16(one, other);
        }
        for (int row = 0; row < ROWS; ++row) {
            float* to = sums + row * sums_stride + at;
            __m512 evens = _mm512_loadu_ps(to);
            __m512 odds = _mm512_loadu_ps(to + LANES);
            for (int pair = 0; pair < PAIRS; ++pair) {
                evens = _mm512_dpbf16_ps(evens, pairs[row][pair], even[pair]);
                odds = _mm512_dpbf16_ps(odds, pairs[row][pair], odd[pair]);
            }
            _mm512_storeu_ps(to, evens);
            _mm512_storeu_ps(to + LANES, odds);
        }
    }
}
#endif

// The outputs of ROWS rows of a part, `width` of them from `at` on.
template <int ROWS, class Storage>
void expand_rows(const LoraPart& part, int64_t row, int64_t at, int64_t width, Storage* y, int64_t y_stride,
                 const LoraSite& site) {
    constexpr int64_t CHUNK = MOST_OUTPUTS;
    alignas(64) float sums[ROWS * CHUNK];
    int64_t outputs = site.widths[part.section];
    int64_t rank = part.rank;
    int64_t column = 0;
    const Storage* b = static_cast<const Storage*>(site.b[part.section]) + part.begin * outputs + at;
    const float* h = part.h + row * rank;
    Storage* places[ROWS];
    for (int which = 0; which < ROWS; ++which) {
        places[which] = y + part.rows[row + which] * y_stride + site.offsets[part.section] + at;
        load_sums(sums + which * CHUNK, places[which], width);
    }
    for (; column + 4 <= rank; column += 4)
        accumulate<ROWS, 4>(sums, CHUNK, h + column, rank, b + column * outputs, outputs, width);
    for (; column < rank; ++column)
        accumulate<ROWS, 1>(sums, CHUNK, h + column, rank, b + column * outputs, outputs, width);
    for (int which = 0; which < ROWS; ++which) store_sums(places[which], sums + which * CHUNK, width);
}

// Outputs [from, to) of a part: b is read in runs of a chunk, once for up to four rows; of many rows in tiles.
template <class Storage>
void expand(const LoraPart& part, int64_t from, int64_t to, Storage* y, int64_t y_stride, const LoraSite& site) {
    const int64_t begin = expand_tiles(part, from, to, y, y_stride, site);
    for (int64_t at = from; at < to; at += MOST_OUTPUTS)
        for (int64_t row = begin; row < part.count; row += 4) {
            int64_t width = std::min(MOST_OUTPUTS, to - at);
            int64_t left = part.count - row;
            if (left >= 4) expand_rows<4>(part, row, at, width, y, y_stride, site);
            else if (left == 3) expand_rows<3>(part, row, at, width, y, y_stride, site);
            else if (left == 2) expand_rows<2>(part, row, at, width, y, y_stride, site);
            else expand_rows<1>(part, row, at, width, y, y_stride, site);
        }
}

}  // namespace
