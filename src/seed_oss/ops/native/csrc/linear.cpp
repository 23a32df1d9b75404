#include "linear.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// Whether tiles may be used: the system lets a process have them once it has asked.
bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;  // CPUID leaf 7, EDX
    constexpr long kRequest = 0x1023, kTileData = 18;       // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & (kTile | kInt8)) != (kTile | kInt8)) return false;
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return false;
#endif
}

// Whether there are products of pairs of bf16. Not every compiler knows them by name.
bool has_bf16() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    unsigned a = 0, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
#else
    return false;
#endif
}

const Kernels *best() {
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_cpu_init();
    bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (has_avx2 && avx512_kernels() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        if (!avx512_bf16_kernels() || !has_bf16()) return avx512_kernels();
        return amx_kernels() && has_tiles() ? amx_kernels() : avx512_bf16_kernels();
    }
    if (has_avx2 && avx2_kernels()) return avx2_kernels();
#endif
    return portable_kernels();
}

const Kernels *chosen = nullptr;

float one_param(const uint8_t *at, int64_t is_wide) {
    if (is_wide) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    uint16_t raw;
    std::memcpy(&raw, at, 2);
    uint32_t sign = static_cast<uint32_t>(raw & 0x8000u) << 16, exponent = (raw >> 10) & 31u, fraction = raw & 1023u;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * static_cast<float>(fraction) * 5.9604644775390625e-8f;
    uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | (fraction << 13);
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

struct LinearCall {
    const Weight &w;
    const float *x;
    int64_t n;
    float *out;
    int64_t threads;
    ActRows acts;
    Phase phases[2];
};

void linear_program(void *context, int64_t) {
    LinearCall &call = *static_cast<LinearCall *>(context);
    const Weight &w = call.w;
    static thread_local ActRows own;
    const ActForm form = act_form(w);
    const bool is_few = call.n <= kFewTokens;
    if (form && !is_few)
        run_phase(call.phases[0], ceil_div(call.n, 8), [&](int64_t task) {
            int64_t first = task * 8;
            call.acts.round(call.x, w.cols, form, first, call.n - first < 8 ? call.n - first : 8);
        });
    auto prologue = [&] {
        if (!form || !is_few) return;
        own.reserve(call.n, w.cols, form);
        own.round(call.x, w.cols, form, 0, call.n);
    };
    BlockTasks tasks(num_blocks(w), call.n, call.threads);
    run_phase(call.phases[1], tasks.count(), prologue, [&](int64_t task) {
        Acts acts = (is_few ? own : call.acts).view(call.x, w.cols, form.group);
        tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
            float tile[kTokenTile * kBlockRows];
            kernels().product(w, block, acts, t0, t1, tile);
            int64_t first = block * kBlockRows, rows = w.rows - first < kBlockRows ? w.rows - first : kBlockRows;
            for (int64_t t = t0; t < t1; t++)
                copy_tile_row(tile + (t - t0) * kBlockRows, rows, call.out + t * w.rows + first);
        });
    });
}

}  // namespace

const Kernels &kernels() {
    if (!chosen) chosen = best();
    return *chosen;
}

