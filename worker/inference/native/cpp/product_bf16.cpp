// Rows times a layer's weights, which lie in panels as panels.py's Panels has them: 32 outputs side by side, of two
// inputs after each other, so that dpbf16 takes two inputs of sixteen outputs at once and no sum crosses lanes.
//
// Each sum runs over the inputs in their order, however many rows there are: a row's result does not depend on others.

#ifdef __AVX512BF16__  // before anything is included, as that is what takes long to compile
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "panels.hpp"
#include "team.hpp"

namespace {

constexpr int MOST_ROWS = 14;    // 28 registers hold their sums, two the weights
constexpr int WAITING_ROWS = 8;  // so few wait for memory, and it has to be asked early
constexpr int64_t AHEAD = 2048;  // bytes
// Rows whose beginnings are a multiple of so many inputs apart share few sets of the first-level cache: they are moved.
constexpr int64_t COLLIDING = 512;

// Two inputs of the first and of the last sixteen outputs.
struct Pair {
    __m512bh low;
    __m512bh high;
};

inline Pair load_pair(const Bf16* at) {
    return {(__m512bh)_mm512_loadu_si512(at), (__m512bh)_mm512_loadu_si512(at + PANEL)};
}

inline __m512bh widen_to_bf16(const int8_t* at) {  // exact: bfloat16 keeps 8 bits
    __m512 first = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
    __m512 last =
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + LANES))));
    return _mm512_cvtne2ps_pbh(last, first);
}

inline Pair load_pair(const int8_t* at) { return {widen_to_bf16(at), widen_to_bf16(at + PANEL)}; }

inline void store_outputs(Floats total, const Panels& panels, const Outputs<Bf16>& to, int64_t row, int64_t lane) {
    if (to.width <= lane) return;
    int64_t output = to.begin + lane;
    int64_t at = row * to.stride + output;
    __mmask16 mask = to.width - lane >= LANES ? 0xffff : (1u << (to.width - lane)) - 1;
    if (panels.scale) total *= load(panels.scale + output);
    if (panels.bias) total += load(static_cast<const Bf16*>(panels.bias) + output);
    if (to.added)
        total += bits_of<Floats>(widen(bits_of<HalfWords>(_mm256_maskz_loadu_epi16(mask, to.added + at))) << 16);
    _mm256_mask_storeu_epi16(to.y + at, mask, (__m256i)_mm512_cvtneps_pbh(bits_of<__m512>(total)));
}

// ROWS rows from `row` on, times one panel.
template <class Weight, int ROWS>
void multiply_rows(const Bf16* x, int64_t x_stride, int64_t row, const Weight* panel, const Panels& panels,
                   const Outputs<Bf16>& to) {
    __m512 sums[ROWS][2];
    const Bf16* from[ROWS];
    for (int which = 0; which < ROWS; ++which) {
        sums[which][0] = sums[which][1] = _mm512_setzero_ps();
        from[which] = x + (row + which) * x_stride;
    }
    for (int64_t input = 0; input < panels.inputs; input += 2) {
        const Weight* at = panel + input * PANEL;
        if (ROWS <= WAITING_ROWS)
            for (size_t line = 0; line < 2 * PANEL * sizeof(Weight); line += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(at) + AHEAD + line);
        Pair weights = load_pair(at);
        for (int which = 0; which < ROWS; ++which) {
            int32_t two;
            std::memcpy(&two, from[which] + input, sizeof two);
            __m512bh both = (__m512bh)_mm512_set1_epi32(two);
            sums[which][0] = _mm512_dpbf16_ps(sums[which][0], weights.low, both);
            sums[which][1] = _mm512_dpbf16_ps(sums[which][1], weights.high, both);
        }
    }
    alignas(64) float totals[ROWS][PANEL];
#pragma GCC unroll 16  // a loop that stays one would keep the sums in memory all the time
    for (int which = 0; which < ROWS; ++which) {
        _mm512_store_ps(totals[which], sums[which][0]);
        _mm512_store_ps(totals[which] + LANES, sums[which][1]);
    }
    for (int which = 0; which < ROWS; ++which)
        for (int64_t lane = 0; lane < PANEL; lane += LANES)
            store_outputs(load(totals[which] + lane), panels, to, row + which, lane);
}

template <class Weight>
using MultiplyRows = void (*)(const Bf16*, int64_t, int64_t, const Weight*, const Panels&, const Outputs<Bf16>&);

template <class Weight, int... ROWS>
constexpr std::array<MultiplyRows<Weight>, sizeof...(ROWS)> for_each_row_count(std::integer_sequence<int, ROWS...>) {
    return {multiply_rows<Weight, ROWS + 1>...};
}

// All rows times one panel, in runs of nearly the same length.
template <class Weight>
void multiply_panel(const Bf16* x, int64_t x_stride, int64_t rows, const Weight* panel, const Panels& panels,
                    const Outputs<Bf16>& to) {
    static constexpr auto multiply = for_each_row_count<Weight>(std::make_integer_sequence<int, MOST_ROWS>());
    int64_t runs = (rows + MOST_ROWS - 1) / MOST_ROWS;
    for (int64_t run = 0; run < runs; ++run) {
        int64_t row = rows * run / runs;
        int64_t end = rows * (run + 1) / runs;
        multiply[end - row - 1](x, x_stride, row, panel, panels, to);
    }
}

// Many rows read a panel of 8 bits more than once: it is widened for them first.
void widen_and_multiply(const Bf16* x, int64_t x_stride, int64_t rows, const int8_t* panel, const Panels& panels,
                        const Outputs<Bf16>& to) {
    if (rows <= MOST_ROWS) return multiply_panel(x, x_stride, rows, panel, panels, to);
    static thread_local std::vector<Bf16> wide;
    wide.resize(PANEL * panels.inputs);
    for (int64_t at = 0; at < PANEL * panels.inputs; at += PANEL)
        _mm512_storeu_si512(wide.data() + at, (__m512i)widen_to_bf16(panel + at));
    multiply_panel(x, x_stride, rows, wide.data(), panels, to);
}

}  // namespace

extern "C" void multiply_bf16(Bf16* y, const Bf16* x, const Bf16* added, int64_t rows, const Panels* of, Bf16* apart) {
    const Panels& panels = *of;
    const bool collide = rows > 1 && panels.inputs % COLLIDING == 0;
    const int64_t stride = panels.inputs + (collide ? APART : 0);
    if (collide)
        share(rows, [=, &panels](int64_t row) {
            std::memcpy(apart + row * stride, x + row * panels.inputs, panels.inputs * sizeof(Bf16));
        });
    const Bf16* from = collide ? apart : x;
    share((panels.outputs + PANEL - 1) / PANEL, [=, &panels](int64_t panel) {
        const int64_t at = panel * PANEL * panels.inputs;
        const auto to = outputs_of(panel, y, added, panels.outputs);
        if (panels.kind == OF_INT8)
            widen_and_multiply(from, stride, rows, static_cast<const int8_t*>(panels.weights) + at, panels, to);
        else multiply_panel(from, stride, rows, static_cast<const Bf16*>(panels.weights) + at, panels, to);
    });
}

extern "C" void product_bf16(Bf16* y, const Bf16* x, const Bf16* added, int64_t rows, const Panels* panels,
                             int threads) {
    static thread_local std::vector<Bf16> apart;
    apart.resize(std::max<size_t>(apart.size(), rows * (panels->inputs + APART)));
    with_team(threads, panels->inputs * panels->outputs >= WORTH_A_THREAD,
              [=, between = apart.data()] { multiply_bf16(y, x, added, rows, panels, between); });
}
#endif
