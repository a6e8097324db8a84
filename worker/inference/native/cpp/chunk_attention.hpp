// Attention of several new tokens of one slot, rotation and the cache's new entries with it: a part of a prompt.
//
// Four queries share each read of the cache. All else is as in attention.hpp.

#pragma once

#include "attention.hpp"

namespace {

// Several tokens of one slot, behind the `past` that it has.
template <class T>
struct ChunkOf {
    T* out;
    const T* qkv;
    int64_t qkv_stride;
    const float *cos, *sin;
    T *keys, *values;
    int64_t count, past;
};

constexpr int64_t KEYS_AT_ONCE = 16;  // tokens: a run of each row of keys is written at a time

// Rotates and writes the keys, and writes the values, of some tokens of one kv head.
template <class T>
void cache_chunk(const ChunkOf<T>& chunk, int64_t group, int64_t begin, int64_t end, const Attention& of) {
    int64_t D = of.head_dim, padded = D + LANES;
    float* rotated = scratch(KEYS_AT_ONCE * padded);
    T *keys = chunk.keys + group * D * of.places + chunk.past, *values = chunk.values + group * D * of.places;
    for (int64_t token = begin; token < end; ++token) {
        const T* from = chunk.qkv + token * chunk.qkv_stride + (of.query_heads + group) * D;
        rotate(rotated + (token - begin) * padded, from, chunk.cos + token * of.rotary, chunk.sin + token * of.rotary,
               of);
        std::memcpy(values + (chunk.past + token) * D, from + of.kv_heads * D, D * sizeof(T));
    }
    for (int64_t d = 0; d < D; ++d)
        for (int64_t token = begin; token < end; ++token)
            put(keys + d * of.places + token, rotated[(token - begin) * padded + d]);
}

// Four queries of one kv head from `first` on: heads of a token are neighbours, then come those of the next.
template <class T>
void attend_queries(const ChunkOf<T>& chunk, int64_t group, int64_t first, const Attention& of) {
    int64_t D = of.head_dim, shared = of.query_heads / of.kv_heads, last = chunk.count * shared;
    int64_t stride = (of.places + LANES - 1) / LANES * LANES;
    float *q = scratch(4 * stride + 4 * D + LANES), *scores = q + 4 * D + LANES;
    Queries queries = {q, {}};
    T* outs[4] = {};
    for (int64_t which = 0; which < 4 && first + which < last; ++which) {
        int64_t token = (first + which) / shared, head = group * shared + (first + which) % shared;
        rotate(q + which * D, chunk.qkv + token * chunk.qkv_stride + head * D, chunk.cos + token * of.rotary,
               chunk.sin + token * of.rotary, of);
        queries.counts[which] = chunk.past + token + 1;
        outs[which] = chunk.out + (token * of.query_heads + head) * D;
    }
    int64_t head = group * D * of.places;
    attend_some<T>(last - first, outs, queries, chunk.keys + head, chunk.values + head, scores, of);
}

template <class T>
void chunk_attention(const ChunkOf<T>& chunk, const Attention& of, int threads) {
    int64_t runs = (chunk.count + KEYS_AT_ONCE - 1) / KEYS_AT_ONCE;
    int64_t tiles = (chunk.count * (of.query_heads / of.kv_heads) + 3) / 4;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t index = 0; index < of.kv_heads * runs; ++index) {
            int64_t begin = index % runs * KEYS_AT_ONCE;
            cache_chunk(chunk, index / runs, begin, std::min(begin + KEYS_AT_ONCE, chunk.count), of);
        }
#pragma omp for schedule(dynamic, 4)  // later tokens see more
        for (int64_t index = 0; index < of.kv_heads * tiles; ++index)
            attend_queries(chunk, index / tiles, index % tiles * 4, of);
    }
}

}  // namespace
