// All blocks of a model in one call, where the CPU has a product. Nothing here checks an argument: blocks.py has.

#include "blocks.hpp"

#ifdef MULTIPLIES
extern "C" void blocks_f32(float* states, const Model* model, const Step* step, int threads) {
    run_blocks(states, *model, *step, threads);
}
#endif
#ifdef __AVX512BF16__
extern "C" void blocks_bf16(Bf16* states, const Model* model, const Step* step, int threads) {
    run_blocks(states, *model, *step, threads);
}
#endif
