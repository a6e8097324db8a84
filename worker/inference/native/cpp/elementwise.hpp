// Norms and activations, each row by itself and by one thread of a team, rounded where torch and transformers round.

#pragma once

#include <cmath>

#include "lanes.hpp"
#include "team.hpp"

namespace {

template <class Storage>
void rms_norm(Storage* out, const Storage* x, const Storage* weight, float eps, int64_t rows, int64_t width) {
    share(rows, [=](int64_t row) {
        Storage* to = out + row * width;
        const Storage* from = x + row * width;
        Floats squares = {};
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats lanes = load(from + at, count);
            squares += lanes * lanes;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        for_lanes(0, width, [&](int64_t at, auto count) {
            store(to + at, as_stored<Storage>(load(from + at, count) * factor) * load(weight + at, count), count);
        });
    });
}

template <class Storage>
void layer_norm(Storage* out, const Storage* x, const Storage* weight, const Storage* bias, float eps, int64_t rows,
                int64_t width) {
    share(rows, [=](int64_t row) {
        Storage* to = out + row * width;
        const Storage* from = x + row * width;
        Floats total = {};
        for_lanes(0, width, [&](int64_t at, auto count) { total += load(from + at, count); });
        float mean = sum(total) / width;
        Floats squares = {};
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats lanes = zero_rest(load(from + at, count) - mean, count);
            squares += lanes * lanes;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats lanes = (load(from + at, count) - mean) * factor;
            store(to + at, lanes * load(weight + at, count) + load(bias + at, count), count);
        });
    });
}

template <class Storage>
void gated_silu(Storage* out, const Storage* gate_up, int64_t rows, int64_t width) {
    share(rows, [=](int64_t row) {
        const Storage* gate = gate_up + row * 2 * width;
        for_lanes(0, width, [&](int64_t at, auto count) {
            Floats x = load(gate + at, count);
            Floats silu = as_stored<Storage>(x / (1.0f + exponential(-x)));
            store(out + row * width + at, silu * load(gate + width + at, count), count);
        });
    });
}

// (1 + tanh(u)) / 2 is 1 / (1 + e^-2u); u as in torch's gelu(approximate="tanh").
template <class Storage>
void gelu_tanh(Storage* out, const Storage* x, int64_t rows, int64_t width) {
    share(rows, [=](int64_t row) {
        for_lanes(row * width, (row + 1) * width, [&](int64_t at, auto count) {
            Floats lanes = load(x + at, count);
            Floats twice_u = 1.5957691216f * (lanes + 0.044715f * lanes * lanes * lanes);
            store(out + at, lanes / (1.0f + exponential(-twice_u)), count);
        });
    });
}

}  // namespace
