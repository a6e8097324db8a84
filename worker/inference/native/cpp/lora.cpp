// What adapters add. Nothing here checks an argument or allocates what outlives a call: kernels.py has seen to both.

#include "lora.hpp"

namespace {

template <class Storage>
void with_lora_team(Storage* y, int64_t y_stride, const Storage* x, int64_t x_stride, const LoraSite& site,
                    const LoraRows& rows, int threads) {
    static thread_local std::vector<float> h;
    h.resize(std::max<size_t>(h.size(), numbers_between(rows, site.sections)));
    with_team(threads, is_worth_a_team(site, rows),
              [&, between = h.data()] { lora(y, y_stride, x, x_stride, site, rows, between); });
}

}  // namespace

#define EXPORT(Storage, NAME)                                                                     \
    extern "C" void lora_##NAME(Storage* y, int64_t y_stride, const Storage* x, int64_t x_stride, \
                                const LoraSite* site, const LoraRows* rows, int threads) {        \
        with_lora_team(y, y_stride, x, x_stride, *site, *rows, threads);                          \
    }
EXPORT(Bf16, bf16)
EXPORT(float, f32)
