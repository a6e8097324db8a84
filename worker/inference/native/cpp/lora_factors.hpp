// The two products of LoRA for rows of one adapter: x times A transposed, and that, rounded to storage, times B.

#pragma once

#include <algorithm>

#include "lora_site.hpp"
#include "lora_tiles.hpp"

namespace {

constexpr int64_t MOST_OUTPUTS = 1024;  // a chunk's sums of four rows fit in the first-level cache

// Dots of C rows of `a` with x.
template <int C, class T>
inline void dot(float* dots, const T* x, const T* a, int64_t inputs) {
    F sums[C] = {};
    each(0, inputs, [&](int64_t at, auto count) {
        F lanes = load(x + at, count);
        for (int row = 0; row < C; ++row) sums[row] += lanes * load(a + row * inputs + at, count);
    });
    for (int row = 0; row < C; ++row) dots[row] = sum(sums[row]);
}

#ifdef __AVX512BF16__
template <int C>
inline void dot(float* dots, const Bf16* x, const Bf16* a, int64_t inputs) {
    __m512 sums[C];
    for (int row = 0; row < C; ++row) sums[row] = _mm512_setzero_ps();
    for (int64_t at = 0; at < inputs; at += 32) {
        __mmask32 mask = first(inputs - at);
        __m512bh lanes = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + at);
        for (int row = 0; row < C; ++row) {
            __m512bh factors = (__m512bh)_mm512_maskz_loadu_epi16(mask, a + row * inputs + at);
            __builtin_prefetch(a + (row + C) * inputs + at);
            sums[row] = _mm512_dpbf16_ps(sums[row], lanes, factors);
        }
    }
    for (int row = 0; row < C; ++row) dots[row] = sum(bits_of<F>(sums[row]));
}
#endif

// Columns [from, to) of a part's h.
template <class T>
void shrink(const LoraPart& part, int64_t from, int64_t to, const T* x, int64_t x_stride, const LoraSite& site) {
    const T* a = static_cast<const T*>(site.a) + (part.section * site.columns + part.begin) * site.inputs;
    for (int64_t column = from; column < to;) {
        int64_t step = to - column >= 4 ? 4 : 1;
        int64_t begin = step == 4 ? dot_rows(part, column, x, x_stride, a + column * site.inputs, site.inputs) : 0;
        for (int64_t row = 0; row < begin; ++row) {
            float* h = part.h + row * part.rank + column;
            for (int64_t at = 0; at < step; ++at) h[at] = as_stored<T>(h[at]);
        }
        for (int64_t row = begin; row < part.count; ++row) {
            const T* in = x + part.rows[row] * x_stride;
            float* h = part.h + row * part.rank + column;
            if (step == 4) dot<4>(h, in, a + column * site.inputs, site.inputs);
            else dot<1>(h, in, a + column * site.inputs, site.inputs);
            for (int64_t at = 0; at < step; ++at) h[at] = as_stored<T>(h[at]);
        }
        column += step;
    }
}

// Sums of an output chunk are float32, of bfloat16 pairwise in the order in which the CPU's unpacking leaves them.
template <class T>
inline void take_up(float* sums, const T* y, int64_t width) {
    each(0, width, [&](int64_t at, auto count) { store(sums + at, load(y + at, count)); });
}

template <class T>
inline void put_down(T* y, const float* sums, int64_t width) {
    each(0, width, [&](int64_t at, auto count) { store(y + at, load(sums + at), count); });
}

// Adds C rows of b, weighted by h, to the sums of M rows; `h_stride` and `sums_stride` lie between these.
template <int M, int C, class T>
inline void weigh(float* sums, int64_t sums_stride, const float* h, int64_t h_stride, const T* b, int64_t b_stride,
                  int64_t width) {
    each(0, width, [&](int64_t at, auto count) {
        F factors[C];
        for (int column = 0; column < C; ++column) factors[column] = load(b + column * b_stride + at, count);
        for (int row = 0; row < M; ++row) {
            F total = load(sums + row * sums_stride + at);
            for (int column = 0; column < C; ++column) total += h[row * h_stride + column] * factors[column];
            store(sums + row * sums_stride + at, total);
        }
    });
}

#ifdef __AVX512BF16__
inline void take_up(float* sums, const Bf16* y, int64_t width) {
    for (int64_t at = 0; at < width; at += 32) {
        __m512i low = _mm512_setzero_si512(), lanes = _mm512_maskz_loadu_epi16(first(width - at), y + at);
        store(sums + at, bits_of<F>(_mm512_unpacklo_epi16(low, lanes)));
        store(sums + at + LANES, bits_of<F>(_mm512_unpackhi_epi16(low, lanes)));
    }
}

