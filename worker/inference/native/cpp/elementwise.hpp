// Norms and activations, each row by itself, rounded where torch and transformers round.

#pragma once

#include <cmath>

#include "lanes.hpp"

namespace {

template <class T>
void rms_norm(T* out, const T* x, const T* weight, float eps, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, WORTH_A_THREAD, threads, [=](int64_t row) {
        T* to = out + row * width;
        const T* from = x + row * width;
        F squares = {};
        each(0, width, [&](int64_t at, auto count) {
            F lanes = load(from + at, count);
            squares += lanes * lanes;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        each(0, width, [&](int64_t at, auto count) {
            store(to + at, as_stored<T>(load(from + at, count) * factor) * load(weight + at, count), count);
        });
    });
}

template <class T>
void layer_norm(T* out, const T* x, const T* weight, const T* bias, float eps, int64_t rows, int64_t width,
                int threads) {
    for_rows(rows, width, WORTH_A_THREAD, threads, [=](int64_t row) {
        T* to = out + row * width;
        const T* from = x + row * width;
        F total = {};
        each(0, width, [&](int64_t at, auto count) { total += load(from + at, count); });
        float mean = sum(total) / width;
        F squares = {};
        each(0, width, [&](int64_t at, auto count) {
            F lanes = kept(load(from + at, count) - mean, count);
            squares += lanes * lanes;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        each(0, width, [&](int64_t at, auto count) {
            F lanes = (load(from + at, count) - mean) * factor;
            store(to + at, lanes * load(weight + at, count) + load(bias + at, count), count);
        });
    });
}

template <class T>
void gated_silu(T* out, const T* gate_up, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        const T* gate = gate_up + row * 2 * width;
        each(0, width, [&](int64_t at, auto count) {
            F x = load(gate + at, count);
            F silu = as_stored<T>(x / (1.0f + exponential(-x)));
            store(out + row * width + at, silu * load(gate + width + at, count), count);
        });
    });
}

// (1 + tanh(u)) / 2 is 1 / (1 + e^-2u); u as in torch's gelu(approximate="tanh").
template <class T>
void gelu_tanh(T* out, const T* x, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        each(row * width, (row + 1) * width, [&](int64_t at, auto count) {
            F lanes = load(x + at, count);
            F twice_u = 1.5957691216f * (lanes + 0.044715f * lanes * lanes * lanes);
            store(out + at, lanes / (1.0f + exponential(-twice_u)), count);
        });
    });
}

}  // namespace
