// The small operations of a decode step on a CPU, each in one call: what torch launches five to twenty operations for.
//
// Storage is bfloat16 or float32, arithmetic is float32, and values are rounded to storage where torch rounds them.
// Nothing here knows a model, checks an argument or allocates what outlives a call: kernels.py has seen to both.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// ---------------------------------------------------------------- sixteen lanes, whatever registers the CPU has

struct Bf16 {
    uint16_t bits;
};
typedef float F __attribute__((vector_size(64)));
struct Halves {
    float low __attribute__((vector_size(32))), high __attribute__((vector_size(32)));
};
struct Quarters {
    float low __attribute__((vector_size(16))), high __attribute__((vector_size(16)));
};
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t Half __attribute__((vector_size(32)));
constexpr int LANES = 16;
typedef std::integral_constant<int, LANES> All;

template <class To, class From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "same bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// GCC 12 does both in halves where it is left to it.
#ifdef __AVX512F__
inline U widened(Half half) { return bits_of<U>(_mm512_cvtepu16_epi32(bits_of<__m256i>(half))); }
inline Half narrowed(U lanes) { return bits_of<Half>(_mm512_cvtepi32_epi16(bits_of<__m512i>(lanes))); }
#else
inline U widened(Half half) { return __builtin_convertvector(half, U); }
inline Half narrowed(U lanes) { return __builtin_convertvector(lanes, Half); }
#endif

inline F load(const float* from, All = {}) {
    F lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

inline F load(const Bf16* from, All = {}) {
    Half half;
    std::memcpy(&half, from, sizeof half);
    return bits_of<F>(widened(half) << 16);
}

// To the nearest, ties to even. What is no number stays none: adding could carry its bits round to zero.
inline U rounded(F lanes) {
    U bits = bits_of<U>(lanes);
    U near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    U none = bits_of<U>((bits & 0x7fffffffu) > 0x7f800000u);
    return (near & ~none) | (0x7fc0u & none);
}

inline void store(float* to, F lanes, All = {}) { std::memcpy(to, &lanes, sizeof lanes); }

inline void store(Bf16* to, F lanes, All = {}) {
    Half half = narrowed(rounded(lanes));
    std::memcpy(to, &half, sizeof half);
}

template <class T>
inline F load(const T* from, int count) {  // zeros behind the first `count`
    T part[LANES] = {};
    std::memcpy(part, from, count * sizeof(T));
    return load(part);
}

template <class T>
inline void store(T* to, F lanes, int count) {
    T part[LANES];
    store(part, lanes);
    std::memcpy(to, part, count * sizeof(T));
}

// Calls body(at, count) for every sixteen, then for the rest; `count` is a constant but for the rest.
template <class Body>
inline void each(int64_t begin, int64_t end, Body body) {
    int64_t at = begin;
    for (; at + LANES <= end; at += LANES) body(at, All());
    if (at < end) body(at, static_cast<int>(end - at));
}

template <class T>
inline F as_stored(F lanes) {
    return std::is_same<T, Bf16>::value ? bits_of<F>(rounded(lanes) << 16) : lanes;
}

template <class T>
inline float as_stored(float value) {
    return as_stored<T>(F{value})[0];
}

inline F kept(F lanes, All) { return lanes; }

inline F kept(F lanes, int count) {  // zeros behind the first `count`
    float part[LANES];
    store(part, lanes);
    return load(part, count);
}

inline float value_of(float stored) { return stored; }
inline float value_of(Bf16 stored) { return bits_of<float>(static_cast<uint32_t>(stored.bits) << 16); }

inline float sum(F lanes) {
    Halves eight = bits_of<Halves>(lanes);
    Quarters four = bits_of<Quarters>(eight.low + eight.high);
    auto two = four.low + four.high;
    return (two[0] + two[1]) + (two[2] + two[3]);
}

// e^x = 2^n e^r with |r| <= ln(2)/2, by Taylor's series to r^7 (its rest is below 6e-9); ln(2) in two parts (Cody, Waite).
inline F exponential(F x) {
    const F least = F{} - 87.0f, most = F{} + 88.0f;
    x = x < least ? least : x;
    x = x > most ? most : x;
    F n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // adding 1.5 * 2^23 leaves no digit behind the point
    F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    F p = r * (1 / 5040.0f) + 1 / 720.0f;
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * bits_of<F>((__builtin_convertvector(n, I) + 127) << 23);
}

// ---------------------------------------------------------------- threads

// Starting and ending a parallel region takes 1 to 2 microseconds: fewer numbers than this are faster without.
constexpr int64_t WORTH_A_THREAD = 16384;
constexpr int64_t POWERS_WORTH_A_THREAD = 4096;

template <class Body>
inline void for_rows(int64_t rows, int64_t width, int64_t worthwhile, int threads, Body body) {
    if (threads == 1 || rows == 1 || rows * width < worthwhile) {
        for (int64_t row = 0; row < rows; ++row) body(row);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; ++row) body(row);
}

// ---------------------------------------------------------------- norms and activations

// The residual stream's `x` takes `delta` in before it is read, where there is one.
template <class T>
inline void add(T* x, const T* delta, int64_t width) {
    if (delta == nullptr) return;
    each(0, width, [&](int64_t at, auto count) { store(x + at, load(x + at, count) + load(delta + at, count), count); });
}

template <class T>
void rms_norm(T* out, T* x, const T* delta, const T* weight, float eps, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, WORTH_A_THREAD, threads, [=](int64_t row) {
        T *to = out + row * width, *from = x + row * width;
        add(from, delta == nullptr ? nullptr : delta + row * width, width);
        F squares = {};
        each(0, width, [&](int64_t at, auto count) {
            F lanes = load(from + at, count);
            squares += lanes * lanes;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        each(0, width, [&](int64_t at, auto count) {
            store(to + at, as_stored<T>(load(from + at, count) * factor) * load(weight + at, count), count);
        });
    });
}

template <class T>
void layer_norm(T* out, T* x, const T* delta, const T* weight, const T* bias, float eps, int64_t rows, int64_t width,
                int threads) {
    for_rows(rows, width, WORTH_A_THREAD, threads, [=](int64_t row) {
        T *to = out + row * width, *from = x + row * width;
        add(from, delta == nullptr ? nullptr : delta + row * width, width);
        F total = {};
        each(0, width, [&](int64_t at, auto count) { total += load(from + at, count); });
        float mean = sum(total) / width;
        F squares = {};
        each(0, width, [&](int64_t at, auto count) {
            F lanes = kept(load(from + at, count) - mean, count);
            squares += lanes * lanes;
        });
        float factor = 1 / std::sqrt(sum(squares) / width + eps);
        each(0, width, [&](int64_t at, auto count) {
            F lanes = (load(from + at, count) - mean) * factor;
            store(to + at, lanes * load(weight + at, count) + load(bias + at, count), count);
        });
    });
}

template <class T>
void gated_silu(T* out, const T* gate_up, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        const T* gate = gate_up + row * 2 * width;
        each(0, width, [&](int64_t at, auto count) {
            F x = load(gate + at, count);
            F silu = as_stored<T>(x / (1.0f + exponential(-x)));
            store(out + row * width + at, silu * load(gate + width + at, count), count);
        });
    });
}

