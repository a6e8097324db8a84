// Sums of products of matrices over all threads. Nothing here checks an argument: kernels.py has seen to it.

#include <utility>

#include "tiles.hpp"

namespace {

constexpr int64_t TASKS = 8;  // for each thread at least, so that one that is kept from running holds up little
constexpr int64_t FEW = 64;   // columns: packing the rows, which is dearer than packing columns, would take as long

// The rows' factors are packed by all threads together; then each packs the columns of what it computes.
void multiply_together(Matrix to, int64_t rows, int64_t columns, const Term* terms, int64_t count, int threads) {
    int64_t all = depth_of(terms, count), tiles = (rows + ROWS - 1) / ROWS, groups = (columns + GROUP - 1) / GROUP;
    int64_t most = std::max<int64_t>(1, rows / BLOCK_ROWS);
    int64_t parts = std::min(most, (TASKS * threads + groups - 1) / groups);
    float* packed = own_memory(0, packed_size(rows, all));
#pragma omp parallel num_threads(threads)
    for (int64_t begin = 0; begin < all; begin += PACKED_DEPTH) {
        Span span{begin, std::min(all, begin + PACKED_DEPTH)};
#pragma omp for schedule(dynamic, 4)
        for (int64_t tile = 0; tile < tiles; ++tile) pack_left(packed, terms, count, tile * ROWS, rows, span);
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < groups * parts; ++task) {
            int64_t first = task / parts * GROUP, part = task % parts;
            int64_t top = tiles * part / parts * ROWS, bottom = std::min(rows, tiles * (part + 1) / parts * ROWS);
            multiply_group(to, packed, terms, count, span, top, bottom, first, std::min(columns, first + GROUP),
                           begin > 0);
        }
        if (span.end < all) {  // what is packed is about to change; behind the last span everybody waits anyway
#pragma omp barrier
        }
    }
}

}  // namespace

extern "C" void product_f32(const Matrix* to, int64_t rows, int64_t columns, const Term* terms, int64_t count,
                            int threads) {
    if (columns > FEW || columns > rows) {
        multiply_together(*to, rows, columns, terms, count, threads);
        return;
    }
    std::vector<Term> turned(terms, terms + count);
    for (Term& term : turned) {
        term.left = term.left.transposed();
        term.right = term.right.transposed();
        std::swap(term.left, term.right);
    }
    multiply_together(to->transposed(), columns, rows, turned.data(), count, threads);
}
