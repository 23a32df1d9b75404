// What the kernels, the drivers and Python share. Plain data; sizes count elements unless they say bytes.
#pragma once

#include <cstdint>

enum WeightKind : int32_t { kNibbles = 0, kBytes = 1, kBFloat16 = 2, kFloat32 = 3 };
enum CacheKind : int64_t { kCacheBFloat16 = 0, kCacheFloat32 = 1, kCacheInt8 = 2 };
enum ZeroKind : int32_t { kSymmetric = 0, kMinimum = 1, kPoint = 2 };

constexpr int64_t kBlockRows = 32;    // rows of a weight that lie together, see ops/packing.py
constexpr int64_t kNearCols = 4096;   // numbers of a token that stay in the nearest cache beside a weight that is read
constexpr int64_t kFewRows = 8;       // tokens up to which reading a plain weight takes longer than multiplying with it
constexpr int64_t kMaxTile = 6;       // tokens that share one pass over a block
constexpr int64_t kChunkKeys = 256;   // keys whose softmax is one unit of the fixed order of attention
constexpr int64_t kUnitKeys = 16;     // keys that lie one behind the other, wherever the next ones are
constexpr int64_t kChunkUnits = kChunkKeys / kUnitKeys;
constexpr int64_t kMaxHeadDim = 256;

struct Weight {
    const void *data;   // packed, or [rows, cols] of bf16 or fp32
    const float *bias;  // [rows] or null
    int64_t rows, cols;
    int32_t kind, group, zero, wide_params;
};

// Inputs of products: fp32 rows, and the same in 8 bits per group of columns, or in bf16.
struct Acts {
    const float *x;        // [n, cols]
    const int8_t *q;       // [n, cols]
    const float *scale;    // [n, cols / group]
    const int32_t *sum;    // [n, cols / group], sums of q
    const float *scaled_sum;  // the same times their scales
    int64_t cols, group;
    const uint16_t *bf16 = nullptr;  // [n, cols]
};

// Where such inputs are written to.
struct Rounded {
    int8_t *q;
    float *scale;
    int32_t *sum;
    float *scaled_sum;
};

// Where 16 keys of a chunk are, of one sequence and one kv head.
struct Unit {
    const void *keys, *values;
    const float *key_scales, *value_scales;  // per token, for 8 bits; else null
};

struct Attend {
    const float *q;         // [rows, head_dim], rotated and scaled; row = query * num_groups + head of the group
    Unit units[kChunkUnits + 2];  // of the chunk; behind the last one in use, the same again: it is asked for ahead
    int64_t kind;           // of keys and values
    int64_t token_stride;   // of keys and values
    int64_t head_dim, rows, num_groups;
    int64_t key_begin, key_end;  // of the chunk
    int64_t first_limit;    // query i sees the first first_limit + i keys
    const uint8_t *mask;    // [queries, keys] of bytes, or null
    int64_t mask_stride;
    float *scratch;         // attend_scratch(rows, head_dim) floats
    float *out;             // [rows, head_dim + 2]: sum of values, its maximum score, its sum of weights
};

constexpr int64_t kNoiseEntries = 64;  // entries of the vocabulary whose random words are made together
constexpr int64_t kNumLimits = 8;      // limits that a row's mass is measured at together

// What the noise of a row depends on, beside the entry of the vocabulary; see ops/noise.py.
struct Noise {
    uint32_t key[2], token_index, row;
};

