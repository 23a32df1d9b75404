// Threads that share out numbered tasks. They wait awake for a moment, then asleep, and survive a fork.
//
// A phase is over when all its tasks are done, not when all threads have come by: a thread whose core is busy with
// something else holds up at most the one task it has taken.
#pragma once

#include <atomic>
#include <cstdint>

struct Phase {
    std::atomic<int64_t> next{0}, done{0};
};

class Pool {
   public:
    using Program = void (*)(void *context, int64_t thread);

    // Runs `program` in up to `threads` threads, the calling one included; returns when all that came have left.
    void run(int64_t threads, Program program, void *context);

    static Pool &shared();  // one at a time: callers wait for each other
};

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void wait_for(const std::atomic<int64_t> &counter, int64_t value);

// Takes tasks of a phase until none is left, then waits until the last one is done. `prologue` runs once before the
// first task that this thread gets.
template <class Prologue, class Task>
void run_phase(Phase &phase, int64_t num_tasks, Prologue prologue, Task task) {
    bool is_first = true;
    for (;;) {
        int64_t index = phase.next.fetch_add(1, std::memory_order_relaxed);
        if (index >= num_tasks) break;
        if (is_first) prologue();
        is_first = false;
        task(index);
        phase.done.fetch_add(1, std::memory_order_release);
    }
    wait_for(phase.done, num_tasks);
}

template <class Task>
void run_phase(Phase &phase, int64_t num_tasks, Task task) {
    run_phase(phase, num_tasks, [] {}, task);
}
