// Rows times a layer's weights in panels, in float32 whatever the weights are stored in.
//
// Each sum runs over the inputs in their order, however many rows there are: a row's result does not depend on others.

#include <algorithm>
#include <array>
#include <utility>

#include "panels.hpp"
#include "team.hpp"

#ifdef MULTIPLIES
namespace {

constexpr int MOST_ROWS = LANES == 16 ? 8 : LANES == 8 ? 6 : 4;  // sums of more would not stay in registers
constexpr int64_t WAITING_ROWS = 16;                             // so few wait for memory, and it has to be asked early
constexpr int SUMS_AT_ONCE = 8;  // registers of them: each is added to twice while one addition lasts
constexpr int64_t BLOCK = 640;   // inputs for which a panel stays in the caches next to the core
static_assert(BLOCK % GROUP == 0);
constexpr int64_t CHUNK = 192;  // rows whose inputs of one block do

// Sums of MOST_ROWS rows for the outputs of a panel.
struct alignas(64) Totals {
    float of[MOST_ROWS][PANEL];
};

template <int INPUT, class Weight, int ROWS>
inline __attribute__((always_inline)) void add_products(Floats (&sums)[ROWS][PARTS], const float* x, int64_t x_stride,
                                                        const Weight* pair) {
    Floats weights[PARTS];
#pragma GCC unroll 4
    for (int part = 0; part < PARTS; ++part) weights[part] = weights_of<INPUT>(pair, part);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row) {
        Floats number = everywhere(x[row * x_stride + INPUT]);
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) sums[row][part] += weights[part] * number;
    }
    asm volatile("" ::: "memory");  // weights widened for the next input would push sums out of their registers
}

// What is asked for while something else is computed, into the second-level cache: `pace` bytes for each pair of
// inputs. Memory that is asked for all at once keeps everything waiting. Null: nothing is.
struct Ahead {
    const char* from;
    int64_t pace;
};

// ROWS rows times a panel's weights of some inputs.
template <class Weight, int ROWS>
void multiply_rows(Totals& totals, const float* x, int64_t x_stride, const Weight* panel, int64_t inputs, Ahead ahead) {
    Floats sums[ROWS][PARTS];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) sums[row][part] = load(totals.of[row] + part * LANES);
    for (int64_t input = 0; input < inputs; input += 2) {
        const Weight* pair = panel + input * PANEL;
        if (ahead.from) {
            for (size_t line = 0; line < 2 * PANEL * sizeof(Weight); line += 64)
                __builtin_prefetch(ahead.from + line, 0, 2);
            ahead.from += ahead.pace;
        }
        add_products<0>(sums, x + input, x_stride, pair);
        add_products<1>(sums, x + input, x_stride, pair);
    }
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) store(totals.of[row] + part * LANES, sums[row][part]);
}

template <class Weight>
using MultiplyRows = void (*)(Totals&, const float*, int64_t, const Weight*, int64_t, Ahead);

template <class Weight, int... ROWS>
constexpr std::array<MultiplyRows<Weight>, sizeof...(ROWS)> for_each_row_count(std::integer_sequence<int, ROWS...>) {
    return {multiply_rows<Weight, ROWS + 1>...};
}

// What is summed up so far lies where the results will.
inline void resume(Totals& totals, const Outputs<float>& to, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
        std::memcpy(totals.of[row - first], to.y + row * to.stride + to.begin, to.width * sizeof(float));
}

inline void pause(const Totals& totals, const Outputs<float>& to, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
        std::memcpy(to.y + row * to.stride + to.begin, totals.of[row - first], to.width * sizeof(float));
}

inline void finish(Totals& totals, const Panels& panels, const Outputs<float>& to, int64_t first, int64_t last) {
    const float* bias = static_cast<const float*>(panels.bias);
    for (int64_t row = first; row < last; ++row) {
        float* of = totals.of[row - first];
        const int64_t at = row * to.stride + to.begin;
        if (bias)
            for (int64_t lane = 0; lane < PANEL; ++lane) of[lane] += bias[to.begin + lane];
        if (to.added)
            for (int64_t lane = 0; lane < to.width; ++lane) of[lane] += to.added[at + lane];
        std::memcpy(to.y + at, of, to.width * sizeof(float));
    }
}

// The scales of a panel's outputs for the group of inputs that begins at one.
inline const float* scales_of(const Panels& panels, int64_t input, int64_t output) {
    return panels.scale + input / GROUP * ((panels.outputs + PANEL - 1) / PANEL * PANEL) + output;
}

inline void add_scaled(Totals& totals, const Totals& of_group, const float* scales, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t lane = 0; lane < PANEL; ++lane) totals.of[row][lane] += of_group.of[row][lane] * scales[lane];
}