struct Kernels {
    // x [rows, groups * group]; a row of the result starts row_groups groups behind the one before
    void (*quantize)(const float *x, int64_t rows, int64_t groups, int64_t group, const Rounded &to, int64_t row_groups);
    // n numbers in bf16, the nearest ones; null where products with weights in bf16 read activations in fp32
    void (*round_bf16)(const float *x, int64_t n, uint16_t *out);
    // out[t, 0..31] of tokens t0 <= t < t1 for one block of rows, bias included
    void (*product)(const Weight &w, int64_t block, const Acts &acts, int64_t t0, int64_t t1, float *out);
    void (*rms_norm)(const float *x, const float *weight, float eps, int64_t cols, float *out);
    void (*silu_mul)(float *gate, const float *up, int64_t n);
    void (*add_to)(float *x, const float *y, int64_t n);  // x += y
    void (*rotate)(const float *x, const float *cos, const float *sin, int64_t head_dim, float factor, float *out);
    void (*store_kv)(const float *x, int64_t n, int64_t kind, void *out, float *scale);
    void (*attend)(const Attend &a);
    void (*merge)(float *state, const float *part, int64_t head_dim);
    void (*finish)(const float *state, int64_t head_dim, float *out);
    int64_t (*read)(const uint8_t *data, int64_t num_bytes);
    // the highest of n numbers; whether one of them is infinite or none goes into *is_special, and NaN does not count
    float (*highest)(const float *x, int64_t n, bool *is_special);
    float (*sum_exp)(const float *x, int64_t n, float top);  // of e ** (x - top)
    // Random words of entries first .. first + kNoiseEntries into words, and which of the n scores x could reach `best`
    // together with their noise, one bit each; 0 where no noise is large enough, and no words then.
    uint64_t (*rivals)(const float *x, int64_t n, const Noise &noise, int64_t first, float best, uint32_t *words);
    // w[i] = e ** (x[i] - top), up to the next multiple of 16 (0 behind n); returns their sum
    float (*weigh)(const float *x, int64_t n, float top, float *w);
    // sums[k] = sum of w where x < limits[k], for kNumLimits limits; w is readable up to the next multiple of 16
    void (*masses_below)(const float *x, const float *w, int64_t n, const float *limits, float *sums);
    uint64_t (*between)(const float *x, int64_t n, float low, float high);  // low <= x < high, one bit each; n up to 64
    void (*fill_below)(const float *x, int64_t n, float limit, float fill, float *out);  // fill where x < limit, else x
};

// Layers of a decoder, and one call of it; laid out as ops/native/structs.py says.

// What an adapter adds to a weight: b * (a * x); null where it adds nothing.
struct LowRank {
    const float *a, *b;  // [rank, cols] and [rows, rank], scaled
};

struct Layer {
    Weight q, k, v, o, gate, up, down;
    const float *input_norm, *post_norm;  // [hidden]
    void *keys, *values;                  // [num_blocks, kv_heads, block_len, head_dim], room for new tokens included
    float *key_scales, *value_scales;     // [num_blocks, kv_heads, block_len], for 8 bits; else null
    LowRank low_ranks[7];                 // of the weights above, in their order
};

// New tokens of one sequence. Its token t is in block blocks[first_block + t / block_len], at t % block_len.
struct Sequence {
    int64_t first_row, length, past;  // of x; new tokens; cached tokens
    int64_t first_block;              // of its table, in that of all
    int64_t first_angle;              // row of cos and sin that belongs to first_row
};

// A batch of equally long rows in memory that is not paged has one block for each row.
struct DecoderCall {
    int64_t num_layers, hidden, heads, kv_heads, head_dim, intermediate;
    const Layer *layers;
    int64_t num_tokens, num_sequences;
    const Sequence *sequences;
    const int64_t *blocks;
    int64_t cache_kind, block_len, block_stride, head_stride;  // of keys and values; in a block a token follows the other
    const float *cos, *sin;                           // [rows, head_dim]
    const uint8_t *mask;                              // [num_sequences, length, past + length] of bytes, or null
    int64_t mask_batch_stride, mask_query_stride;
    int64_t is_causal;
    float *x;                                         // [num_tokens, hidden], replaced by the result
    double eps;
    int64_t threads;
    int64_t rank;                                     // of the adapter; 0 without
};

// All of one token per row: ids to logits. The decoder's x is scratch.
struct StepCall {
    const DecoderCall *decoder;
    Weight embedding, head;
    const int64_t *ids;  // [num_tokens]
    const float *norm;   // [hidden]
    double norm_eps;
    float *logits;   // [num_tokens, head.rows]
    int64_t *best;   // [num_tokens], as so_argmax; or null
    int8_t *is_lost;  // [num_tokens], whether the hidden states have NaN, or infinities of both signs; or null
};

constexpr int64_t attend_scratch(int64_t rows, int64_t head_dim) {
    return rows * (kChunkKeys + head_dim / 2) + 32 * head_dim;
}

const Kernels *portable_kernels();
const Kernels *avx2_kernels();    // null where this build has none
const Kernels *avx512_kernels();
const Kernels *avx512_bf16_kernels();
const Kernels *amx_kernels();
