// The small operations of a decode step on a CPU, each in one call: what torch launches five to twenty operations for.
//
// Nothing here knows a model, checks an argument or allocates what outlives a call: kernels.py has seen to both.

#include "attention.hpp"
#include "chunk_attention.hpp"
#include "elementwise.hpp"
#include "lora.hpp"
#include "product.hpp"

#define EXPORT(Storage, NAME)                                                                                       \
    extern "C" void rms_norm_##NAME(Storage* out, const Storage* x, const Storage* weight, float eps, int64_t rows, \
                                    int64_t width, int threads) {                                                   \
        rms_norm(out, x, weight, eps, rows, width, threads);                                                        \
    }                                                                                                               \
    extern "C" void layer_norm_##NAME(Storage* out, const Storage* x, const Storage* weight, const Storage* bias,   \
                                      float eps, int64_t rows, int64_t width, int threads) {                        \
        layer_norm(out, x, weight, bias, eps, rows, width, threads);                                                \
    }                                                                                                               \
    extern "C" void gated_silu_##NAME(Storage* out, const Storage* gate_up, int64_t rows, int64_t width,            \
                                      int threads) {                                                                \
        gated_silu(out, gate_up, rows, width, threads);                                                             \
    }                                                                                                               \
    extern "C" void gelu_tanh_##NAME(Storage* out, const Storage* x, int64_t rows, int64_t width, int threads) {    \
        gelu_tanh(out, x, rows, width, threads);                                                                    \
    }                                                                                                               \
    extern "C" void decode_attention_##NAME(Storage* out, const Storage* qkv, int64_t qkv_stride, Storage* keys,    \
                                            Storage* values, const AttentionRows* rows, int64_t query_heads,        \
                                            int64_t kv_heads, int64_t head_dim, int64_t positions, float scale,     \
                                            int threads) {                                                          \
        const AttentionShape shape = {query_heads, kv_heads, head_dim, positions, rows->rotary, scale};             \
        decode_attention(out, qkv, qkv_stride, keys, values, *rows, shape, threads);                                \
    }                                                                                                               \
    extern "C" void chunk_attention_##NAME(Storage* out, const Storage* qkv, int64_t qkv_stride, Storage* keys,     \
                                           Storage* values, const float* cos, const float* sin, int64_t rotary,     \
                                           int64_t count, int64_t past, int64_t query_heads, int64_t kv_heads,      \
                                           int64_t head_dim, int64_t positions, float scale, int threads) {         \
        const AttentionShape shape = {query_heads, kv_heads, head_dim, positions, rotary, scale};                   \
        chunk_attention<Storage>({out, qkv, qkv_stride, cos, sin, keys, values, count, past}, shape, threads);      \
    }                                                                                                               \
    extern "C" void lora_##NAME(Storage* y, int64_t y_stride, const Storage* x, int64_t x_stride,                   \
                                const LoraSite* site, const LoraRows* rows, int threads) {                          \
        lora(y, y_stride, x, x_stride, *site, *rows, threads);                                                      \
    }
EXPORT(Bf16, bf16)
EXPORT(float, f32)

#ifdef __AVX512BF16__  // elsewhere torch's product is the better one
extern "C" void product_bf16(Bf16* y, const Bf16* x, const Bf16* added, int64_t rows, const Panels* panels,
                             int threads) {
    product(y, x, added, rows, *panels, threads);
}
#endif
