// Products of matrices, block by block: both factors are packed into strips that lie as the innermost loop reads them
// (Goto and van de Geijn 2008), out of matrices of any strides. What is multiplied is not known here.

#pragma once

#include <algorithm>
#include <vector>

#include "lanes.hpp"
#include "team.hpp"

namespace {

constexpr int PARTS = LANES == 4 ? 4 : 2;  // registers for the columns of a tile
constexpr int COLUMNS = PARTS * LANES;
constexpr int ROWS = REGISTERS == 32 && PARTS == 2 ? 12 : 6;  // rows of a tile: its sums fill the registers
constexpr int64_t DEPTH = 320;                                // so deep a strip of columns stays in the first cache
constexpr int64_t BLOCK_ROWS = 96;                            // and so many rows of it in the second,
constexpr int64_t GROUP = 4 * COLUMNS;                        // beside the strips of so many columns
constexpr int64_t PACKED_DEPTH = 4 * DEPTH;                   // of the left factors that are packed at a time

struct Matrix {
    float* data;
    int64_t row, column;  // strides

    float* at(int64_t r, int64_t c) const { return data + r * row + c * column; }
    Matrix from(int64_t r, int64_t c) const { return {at(r, c), row, column}; }
    Matrix transposed() const { return {data, column, row}; }
};

// A pair of factors, and what their product is multiplied by.
struct Term {
    Matrix left, right;
    int64_t depth;
    float scale;
};

// Memory that a thread packs into; it grows, and is used again. It begins a line of the cache, as each strip then does.
inline float* own_memory(int which, int64_t numbers) {
    constexpr int64_t LINE = 64;
    static thread_local std::vector<float> memory[3];
    int64_t needed = numbers + LINE / sizeof(float);
    if (static_cast<int64_t>(memory[which].size()) < needed) memory[which].resize(needed);
    float* begin = memory[which].data();
    return begin + (LINE - reinterpret_cast<uintptr_t>(begin) % LINE) % LINE / sizeof(float);
}

typedef float Four __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLED(a, b, w, x, y, z) __builtin_shufflevector(a, b, w, x, y, z)
#else
typedef int32_t FourInts __attribute__((vector_size(16)));
#define SHUFFLED(a, b, w, x, y, z) __builtin_shuffle(a, b, FourInts{w, x, y, z})
#endif

inline Four load_four(const float* from) {
    Four four;
    std::memcpy(&four, from, sizeof four);
    return four;
}

inline void store_four(float* to, Four four) { std::memcpy(to, &four, sizeof four); }

// Four rows of four numbers, the columns of which are written `apart` from each other.
inline void transpose_four(float* to, int64_t apart, const float* from, int64_t stride) {
    Four a = load_four(from), b = load_four(from + stride), c = load_four(from + 2 * stride),
         d = load_four(from + 3 * stride);
    Four ab_low = SHUFFLED(a, b, 0, 4, 1, 5), ab_high = SHUFFLED(a, b, 2, 6, 3, 7);
    Four cd_low = SHUFFLED(c, d, 0, 4, 1, 5), cd_high = SHUFFLED(c, d, 2, 6, 3, 7);
    store_four(to, SHUFFLED(ab_low, cd_low, 0, 1, 4, 5));
    store_four(to + apart, SHUFFLED(ab_low, cd_low, 2, 3, 6, 7));
    store_four(to + 2 * apart, SHUFFLED(ab_high, cd_high, 0, 1, 4, 5));
    store_four(to + 3 * apart, SHUFFLED(ab_high, cd_high, 2, 3, 6, 7));
}

// to[k * WIDTH + w] = from(w, k), with zeros behind the first `width`.
template <int WIDTH>
inline void pack(float* to, Matrix from, int64_t width, int64_t depth) {
    if (width < WIDTH) std::memset(to, 0, sizeof(float) * WIDTH * depth);
    if (from.row == 1 && width == WIDTH) {
        for (int64_t k = 0; k < depth; ++k) std::memcpy(to + k * WIDTH, from.at(0, k), sizeof(float) * WIDTH);
        return;
    }
    int64_t w = 0;
    if (from.column == 1)
        for (; w + 4 <= width; w += 4) {
            int64_t k = 0;
            for (; k + 4 <= depth; k += 4) transpose_four(to + k * WIDTH + w, WIDTH, from.at(w, k), from.row);
            for (; k < depth; ++k)
                for (int64_t i = w; i < w + 4; ++i) to[k * WIDTH + i] = *from.at(i, k);
        }
    for (; w < width; ++w)
        for (int64_t k = 0; k < depth; ++k) to[k * WIDTH + w] = *from.at(w, k);
}

// Factors as they are packed for one tile: `depth` numbers of each row, and of each column.
struct Strips {
    const float *left, *right;
    int64_t depth;
};

// The tile whose sums stay in registers: those of the shared factors, then of the rows' own. `adds`: to what stands
// there.
inline void multiply_tile(float* to, int64_t stride, Strips shared, Strips own, bool adds) {
    Floats sums[ROWS][PARTS] = {};
    auto add = [&](Strips strips) {
        for (int64_t k = 0; k < strips.depth; ++k) {
            Floats columns[PARTS];
            for (int part = 0; part < PARTS; ++part) columns[part] = load(strips.right + k * COLUMNS + part * LANES);
            for (int row = 0; row < ROWS; ++row) {
                float number = strips.left[k * ROWS + row];
                for (int part = 0; part < PARTS; ++part) sums[row][part] += number * columns[part];
            }
        }
    };
    add(shared);
    add(own);
    for (int row = 0; row < ROWS; ++row)
        for (int part = 0; part < PARTS; ++part) {
            float* at = to + row * stride + part * LANES;
            store(at, adds ? load(at) + sums[row][part] : sums[row][part]);
        }
}

// The same where less than a tile is wanted, or the numbers of a row lie apart.
inline void multiply_part(Matrix to, int64_t rows, int64_t columns, Strips shared, Strips own, bool adds) {
    float tile[ROWS * COLUMNS];
    multiply_tile(tile, COLUMNS, shared, own, false);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) *to.at(r, c) = tile[r * COLUMNS + c] + (adds ? *to.at(r, c) : 0);
}

