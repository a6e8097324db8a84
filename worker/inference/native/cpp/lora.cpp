// What adapters add. Nothing here checks an argument or allocates what outlives a call: kernels.py has seen to both.

#include "lora.hpp"

#define EXPORT(Storage, NAME)                                                                     \
    extern "C" void lora_##NAME(Storage* y, int64_t y_stride, const Storage* x, int64_t x_stride, \
                                const LoraSite* site, const LoraRows* rows, int threads) {        \
        lora(y, y_stride, x, x_stride, *site, *rows, threads);                                    \
    }
EXPORT(Bf16, bf16)
EXPORT(float, f32)
