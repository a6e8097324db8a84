// Causal attention inside each segment, forward and backward, by one thread for each segment and head. The
// probabilities are computed again backwards, out of each row's logarithm of their sum (Dao 2022, 2205.14135).

#include <cmath>
#include <vector>

#include "tiles.hpp"

namespace {

constexpr int64_t QUERIES = 48;  // rows at a time: the keys behind their last one are not looked at

// Rows of all heads one behind the other: (N, heads, width).
struct Heads {
    float* data;
    int64_t heads, width;

    Matrix of(int64_t row, int64_t head) const { return {data + (row * heads + head) * width, heads * width, 1}; }
};

// What one thread computes in: scores and their gradient, QUERIES rows of as many columns as a segment has keys.
inline Matrix own_scores(int which, int64_t keys) {
    static thread_local std::vector<float> numbers[2];
    int64_t row = (keys + COLUMNS - 1) / COLUMNS * COLUMNS;
    if (static_cast<int64_t>(numbers[which].size()) < QUERIES * row) numbers[which].resize(QUERIES * row);
    return {numbers[which].data(), row, 1};
}

// Replaces scores by e^(score - subtracted), of the first `seen`, and gives their sum; zeros up to `keys`.
inline float exponentials(float* scores, float subtracted, int64_t seen, int64_t keys) {
    Floats total = {};
    for_lanes(0, seen, [&](int64_t at, auto count) {
        Floats lanes = zero_rest(exponential(load(scores + at, count) - subtracted), count);
        store(scores + at, lanes, count);
        total += lanes;
    });
    std::memset(scores + seen, 0, sizeof(float) * (keys - seen));
    return sum(total);
}

inline float dot(const float* left, const float* right, int64_t count) {
    Floats total = {};
    for_lanes(0, count, [&](int64_t at, auto part) { total += load(left + at, part) * load(right + at, part); });
    return sum(total);
}

inline void attend(Heads out, float* log_sums, Heads query, Heads key, Heads value, int64_t head, int64_t begin,
                   int64_t length, float scale) {
    int64_t shared = head * key.heads / query.heads, width = query.width;
    for (int64_t first = 0; first < length; first += QUERIES) {
        int64_t rows = std::min(QUERIES, length - first), keys = first + rows;
        Matrix scores = own_scores(0, length), keys_of = key.of(begin, shared);
        Term asked{query.of(begin + first, head), keys_of.transposed(), width, scale};
        multiply(scores, rows, keys, &asked, 1, false);
        for (int64_t row = 0; row < rows; ++row) {
            float* own = scores.at(row, 0);
            int64_t seen = first + row + 1;
            float most = largest(own, seen), total = exponentials(own, most, seen, keys);
            for (int64_t at = 0; at < seen; ++at) own[at] /= total;
            log_sums[(begin + first + row) * query.heads + head] = most + std::log(total);
        }
        Term given{scores, value.of(begin, shared), keys, 1};
        multiply(out.of(begin + first, head), rows, width, &given, 1, false);
    }
}

struct Gradients {
    Heads query, key, value;
};

// With P the probabilities and dP = dO V': dS = P * (dP - rowsum(dO * O)). Adds to the gradients of keys and values.
inline void attend_back(Gradients to, Heads grad, Heads out, const float* log_sums, Heads query, Heads key, Heads value,
                        int64_t head, int64_t begin, int64_t length, float scale) {
    int64_t shared = head * key.heads / query.heads, width = query.width;
    for (int64_t first = 0; first < length; first += QUERIES) {
        int64_t rows = std::min(QUERIES, length - first), keys = first + rows, top = begin + first;
        Matrix probs = own_scores(0, length), slopes = own_scores(1, length);
        Matrix queries = query.of(top, head), grads = grad.of(top, head);
        Term asked{queries, key.of(begin, shared).transposed(), width, scale};
        multiply(probs, rows, keys, &asked, 1, false);
        Term told{grads, value.of(begin, shared).transposed(), width, 1};
        multiply(slopes, rows, keys, &told, 1, false);
        for (int64_t row = 0; row < rows; ++row) {
            float *own = probs.at(row, 0), *slope = slopes.at(row, 0);
            float delta = dot(grads.at(row, 0), out.of(top + row, head).data, width);
            exponentials(own, log_sums[(top + row) * query.heads + head], first + row + 1, keys);
            for (int64_t at = 0; at < keys; ++at) slope[at] = own[at] * (slope[at] - delta);
        }
        Term to_value{probs.transposed(), grads, rows, 1};
        multiply(to.value.of(begin, shared), keys, width, &to_value, 1, true);
        Term to_query{slopes, key.of(begin, shared), keys, scale};
        multiply(to.query.of(top, head), rows, width, &to_query, 1, false);
        Term to_key{slopes.transposed(), queries, rows, scale};
        multiply(to.key.of(begin, shared), keys, width, &to_key, 1, true);
    }
}

}  // namespace

// `begins` has one more entry than there are segments.
extern "C" void attention_f32(float* out, float* log_sums, float* query, float* key, float* value,
                              const int32_t* begins, int64_t segments, int64_t heads, int64_t shared, int64_t width,
                              float scale, int threads) {
    Heads results{out, heads, width}, queries{query, heads, width}, keys{key, shared, width},
        values{value, shared, width};
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < segments * heads; ++task) {
        const int32_t* at = begins + task / heads;
        attend(results, log_sums, queries, keys, values, task % heads, at[0], at[1] - at[0], scale);
    }
}

// The gradients of keys and values are added to what stands there.
extern "C" void attention_back_f32(float* query_grad, float* key_grad, float* value_grad, float* grad, float* out,
                                   const float* log_sums, float* query, float* key, float* value, const int32_t* begins,
                                   int64_t segments, int64_t heads, int64_t shared, int64_t width, float scale,
                                   int threads) {
    Gradients to{{query_grad, heads, width}, {key_grad, shared, width}, {value_grad, shared, width}};
    Heads grads{grad, heads, width}, results{out, heads, width}, queries{query, heads, width}, keys{key, shared, width},
        values{value, shared, width};
    int64_t group = heads / shared;  // query heads of one key head, which one thread adds up
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < segments * shared; ++task) {
        const int32_t* at = begins + task / shared;
        for (int64_t head = task % shared * group; head < (task % shared + 1) * group; ++head)
            attend_back(to, grads, results, log_sums, queries, keys, values, head, at[0], at[1] - at[0], scale);
    }
}