// Several terms are one product of factors that stand behind each other; calls body(term, begin in it, depth, place)
// for each part of it between two places of that long depth.
template <class Body>
inline void for_parts(const Term* terms, int64_t count, int64_t begin, int64_t end, Body body) {
    int64_t place = 0;
    for (const Term* term = terms; term < terms + count; place += term->depth, ++term) {
        int64_t from = std::max(begin, place), to = std::min(end, place + term->depth);
        if (from < to) body(*term, from - place, to - from, from - begin);
    }
}

inline int64_t depth_of(const Term* terms, int64_t count) {
    int64_t all = 0;
    for (int64_t n = 0; n < count; ++n) all += terms[n].depth;
    return all;
}

// A part of the depth that all terms have together.
struct Span {
    int64_t begin, end;

    int64_t depth() const { return end - begin; }
};

// Some rows of the result, at most as many as a tile has.
struct Tile {
    int64_t row, tall;
};

constexpr int64_t BLOCK_TILES = BLOCK_ROWS / ROWS;

inline int64_t count_tiles(int64_t rows) { return (rows + ROWS - 1) / ROWS; }

// Rows cut into tiles from the first one on.
struct EvenTiles {
    int64_t rows;

    Tile operator[](int64_t number) const { return {number * ROWS, std::min<int64_t>(ROWS, rows - number * ROWS)}; }
};

inline int64_t packed_size(int64_t tiles, int64_t depth) { return tiles * ROWS * std::min(depth, PACKED_DEPTH); }

// The left factors of a tile's rows.
inline void pack_left(float* packed, const Term* terms, int64_t count, Tile tile, Span span) {
    for_parts(terms, count, span.begin, span.end, [=](const Term& term, int64_t from, int64_t depth, int64_t place) {
        pack<ROWS>(packed + place * ROWS, term.left.from(tile.row, from), tile.tall, depth);
    });
}

inline void pack_right(float* strip, const Term* terms, int64_t count, int64_t column, int64_t columns, int64_t begin,
                       int64_t end) {
    for_parts(terms, count, begin, end, [=](const Term& term, int64_t from, int64_t depth, int64_t place) {
        float* part = strip + place * COLUMNS;
        pack<COLUMNS>(part, term.right.from(from, column).transposed(), columns, depth);
        if (term.scale != 1)
            for (int64_t at = 0; at < depth * COLUMNS; at += LANES) store(part + at, load(part + at) * term.scale);
    });
}

