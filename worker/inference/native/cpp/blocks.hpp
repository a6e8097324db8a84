// All decoder blocks of a model over one step's tokens, by one team of threads from the first norm to the last product.
//
// Each operation is that of its own call elsewhere, on the same numbers in the same order. What is spared is the way
// into and out of each of them.

#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "attention.hpp"
#include "chunk_attention.hpp"
#include "elementwise.hpp"
#include "lora.hpp"
#include "panels.hpp"

namespace {

// As blocks.py's structures of these names.
struct Norm {
    const void* weight;
    const void* bias;  // null: by the root of the mean square
};

enum Part { QKV, ATTENTION_OUT, MLP_IN, MLP_OUT, PARTS_OF_BLOCK };

struct Block {
    Norm attention_norm;
    Norm mlp_norm;  // without a weight the MLP reads what attention does
    const Panels* panels[PARTS_OF_BLOCK];
};

struct Model {
    const Block* blocks;
    int64_t count;
    int64_t width;
    int64_t query_heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t rotary;
    float scale;
    float epsilon;
    int32_t is_gated;
};

// An arena's tensors, one for each block.
struct Cache {
    void* const* keys;
    void* const* values;
    int64_t positions;
};

struct DecodeRound {
    Cache cache;
    const AttentionRows* rows;
    int64_t begin;
};

struct PromptChunk {
    Cache cache;
    const float* cos;
    const float* sin;
    int64_t place;
    int64_t begin;
    int64_t count;
    int64_t past;
};

struct LoraSegment {
    const LoraRows* rows;
    int64_t begin;
};

struct Step {
    int64_t rows;
    const DecodeRound* decode;
    int64_t decode_count;
    const PromptChunk* chunks;
    int64_t chunk_count;
    const LoraSegment* segments;
    int64_t segment_count;
    const LoraSite* const* sites;  // PARTS_OF_BLOCK for each block; null: no adapter of the step changes it
};

// What a step keeps between its operations: one for all threads of the team.
template <class Storage>
struct Activations {
    Storage* states;
    Storage* sums;  // become the states
    Storage* normed;
    Storage* wide;   // q, k and v, or what goes into the activation
    Storage* inner;  // what attention gives, or the activation
    Storage* apart;
    float* h;
};

template <class Storage>
class BlocksOfStep {
public:
    BlocksOfStep(const Model& model, const Step& step) : model_(model), step_(step) {}

    // Of a team: `at` is each thread's own.
    void run(Activations<Storage> at) const {
        for (int64_t number = 0; number < model_.count; ++number) {
            const Block& block = model_.blocks[number];
            normalise(at, block.attention_norm);
            project(at.wide, at.normed, nullptr, number, QKV, at);
            attend(at, number);
            project(at.sums, at.inner, at.states, number, ATTENTION_OUT, at);
            std::swap(at.states, at.sums);
            if (block.mlp_norm.weight) normalise(at, block.mlp_norm);
            project(at.wide, at.normed, nullptr, number, MLP_IN, at);
            activate(at, block.panels[MLP_IN]->outputs);
            project(at.sums, at.inner, at.states, number, MLP_OUT, at);
            std::swap(at.states, at.sums);
        }
    }

private:
    const Model& model_;
    const Step& step_;

    void normalise(const Activations<Storage>& at, const Norm& norm) const {
        const Storage* weight = static_cast<const Storage*>(norm.weight);
        const Storage* bias = static_cast<const Storage*>(norm.bias);
        if (bias) layer_norm(at.normed, at.states, weight, bias, model_.epsilon, step_.rows, model_.width);
        else rms_norm(at.normed, at.states, weight, model_.epsilon, step_.rows, model_.width);
    }

    void activate(const Activations<Storage>& at, int64_t width) const {
        if (model_.is_gated) gated_silu(at.inner, at.wide, step_.rows, width / 2);
        else gelu_tanh(at.inner, at.wide, step_.rows, width);
    }

