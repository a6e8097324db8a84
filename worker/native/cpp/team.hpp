// Threads that compute together: a team of OpenMP's.
//
// What a kernel does is written for each thread of a team, which takes its share and waits for the others at the end.
// A thread outside of any is a team of its own.

#pragma once

#include <omp.h>

#include <cstdint>

namespace {

// Starting and ending a team takes 1 to 2 microseconds: fewer numbers than this are faster without.
constexpr int64_t WORTH_A_THREAD = 16384;
constexpr int64_t POWERS_WORTH_A_THREAD = 4096;

// Has each thread of a team do what body() says; one thread where it would not be worthwhile.
template <class Body>
inline void with_team(int threads, bool is_worthwhile, Body body) {
    if (threads == 1 || !is_worthwhile) return body();
#pragma omp parallel num_threads(threads)
    body();
}

inline void wait_for_team() {
#pragma omp barrier
}

// Calls body(index) for the thread's share of all indices, which is the same each time.
template <class Body>
inline void share(int64_t count, Body body) {
#pragma omp for schedule(static)
    for (int64_t index = 0; index < count; ++index) body(index);
}

// As `share`, of work that differs in length: whoever is free takes the next `grain` of it.
template <class Body>
inline void share_unequal(int64_t count, int grain, Body body) {
    if (count == 0) return;
    if (omp_get_num_threads() == 1) {
        for (int64_t index = 0; index < count; ++index) body(index);
        return;
    }
#pragma omp for schedule(dynamic, grain)
    for (int64_t index = 0; index < count; ++index) body(index);
}

// A call by itself: calls body(row) for each, by a team where the rows' numbers are worth one.
template <class Body>
inline void for_rows(int64_t rows, int64_t width, int64_t worthwhile, int threads, Body body) {
    with_team(threads, rows > 1 && rows * width >= worthwhile, [=] { share(rows, body); });
}

}  // namespace
