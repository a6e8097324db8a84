// Attention of several new tokens of one slot, rotation and the cache's new entries with it: a part of a prompt.
//
// Four queries share each read of the cache. All else is as in attention.hpp.

#pragma once

#include "attention.hpp"

namespace {

// Several tokens of one slot, behind the `past` that it has.
template <class Storage>
struct ChunkOf {
    Storage* out;
    const Storage* qkv;
    int64_t qkv_stride;
    const float* cos;
    const float* sin;
    Storage* keys;
    Storage* values;
    int64_t count;
    int64_t past;
};

constexpr int64_t KEYS_AT_ONCE = 16;  // tokens: a run of each row of keys is written at a time

// Rotates and writes the keys, and writes the values, of some tokens of one kv head.
template <class Storage>
void cache_chunk(const ChunkOf<Storage>& chunk, int64_t group, int64_t begin, int64_t end,
                 const AttentionShape& shape) {
    int64_t D = shape.head_dim;
    int64_t padded = D + LANES;
    float* rotated = scratch(KEYS_AT_ONCE * padded);
    Storage* keys = chunk.keys + group * D * shape.positions + chunk.past;
    Storage* values = chunk.values + group * D * shape.positions;
    for (int64_t token = begin; token < end; ++token) {
        const Storage* from = chunk.qkv + token * chunk.qkv_stride + (shape.query_heads + group) * D;
        rotate(rotated + (token - begin) * padded, from, chunk.cos + token * shape.rotary,
               chunk.sin + token * shape.rotary, shape);
        std::memcpy(values + (chunk.past + token) * D, from + shape.kv_heads * D, D * sizeof(Storage));
    }
    for (int64_t d = 0; d < D; ++d)
        for (int64_t token = begin; token < end; ++token)
            store_one(keys + d * shape.positions + token, rotated[(token - begin) * padded + d]);
}

// Four queries of one kv head from `first` on: heads of a token are neighbours, then come those of the next.
template <class Storage>
void attend_queries(const ChunkOf<Storage>& chunk, int64_t group, int64_t first, const AttentionShape& shape) {
    int64_t D = shape.head_dim;
    int64_t shared = shape.query_heads / shape.kv_heads;
    int64_t last = chunk.count * shared;
    int64_t stride = (shape.positions + LANES - 1) / LANES * LANES;
    float* q = scratch(4 * stride + 4 * D + LANES);
    float* scores = q + 4 * D + LANES;
    Queries queries = {q, {}};
    Storage* outs[4] = {};
    for (int64_t which = 0; which < 4 && first + which < last; ++which) {
        int64_t token = (first + which) / shared;
        int64_t head = group * shared + (first + which) % shared;
        rotate(q + which * D, chunk.qkv + token * chunk.qkv_stride + head * D, chunk.cos + token * shape.rotary,
               chunk.sin + token * shape.rotary, shape);
        queries.counts[which] = chunk.past + token + 1;
        outs[which] = chunk.out + (token * shape.query_heads + head) * D;
    }
    int64_t head = group * D * shape.positions;
    attend_up_to_four<Storage>(last - first, outs, queries, chunk.keys + head, chunk.values + head, scores, shape);
}

// Of a team: later tokens see more.
template <class Storage>
void chunk_attention(const ChunkOf<Storage>& chunk, const AttentionShape& shape) {
    int64_t runs = (chunk.count + KEYS_AT_ONCE - 1) / KEYS_AT_ONCE;
    int64_t tiles = (chunk.count * (shape.query_heads / shape.kv_heads) + 3) / 4;
    share(shape.kv_heads * runs, [&](int64_t index) {
        int64_t begin = index % runs * KEYS_AT_ONCE;
        cache_chunk(chunk, index / runs, begin, std::min(begin + KEYS_AT_ONCE, chunk.count), shape);
    });
    share_unequal(shape.kv_heads * tiles, 4,
                  [&](int64_t index) { attend_queries(chunk, index / tiles, index % tiles * 4, shape); });
}

}  // namespace