inline void put_down(Bf16* y, const float* sums, int64_t width) {
    for (int64_t at = 0; at < width; at += 32) {
        __m512i even = bits_of<__m512i>(rounded(load(sums + at)));
        __m512i odd = bits_of<__m512i>(rounded(load(sums + at + LANES)));
        _mm512_mask_storeu_epi16(y + at, first(width - at), _mm512_packus_epi32(even, odd));
    }
}

// Two rows of b at a time: their numbers side by side are what dpbf16 multiplies by two of h.
template <int M, int C>
inline void weigh(float* sums, int64_t sums_stride, const float* h, int64_t h_stride, const Bf16* b, int64_t b_stride,
                  int64_t width) {
    constexpr int PAIRS = (C + 1) / 2;
    __m512bh pairs[M][PAIRS];
    for (int row = 0; row < M; ++row)
        for (int pair = 0; pair < PAIRS; ++pair) {
            const float* of = h + row * h_stride + 2 * pair;
            uint32_t second = 2 * pair + 1 < C ? bits_of<uint32_t>(of[1]) : 0;
            pairs[row][pair] = (__m512bh)_mm512_set1_epi32(bits_of<uint32_t>(of[0]) >> 16 | second);
        }
    for (int64_t at = 0; at < width; at += 32) {
        __m512bh even[PAIRS], odd[PAIRS];
        for (int pair = 0; pair < PAIRS; ++pair) {
            const Bf16* factors = b + 2 * pair * b_stride + at;
            __m512i one = _mm512_maskz_loadu_epi16(first(width - at), factors), other = _mm512_setzero_si512();
            __builtin_prefetch(factors + C * b_stride);
            if (2 * pair + 1 < C) {
                other = _mm512_maskz_loadu_epi16(first(width - at), factors + b_stride);
                __builtin_prefetch(factors + (C + 1) * b_stride);
            }
            even[pair] = (__m512bh)_mm512_unpacklo_epi16(one, other);
            odd[pair] = (__m512bh)_mm512_unpackhi_epi16(one, other);
        }
        for (int row = 0; row < M; ++row) {
            float* to = sums + row * sums_stride + at;
            __m512 evens = _mm512_loadu_ps(to), odds = _mm512_loadu_ps(to + LANES);
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

// The outputs of M rows of a part, `width` of them from `at` on.
template <int M, class T>
void expand_rows(const LoraPart& part, int64_t row, int64_t at, int64_t width, T* y, int64_t y_stride,
                 const LoraSite& site) {
    constexpr int64_t CHUNK = MOST_OUTPUTS;
    alignas(64) float sums[M * CHUNK];
    int64_t outputs = site.widths[part.section], rank = part.rank, column = 0;
    const T* b = static_cast<const T*>(site.b[part.section]) + part.begin * outputs + at;
    const float* h = part.h + row * rank;
    T* places[M];
    for (int which = 0; which < M; ++which) {
        places[which] = y + part.rows[row + which] * y_stride + site.offsets[part.section] + at;
        take_up(sums + which * CHUNK, places[which], width);
    }
    for (; column + 4 <= rank; column += 4)
        weigh<M, 4>(sums, CHUNK, h + column, rank, b + column * outputs, outputs, width);
    for (; column < rank; ++column)
        weigh<M, 1>(sums, CHUNK, h + column, rank, b + column * outputs, outputs, width);
    for (int which = 0; which < M; ++which) put_down(places[which], sums + which * CHUNK, width);
}

// Outputs [from, to) of a part: b is read in runs of a chunk, once for up to four rows; of many rows in tiles.
template <class T>
void expand(const LoraPart& part, int64_t from, int64_t to, T* y, int64_t y_stride, const LoraSite& site) {
    const int64_t begin = expand_tiles(part, from, to, y, y_stride, site);
    for (int64_t at = from; at < to; at += MOST_OUTPUTS)
        for (int64_t row = begin; row < part.count; row += 4) {
            int64_t width = std::min(MOST_OUTPUTS, to - at), left = part.count - row;
            if (left >= 4) expand_rows<4>(part, row, at, width, y, y_stride, site);
            else if (left == 3) expand_rows<3>(part, row, at, width, y, y_stride, site);
            else if (left == 2) expand_rows<2>(part, row, at, width, y, y_stride, site);
            else expand_rows<1>(part, row, at, width, y, y_stride, site);
        }
}

}  // namespace
