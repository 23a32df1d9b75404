#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace {

constexpr int kAwakeTurns = 4000;  // of waiting for work before a thread goes to sleep: some tens of microseconds
constexpr int kBusyTurns = 2000;   // of waiting for others within a call before the core is offered to them
constexpr int64_t kMaxThreads = 256;

struct State {
    std::mutex one_call;
    std::mutex sleeping;
    std::condition_variable wake;
    std::atomic<int64_t> generation{0};  // odd while a program can be joined
    std::atomic<int64_t> inside{0};
    std::atomic<int64_t> num_asleep{0};
    std::atomic<int64_t> wanted{0};  // threads that shall join, besides the caller
    Pool::Program program = nullptr;
    void *context = nullptr;
    int64_t num_threads = 0;  // started
};

State *state = nullptr;
std::once_flag once;

void forget_threads() {  // in the child of a fork there are none, and a lock may be held for ever
    state = new State;
}

void work(State *mine, int64_t thread) {
    int64_t seen = 0;
    for (;;) {
        for (int turn = 0; mine->generation.load() == seen || !(mine->generation.load() & 1); turn++) {
            relax();
            if (turn < kAwakeTurns) continue;
            std::unique_lock<std::mutex> lock(mine->sleeping);
            mine->num_asleep.fetch_add(1);
            mine->wake.wait(lock, [&] { return mine->generation.load() != seen && (mine->generation.load() & 1); });
            mine->num_asleep.fetch_sub(1);
            break;
        }
        mine->inside.fetch_add(1);
        int64_t now = mine->generation.load();
        if ((now & 1) && now != seen && thread <= mine->wanted.load()) mine->program(mine->context, thread);
        mine->inside.fetch_sub(1);
        if (now & 1) seen = now;
    }
}

void start_threads(int64_t count) try {
    while (state->num_threads < count) {
        int64_t number = state->num_threads + 1;
        State *mine = state;
        std::thread([mine, number] { work(mine, number); }).detach();
        state->num_threads = number;
    }
} catch (const std::system_error &) {  // no more are allowed: those that there are take all tasks
}

}  // namespace

Pool &Pool::shared() {
    static Pool pool;
    std::call_once(once, [] {
        state = new State;
        pthread_atfork(nullptr, nullptr, forget_threads);
    });
    return pool;
}

void Pool::run(int64_t threads, Program program, void *context) {
    State *mine = state;
    std::lock_guard<std::mutex> lock(mine->one_call);
    threads = threads < 1 ? 1 : threads > kMaxThreads ? kMaxThreads : threads;
    if (threads == 1) {
        program(context, 0);
        return;
    }
    start_threads(threads - 1);
    mine->program = program;
    mine->context = context;
    mine->wanted.store(threads - 1);
    mine->generation.fetch_add(1);
    if (mine->num_asleep.load()) {
        { std::lock_guard<std::mutex> wait_until_they_sleep(mine->sleeping); }
        mine->wake.notify_all();
    }
    program(context, 0);
    mine->generation.fetch_add(1);
    wait_for(mine->inside, 0);
}

void wait_for(const std::atomic<int64_t> &counter, int64_t value) {
    for (int turn = 0; counter.load(std::memory_order_acquire) != value; turn++) {
        relax();
        if (turn >= kBusyTurns) sched_yield();
    }
}
