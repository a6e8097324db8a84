// Attention of one new token a row over its slot of the cache, rotation and the cache's new entry with it.
//
// All between the rotated heads and the output is float32. Keys lie as (D, L), values as (L, D).

#pragma once

#include <algorithm>
#include <vector>

#include "lanes.hpp"

namespace {

struct Attention {
    int64_t query_heads, kv_heads, head_dim, places, rotary;  // H, G, D, L, R
    float scale;
};

// As rows.py's AttentionRows.
struct AttentionRows {
    const float *cos, *sin;
    const int32_t *slots, *lengths;
    int64_t count, rotary;
};

// Scratch of a thread: it grows to the longest row and is kept.
float* scratch(size_t size) {
    static thread_local std::vector<float> kept;
    if (kept.size() < size) kept.resize(size);
    return kept.data();
}

// Rotates halves as GPT-NeoX does, what lies behind the first R stays; to float32 of what storage can hold.
template <class T>
void rotate(float* to, const T* from, const float* cos, const float* sin, const Attention& of) {
    int64_t half = of.rotary / 2;
    for (int64_t d = 0; d < half; ++d) {
        float low = value_of(from[d]), high = value_of(from[d + half]);
        to[d] = low * cos[d] - high * sin[d];
        to[d + half] = high * cos[d + half] + low * sin[d + half];
    }
    for (int64_t d = of.rotary; d < of.head_dim; ++d) to[d] = value_of(from[d]);
    each(0, of.head_dim, [&](int64_t at, auto count) { store(to + at, as_stored<T>(load(to + at, count)), count); });
}

// Scores of B heads for BLOCKS * 16 places; q has D numbers a head, scores `stride`.
template <class T, int B, int BLOCKS>
inline void score(float* scores, int64_t stride, const float* q, const T* keys_DL, const Attention& of) {
    F dots[B][BLOCKS] = {};
    for (int64_t d = 0; d < of.head_dim; ++d) {
        const T* keys = keys_DL + d * of.places;
        for (int block = 0; block < BLOCKS; block += 64 / (LANES * sizeof(T)))  // the next places of this row of keys
            __builtin_prefetch(keys + (BLOCKS + block) * LANES);
        for (int block = 0; block < BLOCKS; ++block) {
            F lanes = load(keys + block * LANES);
            for (int head = 0; head < B; ++head) dots[head][block] += q[head * of.head_dim + d] * lanes;
        }
    }
    for (int head = 0; head < B; ++head)
        for (int block = 0; block < BLOCKS; ++block)
            store(scores + head * stride + block * LANES, dots[head][block] * of.scale);
}

inline void softmax(float* scores, int64_t count) {
    float most = *std::max_element(scores, scores + count);
    F total = {};
    each(0, count, [&](int64_t at, auto lanes) {
        F powers = exponential(load(scores + at, lanes) - most);
        store(scores + at, powers, lanes);
        total += load(scores + at, lanes);  // zeros behind the rest
    });
    float factor = 1 / sum(total);
    each(0, count, [&](int64_t at, auto lanes) { store(scores + at, load(scores + at, lanes) * factor, lanes); });
}

// Weighted values of B heads: BLOCKS * 16 of their D numbers from `d` on, or `count` where that is less than 16.
template <class T, int B, int BLOCKS, class Count>
inline void mix(T* const* out, int64_t d, const float* weights, int64_t stride, const T* values_LD, int64_t places,
                int64_t head_dim, Count count) {
    F sums[B][BLOCKS] = {};
    for (int64_t place = 0; place < places; ++place)
        for (int block = 0; block < BLOCKS; ++block) {
            F lanes = load(values_LD + place * head_dim + d + block * LANES, count);
            for (int head = 0; head < B; ++head) sums[head][block] += weights[head * stride + place] * lanes;
        }
    for (int head = 0; head < B; ++head)
        for (int block = 0; block < BLOCKS; ++block) store(out[head] + d + block * LANES, sums[head][block], count);
}

// Queries over places of one kv head: each sees `counts` of them, the last sees the most.
struct Queries {
    const float* q;
    int64_t counts[4];
};

// B of them, each with its own out. Keys are read past the counts, but not past L: unused scores.
template <class T, int B>
void attend(T* const* out, const Queries& queries, const T* keys, const T* values, float* scores, const Attention& of) {
    int64_t stride = (of.places + LANES - 1) / LANES * LANES, D = of.head_dim, at = 0, count = queries.counts[B - 1];
    const float* q = queries.q;
    while (at < count) {
        if (count - at > LANES && at + 4 * LANES <= of.places) {
            score<T, B, 4>(scores + at, stride, q, keys + at, of), at += 4 * LANES;
        } else if (at + LANES <= of.places) {
            score<T, B, 1>(scores + at, stride, q, keys + at, of), at += LANES;
        } else {
            for (int head = 0; head < B; ++head) {
                float dot = 0;
                for (int64_t d = 0; d < D; ++d) dot += q[head * D + d] * value_of(keys[d * of.places + at]);
                scores[head * stride + at] = dot * of.scale;
            }
            ++at;
        }
    }
    for (int head = 0; head < B; ++head) {
        softmax(scores + head * stride, queries.counts[head]);
        std::fill(scores + head * stride + queries.counts[head], scores + head * stride + count, 0.0f);
    }
    int64_t d = 0;
    if (D % (5 * LANES) == 0)  // Phi's 80 in one pass
        for (; d < D; d += 5 * LANES) mix<T, B, 5>(out, d, scores, stride, values, count, D, All());
    for (; d + 4 * LANES <= D; d += 4 * LANES) mix<T, B, 4>(out, d, scores, stride, values, count, D, All());
    each(d, D, [&](int64_t from, auto lanes) {
        mix<T, B, 1>(out, from, scores, stride, values, count, D, lanes);
    });
}

// `left` of them or four, whichever is less.
template <class T>
void attend_some(int64_t left, T* const* out, const Queries& queries, const T* keys, const T* values, float* scores,
                 const Attention& of) {
    if (left >= 4) attend<T, 4>(out, queries, keys, values, scores, of);
    else if (left == 3) attend<T, 3>(out, queries, keys, values, scores, of);
    else if (left == 2) attend<T, 2>(out, queries, keys, values, scores, of);
    else attend<T, 1>(out, queries, keys, values, scores, of);
}

// One row's kv head: rotates, writes the new key and value, lets its query heads attend, four to a read of the cache.
template <class T>
void attend_group(T* out, const T* qkv, const float* cos, const float* sin, T* keys, T* values, int64_t group,
                  int64_t length, const Attention& of) {
    int64_t D = of.head_dim, shared = of.query_heads / of.kv_heads, first = group * shared;
    int64_t stride = (of.places + LANES - 1) / LANES * LANES;
    float* q = scratch(4 * stride + (shared + 1) * (D + LANES));
    float *k = q + shared * D, *scores = k + D + LANES;
    for (int64_t d = 0; d < D && length > 0; ++d)  // what is read first comes while the heads are rotated
        for (size_t line = 0; line < 4 * LANES * sizeof(T); line += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(keys + d * of.places) + line);
    for (int64_t head = 0; head < shared; ++head) rotate(q + head * D, qkv + (first + head) * D, cos, sin, of);
    rotate(k, qkv + (of.query_heads + group) * D, cos, sin, of);
    for (int64_t d = 0; d < D; ++d) put(keys + d * of.places + length, k[d]);
    std::memcpy(values + length * D, qkv + (of.query_heads + of.kv_heads + group) * D, D * sizeof(T));
    const int64_t count = length + 1;
    for (int64_t head = 0; head < shared; head += 4) {
        T* to = out + (first + head) * D;
        T* const outs[4] = {to, to + D, to + 2 * D, to + 3 * D};
        attend_some<T>(shared - head, outs, {q + head * D, {count, count, count, count}}, keys, values, scores, of);
    }
}

template <class T>
void decode_attention(T* out, const T* qkv, int64_t qkv_stride, T* keys, T* values, const AttentionRows& rows,
                      const Attention& of, int threads) {
    auto task = [=, &rows, &of](int64_t index) {
        int64_t row = index / of.kv_heads, group = index % of.kv_heads, D = of.head_dim;
        int64_t head = (rows.slots[row] * of.kv_heads + group) * D * of.places;
        attend_group(out + row * of.query_heads * D, qkv + row * qkv_stride, rows.cos + row * of.rotary,
                     rows.sin + row * of.rotary, keys + head, values + head, group, rows.lengths[row], of);
    };
    int64_t tasks = rows.count * of.kv_heads;
    if (threads == 1 || tasks == 1) {
        for (int64_t index = 0; index < tasks; ++index) task(index);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)  // rows differ in length
    for (int64_t index = 0; index < tasks; ++index) task(index);
}

}  // namespace