// (1 + tanh(u)) / 2 is 1 / (1 + e^-2u); u as in torch's gelu(approximate="tanh").
template <class T>
void gelu_tanh(T* out, const T* x, int64_t rows, int64_t width, int threads) {
    for_rows(rows, width, POWERS_WORTH_A_THREAD, threads, [=](int64_t row) {
        each(row * width, (row + 1) * width, [&](int64_t at, auto count) {
            F lanes = load(x + at, count);
            F twice_u = 1.5957691216f * (lanes + 0.044715f * lanes * lanes * lanes);
            store(out + at, lanes / (1.0f + exponential(-twice_u)), count);
        });
    });
}

// ---------------------------------------------------------------- attention of one new token a row

struct Attention {
    int64_t query_heads, kv_heads, head_dim, places, rotary;  // H, G, D, L, R
    float scale;
};

// As kernels.py's AttentionRows.
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

// Weighted values of B heads, BLOCKS * 16 of their D numbers, or the first `count` where that is less than 16.
template <class T, int B, int BLOCKS, class Count>
inline void mix(T* out, const float* weights, int64_t stride, const T* values_LD, int64_t places, int64_t head_dim,
                Count count) {
    F sums[B][BLOCKS] = {};
    for (int64_t place = 0; place < places; ++place)
        for (int block = 0; block < BLOCKS; ++block) {
            F lanes = load(values_LD + place * head_dim + block * LANES, count);
            for (int head = 0; head < B; ++head) sums[head][block] += weights[head * stride + place] * lanes;
        }
    for (int head = 0; head < B; ++head)
        for (int block = 0; block < BLOCKS; ++block)
            store(out + head * head_dim + block * LANES, sums[head][block], count);
}

