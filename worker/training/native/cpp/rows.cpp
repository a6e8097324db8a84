// What is computed for each row by itself: norm, gated activation and rotation with their gradients, and the gradient
// of the loss at the logits.

#include <algorithm>
#include <cmath>

#include "lanes.hpp"
#include "team.hpp"

extern "C" void rms_norm_f32(float* out, float* scales, const float* x, const float* weight, float epsilon,
                             int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, WORTH_A_THREAD, threads, [=](int64_t row) {
        const float* from = x + row * width;
        Floats squares = {};
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats lanes = load(from + at, count);
            squares += lanes * lanes;
        });
        float scale = scales[row] = 1 / std::sqrt(sum(squares) / width + epsilon);
        for_lanes(0, width, [&](int64_t at, auto count) {
            store(out + row * width + at, load(from + at, count) * scale * load(weight + at, count), count);
        });
    });
}

// With n the normed row and g the gradient times the weight: (g - n * mean(g * n)) * scale.
extern "C" void rms_norm_back_f32(float* out, const float* grad, const float* x, const float* weight,
                                  const float* scales, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, WORTH_A_THREAD, threads, [=](int64_t row) {
        const float *from = x + row * width, *given = grad + row * width;
        float scale = scales[row];
        Floats products = {};
        for_lanes(0, width, [&](int64_t at, auto count) {
            products += load(given + at, count) * load(weight + at, count) * load(from + at, count);
        });
        float mean = sum(products) * scale / width;
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats lanes = load(given + at, count) * load(weight + at, count);
            store(out + row * width + at, (lanes - load(from + at, count) * scale * mean) * scale, count);
        });
    });
}

extern "C" void gated_silu_f32(float* out, const float* gate, const float* up, int64_t rows, int64_t width,
                               int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        for_lanes(row * width, (row + 1) * width, [&](int64_t at, auto count) {
            Floats x = load(gate + at, count);
            store(out + at, x / (1.0f + exponential(-x)) * load(up + at, count), count);
        });
    });
}

extern "C" void gated_silu_back_f32(float* gate_grad, float* up_grad, const float* grad, const float* gate,
                                    const float* up, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        for_lanes(row * width, (row + 1) * width, [&](int64_t at, auto count) {
            Floats x = load(gate + at, count), given = load(grad + at, count);
            Floats share = 1.0f / (1.0f + exponential(-x));  // silu(x) is x times it
            store(up_grad + at, given * x * share, count);
            Floats slope = share * (1.0f + x * (1.0f - share));
            store(gate_grad + at, given * load(up + at, count) * slope, count);
        });
    });
}

// The first `rotary` numbers of each head, of which halves are paired; `turn` is 1, or -1 for the way back.
extern "C" void rotate_f32(float* out, const float* states, const float* cos, const float* sin, float turn,
                           int64_t rows, int64_t heads, int64_t width, int64_t rotary, int threads) {
    for_rows(rows, heads * width, WORTH_A_THREAD, threads, [=](int64_t row) {
        const float *cos_E = cos + row * rotary, *sin_E = sin + row * rotary;
        int64_t half = rotary / 2;
        for (int64_t head = row * heads; head < (row + 1) * heads; ++head) {
            const float *first = states + head * width, *second = first + half;
            float* to = out + head * width;
            for_lanes(0, half, [&](int64_t at, auto count) {
                Floats a = load(first + at, count), b = load(second + at, count);
                Floats c = load(cos_E + at, count), s = load(sin_E + at, count) * turn;
                store(to + at, a * c - b * s, count);
                store(to + half + at, b * c + a * s, count);
            });
            std::memcpy(to + rotary, first + rotary, sizeof(float) * (width - rotary));
        }
    });
}

// Replaces logits by their gradient, weight * (softmax - one-hot); tells each row's loss and whether its target is the
// largest.
extern "C" void softmax_gradient_f32(float* logits, const int64_t* targets, const float* weights, float* nll, bool* hit,
                                     int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        float *own = logits + row * width, *target = own + targets[row], asked = *target;
        float most = largest(own, width);
        Floats total = {};
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats lanes = zero_rest(exponential(load(own + at, count) - most), count);
            store(own + at, lanes, count);
            total += lanes;
        });
        float all = sum(total), factor = weights[row] / all;
        for_lanes(0, width, [&](int64_t at, auto count) { store(own + at, load(own + at, count) * factor, count); });
        *target -= weights[row];
        nll[row] = std::log(all) + most - asked;
        hit[row] = asked >= most;
    });
}
