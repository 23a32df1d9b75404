// Rows of logits: their highest entry, their k highest, the logarithm of their sum. A row is a task, cut into blocks;
// what a block comes to does not depend on other rows, nor on threads.

#include <algorithm>
#include <vector>

#include "rows.h"

namespace {

// Orders as sorting does: NaN above all, 0 and -0 equal.
int32_t rank_of(float value) {
    if (value != value) return INT32_MAX;
    float same = value + 0.0f;
    int32_t bits;
    std::memcpy(&bits, &same, 4);
    return bits < 0 ? static_cast<int32_t>(~bits ^ INT32_MIN) : bits;
}

struct Candidate {
    int32_t rank;
    int64_t id;
    bool operator<(const Candidate &other) const {  // better ones first
        return rank != other.rank ? rank > other.rank : id < other.id;
    }
};

float log_sum_exp(const float *x, int64_t cols) {
    float top = -INFINITY;
    bool is_special, is_any = false;
    for (int64_t first = 0; first < cols; first += kBlock) {
        float here = kernels().highest(x + first, Rows::length(first, cols), &is_special);
        is_any |= is_special;
        if (here > top) top = here;
    }
    for (int64_t i = 0; is_any && i < cols; i++)
        if (x[i] != x[i]) return x[i];
    if (std::isinf(top)) return top;
    double sum = 0.0;
    for (int64_t first = 0; first < cols; first += kBlock)
        sum += static_cast<double>(kernels().sum_exp(x + first, Rows::length(first, cols), top));
    return static_cast<float>(static_cast<double>(top) + std::log(sum));
}

void top_k(const float *x, int64_t cols, int64_t k, std::vector<Candidate> &best, float *values, int64_t *ids) {
    best.clear();  // a heap whose front is the worst
    for (int64_t first = 0; first < cols; first += kBlock) {
        int64_t n = Rows::length(first, cols), id = first;
        bool is_special, is_full = static_cast<int64_t>(best.size()) == k;
        float here = kernels().highest(x + first, n, &is_special);
        if (is_full && !is_special && rank_of(here) <= best.front().rank) continue;
        for (; id < first + n; id++) {
            Candidate one{rank_of(x[id]), id};
            if (static_cast<int64_t>(best.size()) == k) {
                if (!(one < best.front())) continue;
                std::pop_heap(best.begin(), best.end());
                best.pop_back();
            }
            best.push_back(one);
            std::push_heap(best.begin(), best.end());
        }
    }
    std::sort_heap(best.begin(), best.end());
    for (int64_t i = 0; i < k; i++) {
        ids[i] = best[static_cast<size_t>(i)].id;
        values[i] = x[ids[i]];
    }
}

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

EXPORT void so_argmax(const float *x, int64_t count, int64_t stride, int64_t cols, int64_t *out, int64_t threads) {
    Rows rows{x, count, stride, cols};
    each_row(count, threads, [&](int64_t row) { out[row] = highest_id(rows.row(row), cols); });
}

EXPORT void so_log_sum_exp(const float *x, int64_t count, int64_t stride, int64_t cols, float *out, int64_t threads) {
    Rows rows{x, count, stride, cols};
    each_row(count, threads, [&](int64_t row) { out[row] = log_sum_exp(rows.row(row), cols); });
}

// values and ids [count, k], k from 1 to cols
EXPORT void so_top_k(const float *x, int64_t count, int64_t stride, int64_t cols, int64_t k, float *values, int64_t *ids,
                     int64_t threads) {
    Rows rows{x, count, stride, cols};
    each_row(count, threads, [&](int64_t row) {
        static thread_local std::vector<Candidate> best;
        top_k(rows.row(row), cols, k, best, values + row * k, ids + row * k);
    });
}
}