// Some of the rows and of the inputs of a product; x, y and so on are those of all. Inputs begin with a group.
struct Part {
    int64_t row;
    int64_t rows;
    int64_t begin;
    int64_t end;
};

// A part of the rows times a panel's weights, in runs of nearly the same length, which all ask for some of what lies
// `ahead`, as much as these weights; null: nothing is asked for.
template <class Weight>
void multiply_panel(const float* x, const Part& part, const Weight* weights, const Weight* ahead, const Panels& panels,
                    const Outputs<float>& to) {
    static constexpr auto multiply = for_each_row_count<Weight>(std::make_integer_sequence<int, MOST_ROWS>());
    const int64_t runs = (part.rows + MOST_ROWS - 1) / MOST_ROWS;
    const int64_t inputs = part.end - part.begin;
    const int64_t pace = static_cast<int64_t>(2 * PANEL * sizeof(Weight)) / runs;
    const int64_t step = panels.scale ? GROUP : inputs;
    for (int64_t run = 0; run < runs; ++run) {
        const int64_t first = part.row + part.rows * run / runs;
        const int64_t last = part.row + part.rows * (run + 1) / runs;
        Totals totals = {};
        if (part.begin > 0) resume(totals, to, first, last);
        const char* from = reinterpret_cast<const char*>(ahead ? ahead + inputs * run / runs * PANEL : nullptr);
        for (int64_t at = 0; at < inputs; at += step) {
            Totals of_group = {};
            Totals& sums = panels.scale ? of_group : totals;
            multiply[last - first - 1](sums, x + first * panels.inputs + part.begin + at, panels.inputs,
                                       weights + at * PANEL, std::min(step, inputs - at),
                                       {from ? from + at / 2 * pace : nullptr, pace});
            if (panels.scale) add_scaled(totals, of_group, scales_of(panels, part.begin + at, to.begin), last - first);
        }
        if (part.end == panels.inputs) finish(totals, panels, to, first, last);
        else pause(totals, to, first, last);
    }
}

template <class Weight>
void widen_panel(float* wide, const Weight* weights, int64_t inputs) {
    for (int64_t input = 0; input < inputs; input += 2, weights += 2 * PANEL, wide += 2 * PANEL)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) {
            store(wide + part * LANES, weights_of<0>(weights, part));
            store(wide + PANEL + part * LANES, weights_of<1>(weights, part));
        }
}

// Many rows would widen a panel many times: it is widened for them first.
template <class Weight>
void widen_and_multiply(const float* x, const Part& part, const Weight* weights, const Panels& panels,
                        const Outputs<float>& to) {
    alignas(64) float wide[BLOCK * PANEL];
    widen_panel(wide, weights, part.end - part.begin);
    multiply_panel<float>(x, part, wide, nullptr, panels, to);
}

template <int INPUT, class Weight, int ROWS, int PANELS>
inline __attribute__((always_inline)) void add_side_by_side(Floats (&sums)[PANELS][ROWS][PARTS], const float* x,
                                                            int64_t x_stride, const Weight* pair, int64_t apart) {
    Floats numbers[ROWS];
#pragma GCC unroll 2
    for (int row = 0; row < ROWS; ++row) numbers[row] = everywhere(x[row * x_stride + INPUT]);
#pragma GCC unroll 4
    for (int panel = 0; panel < PANELS; ++panel)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; ++part) {
            const Floats weights = weights_of<INPUT>(pair + panel * apart, part);
#pragma GCC unroll 2
            for (int row = 0; row < ROWS; ++row) sums[panel][row][part] += weights * numbers[row];
        }
}

// Some inputs of ROWS rows times PANELS panels.
template <class Weight, int ROWS, int PANELS>
inline __attribute__((always_inline)) void sum_side_by_side(Totals (&totals)[PANELS], const float* x, int64_t x_stride,
                                                            const Weight* weights, int64_t apart, int64_t inputs) {
    Floats sums[PANELS][ROWS][PARTS] = {};
    for (int64_t input = 0; input < inputs; input += 2) {
        const Weight* pair = weights + input * PANEL;
        for (int panel = 0; panel < PANELS; ++panel) {
            const char* ahead = reinterpret_cast<const char*>(pair + (PANELS + panel) * apart);
            for (size_t line = 0; line < 2 * PANEL * sizeof(Weight); line += 64) __builtin_prefetch(ahead + line, 0, 2);
        }
        add_side_by_side<0>(sums, x + input, x_stride, pair, apart);
        add_side_by_side<1>(sums, x + input, x_stride, pair, apart);
    }
    for (int panel = 0; panel < PANELS; ++panel)
        for (int row = 0; row < ROWS; ++row)
            for (int part = 0; part < PARTS; ++part)
                store(totals[panel].of[row] + part * LANES, sums[panel][row][part]);
}

