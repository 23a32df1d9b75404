// What products need around the kernels: activations in 8 bits, and blocks of rows as tasks.
#pragma once

#include <cstring>
#include <memory>

#include "pool.h"
#include "types.h"

constexpr int64_t kFewTokens = 8;     // up to here each thread quantizes for itself; beyond, it is a phase of its own
constexpr int64_t kTokenTile = 96;    // tokens of one pass over a block: whole tiles of any kind
constexpr int64_t kTokensInCache = 96;  // tokens that several blocks are multiplied with before the next ones come

const Kernels &kernels();  // of the chosen instruction set

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t num_blocks(const Weight &w) { return ceil_div(w.rows, kBlockRows); }
inline bool is_packed(const Weight &w) { return w.kind == kNibbles || w.kind == kBytes; }

inline int64_t common_divisor(int64_t a, int64_t b) { return b == 0 ? a : common_divisor(b, a % b); }

// The first `count` of a token's 32 results. All of them are what there mostly is: then it is no call.
inline void copy_tile_row(const float *tile, int64_t count, float *out) {
    if (count == kBlockRows) std::memcpy(out, tile, kBlockRows * sizeof(float));
    else std::memcpy(out, tile, static_cast<size_t>(count) * sizeof(float));
}

// What weights want of activations beside fp32.
struct ActForm {
    int64_t group;  // columns that share a scale in 8 bits: 32, or less where a weight's groups want it; 0 for plain weights
    bool in_bf16;
    explicit operator bool() const { return group || in_bf16; }
};

inline ActForm act_form(const Weight &w) {
    return {is_packed(w) ? common_divisor(w.group, 32) : 0, w.kind == kBFloat16 && kernels().round_bf16};
}
inline ActForm both(ActForm a, ActForm b) { return {common_divisor(a.group, b.group), a.in_bf16 || b.in_bf16}; }

// Memory that grows and stays; growing loses what is in it, and new memory holds anything.
template <class T>
class Buffer {
   public:
    T *sized(int64_t n) {
        if (n > size_) {
            data_.reset(new T[static_cast<size_t>(n)]);
            size_ = n;
        }
        return data_.get();
    }
    T *data() const { return data_.get(); }

   private:
    std::unique_ptr<T[]> data_;
    int64_t size_ = 0;
};

// Memory for rows of activations in 8 bits and in bf16. It grows and stays; how rows are cut into groups is the caller's to know.
class ActRows {
   public:
    void reserve(int64_t n, int64_t cols, ActForm form) {
        if (form.in_bf16) bf16_.sized(n * cols);
        if (form.group) reserve(n, cols, form.group);
    }

    void reserve(int64_t n, int64_t cols, int64_t group) {
        q_.sized(n * cols);
        scale_.sized(n * cols / group);
        scaled_sum_.sized(n * cols / group);
        sum_.sized(n * cols / group);
    }

    // Rows first .. first + n of x `[.., cols]`.
    void round(const float *x, int64_t cols, ActForm form, int64_t first, int64_t n) {
        if (form.in_bf16) kernels().round_bf16(x + first * cols, n * cols, bf16_.data() + first * cols);
        if (!form.group) return;
        int64_t groups = cols / form.group;
        kernels().quantize(x + first * cols, n, groups, form.group, from(first * groups, form.group), groups);
    }

    // Group number `index` of rows first .. first + n, from x `[n, group]`.
    void quantize_group(const float *x, int64_t cols, int64_t group, int64_t first, int64_t n, int64_t index) {
        int64_t groups = cols / group;
        kernels().quantize(x, n, 1, group, from(first * groups + index, group), groups);
    }

    Acts view(const float *x, int64_t cols, int64_t group) const {
        return {x, q_.data(), scale_.data(), sum_.data(), scaled_sum_.data(), cols, group, bf16_.data()};
    }

   private:
    Rounded from(int64_t at, int64_t group) {
        return {q_.data() + at * group, scale_.data() + at, sum_.data() + at, scaled_sum_.data() + at};
    }

    Buffer<int8_t> q_;
    Buffer<uint16_t> bf16_;
    Buffer<float> scale_, scaled_sum_;
    Buffer<int32_t> sum_;
};

// Blocks of rows as tasks: two for each thread for few tokens, many for many, these with kTokensInCache tokens at a time.
struct BlockTasks {
    BlockTasks(int64_t blocks, int64_t n, int64_t threads) : blocks(blocks), n(n) {
        token_parts = n <= kFewTokens ? 1 : ceil_div(n, kTokensInCache);
        int64_t most = threads * (n <= kFewTokens ? 2 : 32);
        block_parts = blocks < most ? blocks : most;
    }
    int64_t count() const { return block_parts * token_parts; }

    // run(block, first token, end of tokens) for all of a task
    template <class Run>
    void each(int64_t task, Run run) const {
        int64_t t0 = task / block_parts * kTokensInCache, t1 = token_parts == 1 ? n : t0 + kTokensInCache;
        if (t1 > n) t1 = n;
        int64_t part = task % block_parts, end = (part + 1) * blocks / block_parts;
        for (int64_t block = part * blocks / block_parts; block < end; block++)
            for (int64_t t = t0; t < t1; t += kTokenTile) run(block, t, t + kTokenTile < t1 ? t + kTokenTile : t1);
    }

    int64_t blocks, n, block_parts, token_parts;
};
