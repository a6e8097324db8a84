// Norms and activations. Nothing here checks an argument or allocates what outlives a call: kernels.py has seen to
// both.

#include "elementwise.hpp"

#define EXPORT(Storage, NAME)                                                                                       \
    extern "C" void rms_norm_##NAME(Storage* out, const Storage* x, const Storage* weight, float eps, int64_t rows, \
                                    int64_t width, int threads) {                                                   \
        with_team(threads, rows > 1 && rows * width >= WORTH_A_THREAD,                                              \
                  [=] { rms_norm(out, x, weight, eps, rows, width); });                                             \
    }                                                                                                               \
    extern "C" void layer_norm_##NAME(Storage* out, const Storage* x, const Storage* weight, const Storage* bias,   \
                                      float eps, int64_t rows, int64_t width, int threads) {                        \
        with_team(threads, rows > 1 && rows * width >= WORTH_A_THREAD,                                              \
                  [=] { layer_norm(out, x, weight, bias, eps, rows, width); });                                     \
    }                                                                                                               \
    extern "C" void gated_silu_##NAME(Storage* out, const Storage* gate_up, int64_t rows, int64_t width,            \
                                      int threads) {                                                                \
        with_team(threads, rows > 1 && rows * width >= POWERS_WORTH_A_THREAD,                                       \
                  [=] { gated_silu(out, gate_up, rows, width); });                                                  \
    }                                                                                                               \
    extern "C" void gelu_tanh_##NAME(Storage* out, const Storage* x, int64_t rows, int64_t width, int threads) {    \
        with_team(threads, rows > 1 && rows * width >= POWERS_WORTH_A_THREAD,                                       \
                  [=] { gelu_tanh(out, x, rows, width); });                                                         \
    }
EXPORT(Bf16, bf16)
EXPORT(float, f32)