// ROWS rows times PANELS panels from one on, all inputs at once, or a group of them after another.
template <class Weight, int ROWS, int PANELS>
void multiply_side_by_side(const float* x, int64_t first, const Panels& panels, float* y, const float* added) {
    const int64_t apart = panels.inputs * PANEL;
    const Weight* weights = static_cast<const Weight*>(panels.weights) + first * apart;
    Totals totals[PANELS];
    if (!panels.scale) {
        sum_side_by_side<Weight, ROWS>(totals, x, panels.inputs, weights, apart, panels.inputs);
    } else {
        for (Totals& total : totals) total = {};
        for (int64_t at = 0; at < panels.inputs; at += GROUP) {
            Totals of_group[PANELS];
            const int64_t inputs = std::min(GROUP, panels.inputs - at);
            sum_side_by_side<Weight, ROWS>(of_group, x + at, panels.inputs, weights + at * PANEL, apart, inputs);
            for (int panel = 0; panel < PANELS; ++panel)
                add_scaled(totals[panel], of_group[panel], scales_of(panels, at, (first + panel) * PANEL), ROWS);
        }
    }
    for (int panel = 0; panel < PANELS; ++panel)
        finish(totals[panel], panels, outputs_of(first + panel, y, added, panels.outputs), 0, ROWS);
}

// A thread's share for so few rows that each sum of one panel alone would wait for itself.
template <class Weight, int ROWS>
void multiply_few_rows(float* y, const float* x, const float* added, const Panels& panels) {
    constexpr int AT_ONCE = SUMS_AT_ONCE / PARTS / ROWS;
    const int64_t count = (panels.outputs + PANEL - 1) / PANEL;
    int64_t panel = count * omp_get_thread_num() / omp_get_num_threads();
    const int64_t end = count * (omp_get_thread_num() + 1) / omp_get_num_threads();
    for (; panel + AT_ONCE <= end; panel += AT_ONCE)
        multiply_side_by_side<Weight, ROWS, AT_ONCE>(x, panel, panels, y, added);
    for (; panel < end; ++panel) multiply_side_by_side<Weight, ROWS, 1>(x, panel, panels, y, added);
}

template <class Weight>
void multiply_rows_by_blocks(float* y, const float* x, const float* added, int64_t rows, const Panels& panels) {
    const int64_t panel_count = (panels.outputs + PANEL - 1) / PANEL;
    const int64_t blocks = (panels.inputs + BLOCK - 1) / BLOCK;
    const int64_t groups = (panels.inputs + GROUP - 1) / GROUP;
    for (int64_t row = 0; row < rows; row += CHUNK)
        for (int64_t block = 0; block < blocks; ++block) {
            const Part part = {row, std::min(CHUNK, rows - row), GROUP * (groups * block / blocks),
                               std::min(GROUP * (groups * (block + 1) / blocks), panels.inputs)};
            // each thread has the same panels every time, so none waits for another
#pragma omp for schedule(static) nowait
            for (int64_t panel = 0; panel < panel_count; ++panel) {
                const auto to = outputs_of(panel, y, added, panels.outputs);
                const Weight* weights =
                    static_cast<const Weight*>(panels.weights) + (panel * panels.inputs + part.begin) * PANEL;
                if (rows > WAITING_ROWS) widen_and_multiply(x, part, weights, panels, to);
                else multiply_panel(x, part, weights, weights + panels.inputs * PANEL, panels, to);
            }
        }
}

template <class Weight>
void multiply_panels(float* y, const float* x, const float* added, int64_t rows, const Panels& panels) {
    if (rows == 1) multiply_few_rows<Weight, 1>(y, x, added, panels);
    else if (rows == 2) multiply_few_rows<Weight, 2>(y, x, added, panels);
    else multiply_rows_by_blocks<Weight>(y, x, added, rows, panels);
}

}  // namespace

extern "C" void multiply_f32(float* y, const float* x, const float* added, int64_t rows, const Panels* panels) {
    if (panels->kind == OF_BF16) multiply_panels<Bf16>(y, x, added, rows, *panels);
    else if (panels->kind == OF_FP16) multiply_panels<Fp16>(y, x, added, rows, *panels);
    else multiply_panels<int8_t>(y, x, added, rows, *panels);
}

extern "C" int64_t panel_width() { return PANEL; }

extern "C" void product_f32(float* y, const float* x, const float* added, int64_t rows, const Panels* panels,
                            int threads) {
    with_team(threads, panels->inputs * panels->outputs >= WORTH_A_THREAD,
              [=] { multiply_f32(y, x, added, rows, panels); });
}
#endif
