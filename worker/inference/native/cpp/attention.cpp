// Attention of rows over their slots of the cache. Nothing here checks an argument or allocates what outlives a call:
// kernels.py has seen to both.

#include "attention.hpp"
#include "chunk_attention.hpp"

#define EXPORT(Storage, NAME)                                                                                    \
    extern "C" void decode_attention_##NAME(Storage* out, const Storage* qkv, int64_t qkv_stride, Storage* keys, \
                                            Storage* values, const AttentionRows* rows, int64_t query_heads,     \
                                            int64_t kv_heads, int64_t head_dim, int64_t positions, float scale,  \
                                            int threads) {                                                       \
        const AttentionShape shape = {query_heads, kv_heads, head_dim, positions, rows->rotary, scale};          \
        with_team(threads, rows->count* kv_heads > 1,                                                            \
                  [&] { decode_attention(out, qkv, qkv_stride, keys, values, *rows, shape); });                  \
    }                                                                                                            \
    extern "C" void chunk_attention_##NAME(Storage* out, const Storage* qkv, int64_t qkv_stride, Storage* keys,  \
                                           Storage* values, const float* cos, const float* sin, int64_t rotary,  \
                                           int64_t count, int64_t past, int64_t query_heads, int64_t kv_heads,   \
                                           int64_t head_dim, int64_t positions, float scale, int threads) {      \
        const AttentionShape shape = {query_heads, kv_heads, head_dim, positions, rotary, scale};                \
        const ChunkOf<Storage> chunk = {out, qkv, qkv_stride, cos, sin, keys, values, count, past};              \
        with_team(threads, true, [&] { chunk_attention(chunk, shape); });                                        \
    }
EXPORT(Bf16, bf16)
EXPORT(float, f32)
