// Rows of logits or scores as tasks. What a row comes to does not depend on other rows, nor on threads.
#pragma once

#include <cmath>

#include "linear.h"

constexpr int64_t kBlock = 256;  // entries that are looked at one by one only where that can matter

struct Rows {
    const float *x;
    int64_t count, stride, cols;  // elements
    const float *row(int64_t i) const { return x + i * stride; }
    static int64_t length(int64_t first, int64_t cols) { return cols - first < kBlock ? cols - first : kBlock; }
};

// -1 where there is NaN, or nothing above minus infinity
inline int64_t highest_id(const float *x, int64_t cols) {
    float most = -INFINITY;
    int64_t at = -1;
    for (int64_t first = 0; first < cols; first += kBlock) {
        bool is_special;
        int64_t n = Rows::length(first, cols);
        float here = kernels().highest(x + first, n, &is_special);
        for (int64_t i = 0; is_special && i < n; i++)
            if (x[first + i] != x[first + i]) return -1;
        if (here > most) {
            most = here;
            at = first;
        }
    }
    while (at >= 0 && x[at] != most) at++;
    return at;
}

template <class Task>
void each_row(int64_t count, int64_t threads, Task task) {
    struct Call {
        int64_t count;
        Task &task;
        Phase phase;
    } call{count, task, {}};
    auto program = [](void *context, int64_t) {
        Call &call = *static_cast<Call *>(context);
        run_phase(call.phase, call.count, [&](int64_t row) { call.task(row); });
    };
    Pool::shared().run(count < threads ? count : threads, program, &call);
}