    // What an adapter adds begins with a product that does not need y: threads meet behind that.
    void project(Storage* y, const Storage* x, const Storage* added, int64_t number, Part part,
                 const Activations<Storage>& at) const {
        const Panels& panels = *model_.blocks[number].panels[part];
        multiply(y, x, added, step_.rows, panels, at.apart);
        const LoraSite* site = step_.segment_count ? step_.sites[number * PARTS_OF_BLOCK + part] : nullptr;
        if (!site) return wait_for_team();
        for (int64_t segment = 0; segment < step_.segment_count; ++segment) {
            const LoraSegment& of = step_.segments[segment];
            lora(y + of.begin * panels.outputs, panels.outputs, x + of.begin * panels.inputs, panels.inputs, *site,
                 *of.rows, at.h);
        }
    }

    void attend(const Activations<Storage>& at, int64_t number) const {
        const int64_t in = (model_.query_heads + 2 * model_.kv_heads) * model_.head_dim;
        const int64_t out = model_.query_heads * model_.head_dim;
        for (int64_t which = 0; which < step_.decode_count; ++which) {
            const DecodeRound& of = step_.decode[which];
            decode_attention(at.inner + of.begin * out, at.wide + of.begin * in, in, of_block(of.cache.keys, number),
                             of_block(of.cache.values, number), *of.rows, shape_in(of.cache));
        }
        for (int64_t which = 0; which < step_.chunk_count; ++which) {
            const PromptChunk& of = step_.chunks[which];
            const int64_t slot = of.place * model_.kv_heads * model_.head_dim * of.cache.positions;
            chunk_attention<Storage>(
                {at.inner + of.begin * out, at.wide + of.begin * in, in, of.cos, of.sin,
                 of_block(of.cache.keys, number) + slot, of_block(of.cache.values, number) + slot, of.count, of.past},
                shape_in(of.cache));
        }
    }

    static Storage* of_block(void* const* tensors, int64_t number) { return static_cast<Storage*>(tensors[number]); }

    AttentionShape shape_in(const Cache& cache) const {
        return {model_.query_heads, model_.kv_heads, model_.head_dim, cache.positions, model_.rotary, model_.scale};
    }
};

// The most numbers that any of the step's segments needs between the two products of an adapter.
inline int64_t numbers_between(const Model& model, const Step& step) {
    int64_t most = 0;
    for (int64_t at = 0; step.segment_count && at < model.count * PARTS_OF_BLOCK; ++at)
        for (int64_t segment = 0; step.sites[at] && segment < step.segment_count; ++segment)
            most = std::max(most, numbers_between(*step.segments[segment].rows, step.sites[at]->sections));
    return most;
}

// The states behind the last block, in place of those before the first.
template <class Storage>
void run_blocks(Storage* states, const Model& model, const Step& step, int threads) {
    static thread_local std::vector<Storage> numbers;
    static thread_local std::vector<float> h;
    const Block& block = model.blocks[0];
    const int64_t attended = model.query_heads * model.head_dim;
    const int64_t wide = std::max(block.panels[QKV]->outputs, block.panels[MLP_IN]->outputs);
    const int64_t inner = std::max(attended, block.panels[MLP_OUT]->inputs);
    const int64_t apart = std::max(model.width, inner) + APART;
    numbers.resize(std::max<size_t>(numbers.size(), step.rows * (2 * model.width + wide + inner + apart)));
    h.resize(std::max<size_t>(h.size(), numbers_between(model, step)));
    Activations<Storage> at = {};
    at.states = states;
    at.sums = numbers.data();
    at.normed = at.sums + step.rows * model.width;
    at.wide = at.normed + step.rows * model.width;
    at.inner = at.wide + step.rows * wide;
    at.apart = at.inner + step.rows * inner;
    at.h = h.data();
    // two sums a block: the states are where they were
    with_team(threads, true, [&] { BlocksOfStep<Storage>(model, step).run(at); });
}

}  // namespace