extern "C" {

#define EXPORT __attribute__((visibility("default")))

EXPORT int64_t so_version() { return 15; }

// 0 portable, 1 AVX2, 2 AVX-512, 3 with BF16, 4 with AMX as well; returns what is in force. -1 takes the best; one that
// there is not changes nothing.
EXPORT int64_t so_instruction_set(int64_t wanted) {
    const Kernels *fastest = best();
    const Kernels *tables[5] = {portable_kernels(), avx2_kernels(), avx512_kernels(), avx512_bf16_kernels(), amx_kernels()};
    int64_t level = 0, top = 0;
    for (int64_t i = 0; i < 5; i++)
        if (tables[i] == fastest) top = i;
    if (wanted == -1) chosen = fastest;
    else if (wanted >= 0 && wanted <= top && tables[wanted]) chosen = tables[wanted];
    for (int64_t i = 0; i < 5; i++)
        if (tables[i] == &kernels()) level = i;
    return level;
}

EXPORT void so_linear(const Weight *w, const float *x, int64_t n, float *out, int64_t threads) {
    LinearCall call{*w, x, n, out, threads, {}, {}};
    if (n > kFewTokens) call.acts.reserve(n, w->cols, act_form(*w));
    Pool::shared().run(threads, linear_program, &call);
}

// out[i] is row ids[i] of a packed weight. Returns how many ids are in range, from the first on; the rest is not looked at.
EXPORT int64_t so_embedding(const Weight *w, const int64_t *ids, int64_t n, float *out) {
    int64_t param = w->wide_params ? 4 : 2, is_wide = w->wide_params, nibbles = w->kind == kNibbles;
    int64_t extra = w->zero == kMinimum ? 32 * param : w->zero == kPoint ? (nibbles ? 16 : 32) : 0;
    int64_t record_len = 32 * param + extra + w->group * (nibbles ? 16 : 32), groups = w->cols / w->group;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= w->rows) return i;
        int64_t row = ids[i] % kBlockRows;
        const uint8_t *record = static_cast<const uint8_t *>(w->data) + ids[i] / kBlockRows * groups * record_len;
        float *to = out + i * w->cols;
        for (int64_t g = 0; g < groups; g++, record += record_len) {
            float scale = one_param(record + row * param, is_wide), zero = 0.0f, minimum = 0.0f;
            const uint8_t *points = record + 32 * param, *data = points + extra;
            if (w->zero == kMinimum) minimum = one_param(points + row * param, is_wide);
            else if (w->zero == kSymmetric) zero = nibbles ? 8.0f : 128.0f;
            else zero = nibbles ? static_cast<float>(row < 16 ? points[row] & 15 : points[row - 16] >> 4) : points[row];
            for (int64_t column = 0; column < w->group; column++) {
                int64_t quad = column / 4, j = column % 4;
                float q = nibbles ? static_cast<float>(row < 16 ? data[64 * quad + 4 * row + j] & 15
                                                                : data[64 * quad + 4 * (row - 16) + j] >> 4)
                                  : data[128 * quad + 4 * row + j];
                *to++ = (q - zero) * scale + minimum;
            }
        }
    }
    return n;
}

EXPORT void so_quantize(const float *x, int64_t n, int64_t cols, int64_t group, int8_t *q, float *scale, int32_t *sum) {
    Buffer<float> scaled_sum;
    kernels().quantize(x, n, cols / group, group, {q, scale, sum, scaled_sum.sized(n * cols / group)}, cols / group);
}

EXPORT void so_rms_norm(const float *x, const float *weight, double eps, int64_t n, int64_t cols, float *out) {
    for (int64_t i = 0; i < n; i++) kernels().rms_norm(x + i * cols, weight, static_cast<float>(eps), cols, out + i * cols);
}

// Reads memory once, as fast as it comes; for measuring. Returns a sum so that nothing is left out.
EXPORT int64_t so_read(const uint8_t *data, int64_t num_bytes, int64_t threads) {
    struct Reading {
        const uint8_t *data;
        int64_t num_bytes;
        Phase phase;
        std::atomic<int64_t> sum{0};
    } reading{data, num_bytes, {}};
    auto program = [](void *context, int64_t) {
        Reading &r = *static_cast<Reading *>(context);
        constexpr int64_t kPart = 1 << 17;
        run_phase(r.phase, ceil_div(r.num_bytes, kPart), [&](int64_t task) {
            int64_t first = task * kPart, end = first + kPart < r.num_bytes ? first + kPart : r.num_bytes;
            r.sum.fetch_add(kernels().read(r.data + first, end - first), std::memory_order_relaxed);
        });
    };
    Pool::shared().run(threads, program, &reading);
    return reading.sum.load();
}

EXPORT void so_silu_mul(float *gate, const float *up, int64_t n) { kernels().silu_mul(gate, up, n); }
}
