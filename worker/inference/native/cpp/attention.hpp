// Attention of one new token a row over its slot of the cache, rotation and the cache's new entry with it.
//
// All between the rotated heads and the output is float32. Keys lie as (D, P), values as (P, D): D numbers of a
// head, P positions of a slot.

#pragma once

#include <algorithm>
#include <vector>

#include "lanes.hpp"
#include "team.hpp"

namespace {

struct AttentionShape {
    int64_t query_heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t positions;  // of a slot
    int64_t rotary;     // numbers of a head that are rotated
    float scale;
};

// As rows.py's AttentionRows.
struct AttentionRows {
    const float* cos;
    const float* sin;
    const int32_t* slots;
    const int32_t* lengths;
    int64_t count;
    int64_t rotary;
};

// Scratch of a thread: it grows to the longest row and is kept.
float* scratch(size_t size) {
    static thread_local std::vector<float> floats;
    if (floats.size() < size) floats.resize(size);
    return floats.data();
}

// Rotates halves as GPT-NeoX does, what lies behind the first `rotary` numbers stays; to float32 of what storage can
// hold.
template <class Storage>
void rotate(float* to, const Storage* from, const float* cos, const float* sin, const AttentionShape& shape) {
    int64_t half = shape.rotary / 2;
    for (int64_t d = 0; d < half; ++d) {
        float low = to_float(from[d]);
        float high = to_float(from[d + half]);
        to[d] = low * cos[d] - high * sin[d];
        to[d + half] = high * cos[d + half] + low * sin[d + half];
    }
    for (int64_t d = shape.rotary; d < shape.head_dim; ++d) to[d] = to_float(from[d]);
    for_lanes(0, shape.head_dim,
              [&](int64_t at, auto count) { store(to + at, as_stored<Storage>(load(to + at, count)), count); });
}

// Sums of four heads for so many registers of positions or numbers stay in registers.
constexpr int MOST_BLOCKS = REGISTERS / 8;
constexpr int AHEAD = LANES == 16 ? 1 : 3;  // tiles of positions: farther where a tile is one line of the cache

// Scores of HEADS heads for BLOCKS * LANES positions; q has D numbers a head, scores `stride`.
template <class Storage, int HEADS, int BLOCKS>
inline void compute_scores(float* scores, int64_t stride, const float* q, const Storage* keys_DP,
                           const AttentionShape& shape) {
    Floats dots[HEADS][BLOCKS] = {};
    for (int64_t d = 0; d < shape.head_dim; ++d) {
        const Storage* keys = keys_DP + d * shape.positions;
        // positions of this row of keys that come after the next ones
        for (int block = 0; block < BLOCKS; block += 64 / (LANES * sizeof(Storage)))
            __builtin_prefetch(keys + (AHEAD * BLOCKS + block) * LANES, 0, 2);
        for (int block = 0; block < BLOCKS; ++block) {
            Floats lanes = load(keys + block * LANES);
            for (int head = 0; head < HEADS; ++head) dots[head][block] += q[head * shape.head_dim + d] * lanes;
        }
    }
    for (int head = 0; head < HEADS; ++head)
        for (int block = 0; block < BLOCKS; ++block)
            store(scores + head * stride + block * LANES, dots[head][block] * shape.scale);
}

inline void softmax(float* scores, int64_t count) {
    float most = largest(scores, count);
    Floats total = {};
    for_lanes(0, count, [&](int64_t at, auto lanes) {
        Floats powers = exponential(load(scores + at, lanes) - most);
        store(scores + at, powers, lanes);
        total += load(scores + at, lanes);  // zeros behind the rest
    });
    float factor = 1 / sum(total);
    for_lanes(0, count, [&](int64_t at, auto lanes) { store(scores + at, load(scores + at, lanes) * factor, lanes); });
}

// Sums of the values of HEADS heads, weighted: BLOCKS * LANES of their D numbers from `d` on, or `count` where that is
// less than LANES.
template <class Storage, int HEADS, int BLOCKS, class Count>
inline void accumulate_values(Storage* const* out, int64_t d, const float* weights, int64_t stride,
                              const Storage* values_PD, int64_t positions, int64_t head_dim, Count count) {
    Floats sums[HEADS][BLOCKS] = {};
    for (int64_t position = 0; position < positions; ++position)
        for (int block = 0; block < BLOCKS; ++block) {
            Floats lanes = load(values_PD + position * head_dim + d + block * LANES, count);
            for (int head = 0; head < HEADS; ++head) sums[head][block] += weights[head * stride + position] * lanes;
        }
    for (int head = 0; head < HEADS; ++head)
        for (int block = 0; block < BLOCKS; ++block) store(out[head] + d + block * LANES, sums[head][block], count);
}

// Queries over positions of one kv head: each sees `counts` of them, the last sees the most.
struct Queries {
    const float* q;
    int64_t counts[4];
};

// HEADS of them, each with its own out. Keys are read past the counts, but not past the slot: unused scores.
template <class Storage, int HEADS>
void attend(Storage* const* out, const Queries& queries, const Storage* keys, const Storage* values, float* scores,
            const AttentionShape& shape) {
    int64_t stride = (shape.positions + LANES - 1) / LANES * LANES;
    int64_t D = shape.head_dim;
    int64_t at = 0;
    int64_t count = queries.counts[HEADS - 1];
    const float* q = queries.q;
    while (at < count) {
        if (count - at > LANES && at + MOST_BLOCKS * LANES <= shape.positions) {
            compute_scores<Storage, HEADS, MOST_BLOCKS>(scores + at, stride, q, keys + at, shape);
            at += MOST_BLOCKS * LANES;
        } else if (at + LANES <= shape.positions) {
            compute_scores<Storage, HEADS, 1>(scores + at, stride, q, keys + at, shape);
            at += LANES;
        } else {
            for (int head = 0; head < HEADS; ++head) {
                float dot = 0;
                for (int64_t d = 0; d < D; ++d) dot += q[head * D + d] * to_float(keys[d * shape.positions + at]);
                scores[head * stride + at] = dot * shape.scale;
            }
            ++at;
        }
    }
    for (int head = 0; head < HEADS; ++head) {
        softmax(scores + head * stride, queries.counts[head]);
        std::fill(scores + head * stride + queries.counts[head], scores + head * stride + count, 0.0f);
    }
    int64_t d = 0;
    if (MOST_BLOCKS == 4 && D % (5 * LANES) == 0)  // Phi's 80 in one pass
        for (; d < D; d += 5 * LANES)
            accumulate_values<Storage, HEADS, 5>(out, d, scores, stride, values, count, D, All());
    for (; d + MOST_BLOCKS * LANES <= D; d += MOST_BLOCKS * LANES)
        accumulate_values<Storage, HEADS, MOST_BLOCKS>(out, d, scores, stride, values, count, D, All());
    for_lanes(d, D, [&](int64_t from, auto lanes) {
        accumulate_values<Storage, HEADS, 1>(out, from, scores, stride, values, count, D, lanes);
    });
}

// `left` of them or four, whichever is less.
template <class Storage>
void attend_up_to_four(int64_t left, Storage* const* out, const Queries& queries, const Storage* keys,
                       const Storage* values, float* scores, const AttentionShape& shape) {
    if (left >= 4) attend<Storage, 4>(out, queries, keys, values, scores, shape);
    else if (left == 3) attend<Storage, 3>(out, queries, keys, values, scores, shape);
    else if (left == 2) attend<Storage, 2>(out, queries, keys, values, scores, shape);
    else attend<Storage, 1>(out, queries, keys, values, scores, shape);
}

// One row's kv head: rotates, writes the new key and value, lets its query heads attend, four to a read of the cache.
template <class Storage>
void attend_group(Storage* out, const Storage* qkv, const float* cos, const float* sin, Storage* keys, Storage* values,
                  int64_t group, int64_t length, const AttentionShape& shape) {
    int64_t D = shape.head_dim;
    int64_t shared = shape.query_heads / shape.kv_heads;
    int64_t first = group * shared;
    int64_t stride = (shape.positions + LANES - 1) / LANES * LANES;
    float* q = scratch(4 * stride + (shared + 1) * (D + LANES));
    float* k = q + shared * D;
    float* scores = k + D + LANES;
    for (int64_t d = 0; d < D && length > 0; ++d)  // what is read first comes while the heads are rotated
        for (size_t line = 0; line < 4 * LANES * sizeof(Storage); line += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(keys + d * shape.positions) + line);
    for (int64_t head = 0; head < shared; ++head) rotate(q + head * D, qkv + (first + head) * D, cos, sin, shape);
    rotate(k, qkv + (shape.query_heads + group) * D, cos, sin, shape);
    for (int64_t d = 0; d < D; ++d) store_one(keys + d * shape.positions + length, k[d]);
    std::memcpy(values + length * D, qkv + (shape.query_heads + shape.kv_heads + group) * D, D * sizeof(Storage));
    const int64_t count = length + 1;
    for (int64_t head = 0; head < shared; head += 4) {
        Storage* to = out + (first + head) * D;
        Storage* const outs[4] = {to, to + D, to + 2 * D, to + 3 * D};
        attend_up_to_four<Storage>(shared - head, outs, {q + head * D, {count, count, count, count}}, keys, values,
                                   scores, shape);
    }
}

// Of a team: rows differ in length.
template <class Storage>
void decode_attention(Storage* out, const Storage* qkv, int64_t qkv_stride, Storage* keys, Storage* values,
                      const AttentionRows& rows, const AttentionShape& shape) {
    share_unequal(rows.count * shape.kv_heads, 1, [=, &rows, &shape](int64_t index) {
        int64_t row = index / shape.kv_heads;
        int64_t group = index % shape.kv_heads;
        int64_t D = shape.head_dim;
        int64_t head = (rows.slots[row] * shape.kv_heads + group) * D * shape.positions;
        attend_group(out + row * shape.query_heads * D, qkv + row * qkv_stride, rows.cos + row * shape.rotary,
                     rows.sin + row * shape.rotary, keys + head, values + head, group, rows.lengths[row], shape);
    });
}

}  // namespace