// The right factors of columns that are no more than a group, each strip behind the one before.
inline float* pack_group(int which, const Term* terms, int64_t count, int64_t first, int64_t last, int64_t begin,
                         int64_t end) {
    float* strips = own_memory(which, GROUP * std::max(DEPTH, end - begin));
    for (int64_t column = first; column < last; column += COLUMNS)
        pack_right(strips + (column - first) * (end - begin), terms, count, column,
                   std::min<int64_t>(COLUMNS, last - column), begin, end);
    return strips;
}

// Neighbouring tiles with a term of their own, whose left factors are packed behind each other; without any it has no
// depth.
struct OwnTerm {
    int64_t begin, end;  // tiles
    const Term* term;
    float* packed;

    Span span() const { return {0, term ? term->depth : 0}; }
};

// The result's tiles from `begin` to `end` and columns from `first` to `last`, which are no more than a group, as far as
// the span gives it, whose left factors are packed; and, once, what stretches of rows have of their own. `adds`: to
// what stands there.
template <class Tiles>
inline void multiply_group(Matrix to, Tiles tiles, const float* packed, const Term* terms, int64_t count, Span span,
                           const OwnTerm* owners, int64_t owned, int64_t begin, int64_t end, int64_t first,
                           int64_t last, bool adds) {
    int64_t pieces = (span.depth() + DEPTH - 1) / DEPTH, piece = (span.depth() + pieces - 1) / pieces;
    for (int64_t from = span.begin; from < span.end; from += piece) {
        int64_t until = std::min(span.end, from + piece), depth = until - from;
        bool has_sums = adds || from > span.begin;
        const float* strips = pack_group(1, terms, count, first, last, from, until);
        auto multiply_tiles = [&](int64_t top, int64_t bottom, OwnTerm own) {
            Span of_own = own.span();
            const float* own_strips = of_own.end ? pack_group(2, own.term, 1, first, last, 0, of_own.end) : nullptr;
            for (int64_t block = top; block < bottom; block += BLOCK_TILES)
                for (int64_t column = first; column < last; column += COLUMNS)
                    for (int64_t number = block; number < std::min(bottom, block + BLOCK_TILES); ++number) {
                        Tile tile = tiles[number];
                        Strips shared{packed + (number * span.depth() + from - span.begin) * ROWS,
                                      strips + (column - first) * depth, depth};
                        Strips added{own.packed + (number - own.begin) * of_own.end * ROWS,
                                     own_strips + (column - first) * of_own.end, of_own.end};
                        int64_t wide = std::min<int64_t>(COLUMNS, last - column);
                        Matrix at = to.from(tile.row, column);
                        if (to.column == 1 && wide == COLUMNS && tile.tall == ROWS)
                            multiply_tile(at.data, to.row, shared, added, has_sums);
                        else multiply_part(at, tile.tall, wide, shared, added, has_sums);
                    }
        };
        if (until < span.end || owned == 0) multiply_tiles(begin, end, OwnTerm{});
        else
            for (const OwnTerm* own = owners; own < owners + owned; ++own)
                if (own->begin < end && begin < own->end)
                    multiply_tiles(std::max(begin, own->begin), std::min(end, own->end), *own);
    }
}

// to = the sum of the terms, of `rows` x `columns` numbers each, by this thread alone.
inline void multiply(Matrix to, int64_t rows, int64_t columns, const Term* terms, int64_t count, bool adds) {
    int64_t all = depth_of(terms, count), tiles = count_tiles(rows);
    EvenTiles even{rows};
    float* packed = own_memory(0, packed_size(tiles, all));
    for (int64_t begin = 0; begin < all; begin += PACKED_DEPTH) {
        Span span{begin, std::min(all, begin + PACKED_DEPTH)};
        for (int64_t tile = 0; tile < tiles; ++tile)
            pack_left(packed + tile * span.depth() * ROWS, terms, count, even[tile], span);
        for (int64_t first = 0; first < columns; first += GROUP)
            multiply_group(to, even, packed, terms, count, span, nullptr, 0, 0, tiles, first,
                           std::min(columns, first + GROUP), adds || begin > 0);
    }
}

}  // namespace