// B query heads over `count` places of their kv head. Keys are read past `count`, never past L; those scores are unused.
template <class T, int B>
void attend(T* out, const float* q, const T* keys, const T* values, int64_t count, float* scores, const Attention& of) {
    int64_t stride = (of.places + LANES - 1) / LANES * LANES, D = of.head_dim, at = 0;
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
    for (int head = 0; head < B; ++head) softmax(scores + head * stride, count);
    int64_t d = 0;
    if (D % (5 * LANES) == 0)  // Phi's 80 in one pass
        for (; d < D; d += 5 * LANES) mix<T, B, 5>(out + d, scores, stride, values + d, count, D, All());
    for (; d + 4 * LANES <= D; d += 4 * LANES) mix<T, B, 4>(out + d, scores, stride, values + d, count, D, All());
    each(d, D, [&](int64_t from, auto lanes) { mix<T, B, 1>(out + from, scores, stride, values + from, count, D, lanes); });
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
    T stored[LANES];
    each(0, D, [&](int64_t at, auto count) {
        store(stored, load(k + at, count));
        for (int lane = 0; lane < count; ++lane) keys[(at + lane) * of.places + length] = stored[lane];
    });
    std::memcpy(values + length * D, qkv + (of.query_heads + of.kv_heads + group) * D, D * sizeof(T));
    for (int64_t head = 0; head < shared;) {
        T* to = out + (first + head) * D;
        const float* from = q + head * D;
        int64_t left = shared - head;
        if (left >= 4) attend<T, 4>(to, from, keys, values, length + 1, scores, of);
        else if (left == 3) attend<T, 3>(to, from, keys, values, length + 1, scores, of);
        else if (left == 2) attend<T, 2>(to, from, keys, values, length + 1, scores, of);
        else attend<T, 1>(to, from, keys, values, length + 1, scores, of);
        head += 4;
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

// ---------------------------------------------------------------- LoRA

// Modules that share an input: a_SRI, and of each its b_RO and where its outputs lie in y. As kernels.py's LoraSite.
constexpr int MOST_SECTIONS = 8;
constexpr int64_t MOST_OUTPUTS = 1024;  // a chunk's sums of four rows fit in the first-level cache
struct LoraSite {
    const void* a;
    int64_t sections, columns, inputs;
    const void* b[MOST_SECTIONS];
    int64_t offsets[MOST_SECTIONS], widths[MOST_SECTIONS];
};

// As kernels.py's LoraRows: which columns of the bank each row uses, of each section where `ranks_stride` is not 0.
struct LoraRows {
    const int32_t *begins, *ranks;
    int64_t ranks_stride, count;
};

// Rows of one adapter in one module: they share the reads of its factors. h_MR is what lies between the two.
struct LoraPart {
    int64_t section, begin, rank;
    const int32_t* rows;
    int64_t count;
    float* h;
};

// Dots of C rows of `a` with x.
template <int C, class T>
inline void dot(float* dots, const T* x, const T* a, int64_t inputs) {
    F sums[C] = {};
    each(0, inputs, [&](int64_t at, auto count) {
        F lanes = load(x + at, count);
        for (int row = 0; row < C; ++row) sums[row] += lanes * load(a + row * inputs + at, count);
    });
    for (int row = 0; row < C; ++row) dots[row] = sum(sums[row]);
}

#ifdef __AVX512BF16__
template <int C>
inline void dot(float* dots, const Bf16* x, const Bf16* a, int64_t inputs) {
    __m512 sums[C];
    for (int row = 0; row < C; ++row) sums[row] = _mm512_setzero_ps();
    for (int64_t at = 0; at < inputs; at += 32) {
        __mmask32 mask = at + 32 <= inputs ? 0xffffffffu : (1u << (inputs - at)) - 1;
        __m512bh lanes = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + at);
        for (int row = 0; row < C; ++row) {
            __m512bh factors = (__m512bh)_mm512_maskz_loadu_epi16(mask, a + row * inputs + at);
            __builtin_prefetch(a + (row + C) * inputs + at);
            sums[row] = _mm512_dpbf16_ps(sums[row], lanes, factors);
        }
    }
    for (int row = 0; row < C; ++row) dots[row] = sum(bits_of<F>(sums[row]));
}
#endif

// Columns [from, to) of a part's h.
template <class T>
void shrink(const LoraPart& part, int64_t from, int64_t to, const T* x, int64_t x_stride, const LoraSite& site) {
    const T* a = static_cast<const T*>(site.a) + (part.section * site.columns + part.begin) * site.inputs;
    for (int64_t column = from; column < to;) {
        int64_t step = to - column >= 4 ? 4 : 1;
        for (int64_t row = 0; row < part.count; ++row) {
            const T* in = x + part.rows[row] * x_stride;
            float* h = part.h + row * part.rank + column;
            if (step == 4) dot<4>(h, in, a + column * site.inputs, site.inputs);
            else dot<1>(h, in, a + column * site.inputs, site.inputs);
            for (int64_t at = 0; at < step; ++at) h[at] = as_stored<T>(h[at]);
        }
        column += step;
    }
}

// Sums of an output chunk are float32, of bfloat16 pairwise in the order in which the CPU's unpacking leaves them.
template <class T>
inline void take_up(float* sums, const T* y, int64_t width) {
    each(0, width, [&](int64_t at, auto count) { store(sums + at, load(y + at, count)); });
}

template <class T>
inline void put_down(T* y, const float* sums, int64_t width) {
    each(0, width, [&](int64_t at, auto count) { store(y + at, load(sums + at), count); });
}

// Adds C rows of b, weighted by h, to the sums of M rows; `h_stride` and `sums_stride` lie between these.
template <int M, int C, class T>
inline void weigh(float* sums, int64_t sums_stride, const float* h, int64_t h_stride, const T* b, int64_t b_stride,
                  int64_t width) {
    each(0, width, [&](int64_t at, auto count) {
        F factors[C];
        for (int column = 0; column < C; ++column) factors[column] = load(b + column * b_stride + at, count);
        for (int row = 0; row < M; ++row) {
            F total = load(sums + row * sums_stride + at);
            for (int column = 0; column < C; ++column) total += h[row * h_stride + column] * factors[column];
            store(sums + row * sums_stride + at, total);
        }
    });
}

#ifdef __AVX512BF16__
inline __mmask32 first(int64_t count) { return count >= 32 ? 0xffffffffu : (1u << count) - 1; }

inline void take_up(float* sums, const Bf16* y, int64_t width) {
    for (int64_t at = 0; at < width; at += 32) {
        __m512i low = _mm512_setzero_si512(), lanes = _mm512_maskz_loadu_epi16(first(width - at), y + at);
        store(sums + at, bits_of<F>(_mm512_unpacklo_epi16(low, lanes)));
        store(sums + at + LANES, bits_of<F>(_mm512_unpackhi_epi16(low, lanes)));
    }
}

inline void put_down(Bf16* y, const float* sums, int64_t width) {
    for (int64_t at = 0; at < width; at += 32) {
        __m512i even = bits_of<__m512i>(rounded(load(sums + at))), odd = bits_of<__m512i>(rounded(load(sums + at + LANES)));
        _mm512_mask_storeu_epi16(y + at, first(width - at), _mm512_packus_epi32(even, odd));
    }
}

// Two rows of b at a time: their numbers side by side are what dpbf16 multiplies by two of h.
template <int M, int C>
inline void weigh(float* sums, int64_t sums_stride, const float* h, int64_t h_stride, const Bf16* b, int64_t b_stride,
                  int64_t width) {
    constexpr int PAIRS = (C + 1) / 2;
    __m512bh pairs[M][PAIRS];
    for (int row = 0; row < M; ++row)
        for (int pair = 0; pair < PAIRS; ++pair) {
            const float* of = h + row * h_stride + 2 * pair;
            uint32_t second = 2 * pair + 1 < C ? bits_of<uint32_t>(of[1]) : 0;
            pairs[row][pair] = (__m512bh)_mm512_set1_epi32(bits_of<uint32_t>(of[0]) >> 16 | second);
        }
    for (int64_t at = 0; at < width; at += 32) {
        __m512bh even[PAIRS], odd[PAIRS];
        for (int pair = 0; pair < PAIRS; ++pair) {
            const Bf16* factors = b + 2 * pair * b_stride + at;
            __m512i one = _mm512_maskz_loadu_epi16(first(width - at), factors), other = _mm512_setzero_si512();
            __builtin_prefetch(factors + C * b_stride);
            if (2 * pair + 1 < C) {
                other = _mm512_maskz_loadu_epi16(first(width - at), factors + b_stride);
                __builtin_prefetch(factors + (C + 1) * b_stride);
            }
            even[pair] = (__m512bh)_mm512_unpacklo_epi16(one, other);
            odd[pair] = (__m512bh)_mm512_unpackhi_epi16(one, other);
        }
        for (int row = 0; row < M; ++row) {
            float* to = sums + row * sums_stride + at;
            __m512 evens = _mm512_loadu_ps(to), odds = _mm512_loadu_ps(to + LANES);
            for (int pair = 0; pair < PAIRS; ++pair) {
                evens = _mm512_dpbf16_ps(evens, pairs[row][pair], even[pair]);
                odds = _mm512_dpbf16_ps(odds, pairs[row][pair], odd[pair]);
            }
            _mm512_storeu_ps(to, evens);
            _mm512_storeu_ps(to + LANES, odds);
        }
    }
}
#endif

// The outputs of M rows of a part, `width` of them from `at` on.
template <int M, class T>
void expand_rows(const LoraPart& part, int64_t row, int64_t at, int64_t width, T* y, int64_t y_stride,
                 const LoraSite& site) {
    constexpr int64_t CHUNK = MOST_OUTPUTS;
    alignas(64) float sums[M * CHUNK];
    int64_t outputs = site.widths[part.section], rank = part.rank, column = 0;
    const T* b = static_cast<const T*>(site.b[part.section]) + part.begin * outputs + at;
    const float* h = part.h + row * rank;
    T* places[M];
    for (int which = 0; which < M; ++which) {
        places[which] = y + part.rows[row + which] * y_stride + site.offsets[part.section] + at;
        take_up(sums + which * CHUNK, places[which], width);
    }
    for (; column + 4 <= rank; column += 4)
        weigh<M, 4>(sums, CHUNK, h + column, rank, b + column * outputs, outputs, width);
    for (; column < rank; ++column)
        weigh<M, 1>(sums, CHUNK, h + column, rank, b + column * outputs, outputs, width);
    for (int which = 0; which < M; ++which) put_down(places[which], sums + which * CHUNK, width);
}

// Outputs [from, to) of a part: b is read in runs of a chunk, once for up to four rows.
template <class T>
void expand(const LoraPart& part, int64_t from, int64_t to, T* y, int64_t y_stride, const LoraSite& site) {
    for (int64_t at = from; at < to; at += MOST_OUTPUTS)
        for (int64_t row = 0; row < part.count; row += 4) {
            int64_t width = std::min(MOST_OUTPUTS, to - at), left = part.count - row;
            if (left >= 4) expand_rows<4>(part, row, at, width, y, y_stride, site);
            else if (left == 3) expand_rows<3>(part, row, at, width, y, y_stride, site);
            else if (left == 2) expand_rows<2>(part, row, at, width, y, y_stride, site);
            else expand_rows<1>(part, row, at, width, y, y_stride, site);
        }
}

// Gives thread `which` its share of all parts' units, in runs: body(part, from, to). A unit of a part costs `cost`.
template <class Units, class Cost, class Body>
void share(const std::vector<LoraPart>& parts, int which, int threads, int64_t grain, Units units, Cost cost, Body body) {
    int64_t total = 0, before = 0;
    for (const LoraPart& part : parts) total += units(part) * cost(part);
    int64_t begin = total * which / threads, end = total * (which + 1) / threads;
    for (const LoraPart& part : parts) {
        // both neighbours of a border round it alike, so that each unit has one thread
        auto unit = [&](int64_t border) {
            int64_t at = std::clamp<int64_t>((border - before) / cost(part), 0, units(part));
            return at == units(part) ? at : at / grain * grain;
        };
        int64_t from = unit(begin), to = unit(end);
        if (from < to) body(part, from, to);
        before += units(part) * cost(part);
    }
}

// One part for each section and each run of columns in use; rows of equal columns come together in `order`.
std::vector<LoraPart> parts_of(const LoraSite& site, const LoraRows& of, std::vector<int32_t>& order,
                               std::vector<float>& h) {
    const int32_t* begins = of.begins;
    int64_t rows = of.count;
    order.resize(rows);
    for (int64_t row = 0; row < rows; ++row) order[row] = static_cast<int32_t>(row);
    std::stable_sort(order.begin(), order.end(), [&](int32_t left, int32_t right) { return begins[left] < begins[right]; });
    std::vector<LoraPart> parts;
    int64_t size = 0;
    for (int64_t section = 0; section < site.sections; ++section) {
        const int32_t* rank = of.ranks + section * of.ranks_stride;
        for (int64_t at = 0, next; at < rows; at = next) {
            int32_t row = order[at];
            for (next = at + 1; next < rows; ++next)
                if (begins[order[next]] != begins[row] || rank[order[next]] != rank[row]) break;
            if (rank[row] == 0) continue;
            parts.push_back({section, begins[row], rank[row], &order[at], next - at, nullptr});
            size += rank[row] * (next - at);
        }
    }
    if (static_cast<int64_t>(h.size()) < size) h.resize(size);
    float* to = h.data();
    for (LoraPart& part : parts) part.h = to, to += part.rank * part.count;
    return parts;
}

template <class T>
void lora(T* y, int64_t y_stride, const T* x, int64_t x_stride, const LoraSite& site, const LoraRows& rows,
          int threads) {
    static thread_local std::vector<int32_t> order;
    static thread_local std::vector<float> h;
    const std::vector<LoraPart> parts = parts_of(site, rows, order, h);
    int64_t numbers = 0;
    for (const LoraPart& part : parts) numbers += part.rank * (site.inputs + site.widths[part.section]);
    auto columns = [](const LoraPart& part) { return part.rank; };
    auto outputs = [&](const LoraPart& part) { return site.widths[part.section]; };
    auto one = [](const LoraPart&) { return int64_t{1}; };
    auto shrinking = [&](const LoraPart& part, int64_t from, int64_t to) { shrink(part, from, to, x, x_stride, site); };
    auto expanding = [&](const LoraPart& part, int64_t from, int64_t to) { expand(part, from, to, y, y_stride, site); };
    if (threads == 1 || numbers < WORTH_A_THREAD) {
        for (const LoraPart& part : parts) shrinking(part, 0, columns(part)), expanding(part, 0, outputs(part));
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        int which = omp_get_thread_num(), team = omp_get_num_threads();
        share(parts, which, team, 1, columns, one, shrinking);
#pragma omp barrier
        share(parts, which, team, LANES, outputs, columns, expanding);
    }
}

}  // namespace

