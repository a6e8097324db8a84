// LoRA: which rows share which columns of the bank, and how threads divide the work.
//
// Every byte of the factors in use is read once a call, by one thread of a team: that is what it costs.

#pragma once

#include <algorithm>
#include <vector>

#include "lora_factors.hpp"
#include "team.hpp"

namespace {

// Gives thread `which` its share of all parts' units, in runs: body(part, from, to). A unit of a part costs `cost`.
template <class Units, class Cost, class Body>
void split_work(const std::vector<LoraPart>& parts, int which, int threads, int64_t grain, Units units, Cost cost,
                Body body) {
    int64_t total = 0;
    int64_t before = 0;
    for (const LoraPart& part : parts) total += units(part) * cost(part);
    int64_t begin = total * which / threads;
    int64_t end = total * (which + 1) / threads;
    for (const LoraPart& part : parts) {
        // both neighbours of a border round it alike, so that each unit has one thread
        auto unit = [&](int64_t border) {
            int64_t at = std::clamp<int64_t>((border - before) / cost(part), 0, units(part));
            return at == units(part) ? at : at / grain * grain;
        };
        int64_t from = unit(begin);
        int64_t to = unit(end);
        if (from < to) body(part, from, to);
        before += units(part) * cost(part);
    }
}

// One part for each section and each run of columns in use; rows of equal columns come together in `order`.
std::vector<LoraPart> parts_of(const LoraSite& site, const LoraRows& in_use, std::vector<int32_t>& order, float* h) {
    const int32_t* begins = in_use.begins;
    int64_t rows = in_use.count;
    order.resize(rows);
    for (int64_t row = 0; row < rows; ++row) order[row] = static_cast<int32_t>(row);
    auto precedes = [&](int32_t left, int32_t right) {  // by rank too: rows of the base model begin anywhere
        return begins[left] != begins[right] ? begins[left] < begins[right] : in_use.ranks[left] < in_use.ranks[right];
    };
    std::stable_sort(order.begin(), order.end(), precedes);
    std::vector<LoraPart> parts;
    for (int64_t section = 0; section < site.sections; ++section) {
        const int32_t* rank = in_use.ranks + section * in_use.ranks_stride;
        for (int64_t at = 0, next; at < rows; at = next) {
            int32_t row = order[at];
            for (next = at + 1; next < rows; ++next)
                if (begins[order[next]] != begins[row] || rank[order[next]] != rank[row]) break;
            if (rank[row] == 0) continue;
            parts.push_back({section, begins[row], rank[row], &order[at], next - at, h});
            h += rank[row] * (next - at);
        }
    }
    return parts;
}

// How many numbers lie between the two products of a call.
inline int64_t numbers_between(const LoraRows& rows, int64_t sections) {
    int64_t numbers = 0;
    for (int64_t section = 0; section < sections; ++section)
        for (int64_t row = 0; row < rows.count; ++row) numbers += rows.ranks[section * rows.ranks_stride + row];
    return numbers;
}

// Whether the factors in use are enough for several threads.
inline bool is_worth_a_team(const LoraSite& site, const LoraRows& rows) {
    int64_t numbers = 0;
    for (int64_t section = 0; section < site.sections; ++section)
        for (int64_t row = 0; row < rows.count; ++row)
            numbers += rows.ranks[section * rows.ranks_stride + row] * (site.inputs + site.widths[section]);
    return numbers >= WORTH_A_THREAD;
}

// Adds what adapters add to rows; h has room for `numbers_between`, and is one for all threads of the team.
template <class Storage>
void lora(Storage* y, int64_t y_stride, const Storage* x, int64_t x_stride, const LoraSite& site, const LoraRows& rows,
          float* h) {
    static thread_local std::vector<int32_t> order;
    const std::vector<LoraPart> parts = parts_of(site, rows, order, h);
    const int which = omp_get_thread_num();
    const int team = omp_get_num_threads();
    auto columns = [](const LoraPart& part) { return part.rank; };
    auto outputs = [&](const LoraPart& part) { return site.widths[part.section]; };
    auto one = [](const LoraPart&) { return int64_t{1}; };
    split_work(parts, which, team, 1, columns, one,
               [&](const LoraPart& part, int64_t from, int64_t to) { shrink(part, from, to, x, x_stride, site); });
    wait_for_team();
    split_work(parts, which, team, LANES, outputs, columns,
               [&](const LoraPart& part, int64_t from, int64_t to) { expand(part, from, to, y, y_stride, site); });
    wait_for_team();
}

}  // namespace
