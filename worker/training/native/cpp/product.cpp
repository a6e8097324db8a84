// Sums of products of matrices over all threads. Nothing here checks an argument: kernels.py has seen to it.

#include <utility>
#include <vector>

#include "tiles.hpp"

namespace {

constexpr int64_t TASKS = 8;  // for each thread at least, so that one that is kept from running holds up little
constexpr int64_t FEW = 64;   // columns: packing the rows, which is dearer than packing columns, would take as long

// Neighbouring rows, and a term that is theirs alone; of no depth where they have none.
struct Stretch {
    int64_t begin, end;
    Term own;
};

// Rows cut into tiles, those of each stretch from its own first row on: whatever the others hold, its sums are the same,
// and what is no number in one cannot come into another.
struct Cut {
    std::vector<Tile> tiles;
    std::vector<OwnTerm> owners;
    int64_t packed = 0;  // numbers of all own left factors

    Cut(int64_t rows, const Stretch* stretches, int64_t count) {
        if (count == 0) add(0, rows);
        for (const Stretch* one = stretches; one < stretches + count; ++one) {
            int64_t begin = static_cast<int64_t>(tiles.size());
            add(one->begin, one->end);
            int64_t end = static_cast<int64_t>(tiles.size());
            owners.push_back({begin, end, one->own.depth ? &one->own : nullptr, nullptr});
            packed += (end - begin) * ROWS * one->own.depth;
        }
    }

    void add(int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; row += ROWS) tiles.push_back({row, std::min<int64_t>(ROWS, end - row)});
    }

    // Gives each its place, from here on.
    void place(float* memory) {
        for (OwnTerm& own : owners) {
            own.packed = memory;
            memory += (own.end - own.begin) * ROWS * own.span().end;
        }
    }
};

inline void pack_own(const OwnTerm& own, const Cut& cut) {
    Term of_own = *own.term;
    int64_t first = cut.tiles[own.begin].row;
#pragma omp for schedule(dynamic, 4) nowait
    for (int64_t number = own.begin; number < own.end; ++number) {
        Tile tile = cut.tiles[number];
        pack_left(own.packed + (number - own.begin) * of_own.depth * ROWS, &of_own, 1, {tile.row - first, tile.tall},
                  own.span());
    }
}

// The rows' factors are packed by all threads together; then each packs the columns of what it computes.
void multiply_together(Matrix to, int64_t rows, int64_t columns, const Term* terms, int64_t count,
                       const Stretch* stretches, int64_t stretched, int threads) {
    Cut cut(rows, stretches, stretched);
    int64_t all = depth_of(terms, count), tiles = static_cast<int64_t>(cut.tiles.size());
    int64_t groups = (columns + GROUP - 1) / GROUP, most = std::max<int64_t>(1, rows / BLOCK_ROWS);
    int64_t parts = std::min(most, (TASKS * threads + groups - 1) / groups), shared = packed_size(tiles, all);
    float* packed = own_memory(0, shared + cut.packed);
    cut.place(packed + shared);
    const Tile* of = cut.tiles.data();
#pragma omp parallel num_threads(threads)
    {
        for (const OwnTerm& own : cut.owners)
            if (own.term && own.begin < own.end) pack_own(own, cut);
        for (int64_t begin = 0; begin < all; begin += PACKED_DEPTH) {
            Span span{begin, std::min(all, begin + PACKED_DEPTH)};
            int64_t owned = span.end < all ? 0 : stretched;
#pragma omp for schedule(dynamic, 4)
            for (int64_t tile = 0; tile < tiles; ++tile)
                pack_left(packed + tile * span.depth() * ROWS, terms, count, of[tile], span);
#pragma omp for schedule(dynamic, 1) nowait
            for (int64_t task = 0; task < groups * parts; ++task) {
                int64_t first = task / parts * GROUP, part = task % parts;
                multiply_group(to, of, packed, terms, count, span, cut.owners.data(), owned, tiles * part / parts,
                               tiles * (part + 1) / parts, first, std::min(columns, first + GROUP), begin > 0);
            }
            if (span.end < all) {  // what is packed is about to change; behind the last span everybody waits anyway
#pragma omp barrier
            }
        }
    }
}

}  // namespace

// `stretches` are all rows, in order, or none.
extern "C" void product_f32(const Matrix* to, int64_t rows, int64_t columns, const Term* terms, int64_t count,
                            const Stretch* stretches, int64_t stretched, int threads) {
    if (stretched || columns > FEW || columns > rows) {
        multiply_together(*to, rows, columns, terms, count, stretches, stretched, threads);
        return;
    }
    std::vector<Term> turned(terms, terms + count);
    for (Term& term : turned) {
        term.left = term.left.transposed();
        term.right = term.right.transposed();
        std::swap(term.left, term.right);
    }
    multiply_together(to->transposed(), columns, rows, turned.data(), count, nullptr, 0, threads);
}