// ---------------------------------------------------------------- what kernels.py calls

#define EXPORT(T, NAME)                                                                                                \
    extern "C" void rms_norm_##NAME(T* out, T* x, const T* delta, const T* weight, float eps, int64_t rows,            \
                                    int64_t width, int threads) {                                                      \
        rms_norm(out, x, delta, weight, eps, rows, width, threads);                                                    \
    }                                                                                                                  \
    extern "C" void layer_norm_##NAME(T* out, T* x, const T* delta, const T* weight, const T* bias, float eps,         \
                                      int64_t rows, int64_t width, int threads) {                                      \
        layer_norm(out, x, delta, weight, bias, eps, rows, width, threads);                                            \
    }                                                                                                                  \
    extern "C" void gated_silu_##NAME(T* out, const T* gate_up, int64_t rows, int64_t width, int threads) {            \
        gated_silu(out, gate_up, rows, width, threads);                                                                \
    }                                                                                                                  \
    extern "C" void gelu_tanh_##NAME(T* out, const T* x, int64_t rows, int64_t width, int threads) {                   \
        gelu_tanh(out, x, rows, width, threads);                                                                       \
    }                                                                                                                  \
    extern "C" void decode_attention_##NAME(T* out, const T* qkv, int64_t qkv_stride, T* keys, T* values,              \
                                            const AttentionRows* rows, int64_t query_heads, int64_t kv_heads,          \
                                            int64_t head_dim, int64_t places, float scale, int threads) {              \
        const Attention of = {query_heads, kv_heads, head_dim, places, rows->rotary, scale};                           \
        decode_attention(out, qkv, qkv_stride, keys, values, *rows, of, threads);                                      \
    }                                                                                                                  \
    extern "C" void lora_##NAME(T* y, int64_t y_stride, const T* x, int64_t x_stride, const LoraSite* site,            \
                                const LoraRows* rows, int threads) {                                                   \
        lora(y, y_stride, x, x_stride, *site, *rows, threads);                                                         \
    }
EXPORT(Bf16, bf16)
EXPORT(float, f32)
