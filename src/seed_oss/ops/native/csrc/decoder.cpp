// All layers of a decoder in one call. Phase after phase; every thread runs the same program and takes tasks.
//
//   few tokens    q k v | attend by chunks of keys | merge | o, added to x | gate up | down, added to x
//   many          norm | q k v | store keys and values | attend by tiles of queries | quantize | o | norm | gate up | down
//
// Which one runs changes no bit of a token's result.

#include <cmath>
#include <memory>

#include "linear.h"

namespace {

constexpr int64_t kPhasesPerLayer = 10;
constexpr int64_t kRowsPerTask = 64;  // query heads x queries that share one pass over keys

struct Memory {  // of one thread
    ActRows acts;
    std::vector<float> rows, queries, scratch, parts;
};

float *sized(std::vector<float> &memory, int64_t n) {
    if (static_cast<int64_t>(memory.size()) < n) memory.resize(static_cast<size_t>(n));
    return memory.data();
}

class Decoder {
   public:
    explicit Decoder(const DecoderCall &call)
        : c(call), n(call.batch * call.length), group(call.heads / call.kv_heads), few(n <= kFewTokens),
          chunks(ceil_div(call.past + call.length, kChunkKeys)),
          merges_by_thread(few && n * c.heads * chunks <= kRowsPerTask), phases(new Phase[static_cast<size_t>(call.num_layers * kPhasesPerLayer)]) {
        int64_t heads_dim = c.heads * c.head_dim;
        row_len = heads_dim + 2 * c.kv_heads * c.head_dim;
        qkv.resize(static_cast<size_t>(n * row_len));
        attended.resize(static_cast<size_t>(n * heads_dim));
        if (few) parts.resize(static_cast<size_t>(c.batch * c.kv_heads * chunks * group * c.length * (c.head_dim + 2)));
        else normed.resize(static_cast<size_t>(n * c.hidden));
        gated.resize(static_cast<size_t>(n * c.intermediate));
        reserve_acts();
    }

    void run() {
        Pool::shared().run(c.threads, [](void *self, int64_t) { static_cast<Decoder *>(self)->program(); }, this);
    }

   private:
    const DecoderCall &c;
    int64_t n, group;
    bool few;
    int64_t chunks, row_len = 0;
    bool merges_by_thread;  // each thread for itself: that takes less time than to wait for each other
    std::unique_ptr<Phase[]> phases;
    std::vector<float> qkv, attended, parts, normed, gated;
    ActRows shared_acts, gated_acts;  // of the product that is running, and of the next `down`

    void reserve_acts() {
        int64_t smallest = 32, widest = c.hidden > c.heads * c.head_dim ? c.hidden : c.heads * c.head_dim;
        if (c.intermediate > widest) widest = c.intermediate;
        for (int64_t i = 0; i < c.num_layers; i++) {
            const Layer &l = c.layers[i];
            int64_t group = group_of({&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down});
            if (group && group < smallest) smallest = group;
        }
        if (!few) shared_acts.reserve(n, widest, smallest);
        gated_acts.reserve(n, c.intermediate, kBlockRows);
    }

    void program() {
        static thread_local Memory memory;
        for (int64_t i = 0; i < c.num_layers; i++) layer(c.layers[i], phases.get() + i * kPhasesPerLayer, memory);
    }

    void layer(const Layer &l, Phase *phase, Memory &memory) {
        norm_and_quantize(l.input_norm, group_of({&l.q, &l.k, &l.v}), phase[0]);
        project(l, phase[1], memory);
        if (few) attend_few(l, phase + 2, memory);
        else attend_many(l, phase + 2, memory);
        add_attended(l.o, phase + 4, memory);
        norm_and_quantize(l.post_norm, group_of({&l.gate, &l.up}), phase[6]);
        gate_and_up(l, phase[7], memory);
        add_down(l.down, phase + 8, memory);
    }

    // 0 where no weight of them wants activations in 8 bits
    static int64_t group_of(std::initializer_list<const Weight *> weights) {
        int64_t result = 0;
        for (const Weight *w : weights)
            if (is_packed(*w)) result = common_divisor(act_group(*w), result);
        return result;
    }

    // run(first token, number of tokens), eight tokens to a task
    template <class Run>
    void each_tokens(Phase &phase, Run run) {
        run_phase(phase, ceil_div(n, 8), [&](int64_t task) {
            int64_t first = task * 8;
            run(first, n - first < 8 ? n - first : 8);
        });
    }

    // Many tokens: norm and quantization are a phase. Few: each thread does them for itself, in `own_acts`.
    void norm_and_quantize(const float *weight, int64_t group, Phase &phase) {
        if (few) return;
        each_tokens(phase, [&](int64_t first, int64_t count) {
            norm_rows(weight, first, count, normed.data());
            if (group) shared_acts.quantize(normed.data(), c.hidden, group, first, count);
        });
    }

    void norm_rows(const float *weight, int64_t first, int64_t count, float *out) {
        for (int64_t t = first; t < first + count; t++)
            kernels().rms_norm(c.x + t * c.hidden, weight, static_cast<float>(c.eps), c.hidden, out + t * c.hidden);
    }

    void own_acts(const float *norm_weight, int64_t group, Memory &memory) {
        if (!few) return;
        norm_rows(norm_weight, 0, n, sized(memory.rows, n * c.hidden));
        if (!group) return;
        memory.acts.reserve(n, c.hidden, group);
        memory.acts.quantize(memory.rows.data(), c.hidden, group, 0, n);
    }

    Acts acts_of_hidden(int64_t group, const Memory &memory) const {
        return few ? memory.acts.view(memory.rows.data(), c.hidden, group) : shared_acts.view(normed.data(), c.hidden, group);
    }

    void project(const Layer &l, Phase &phase, Memory &memory) {
        const Weight *weights[3] = {&l.q, &l.k, &l.v};
        int64_t ends[3], at[3] = {0, l.q.rows, l.q.rows + l.k.rows};
        ends[0] = num_blocks(l.q);
        ends[1] = ends[0] + num_blocks(l.k);
        ends[2] = ends[1] + num_blocks(l.v);
        BlockTasks tasks(ends[2], block_bytes(l.q), n, c.threads);
        const int64_t group_wanted = group_of({&l.q, &l.k, &l.v});
        auto prologue = [&] { own_acts(l.input_norm, group_wanted, memory); };
        run_phase(phase, tasks.count(), prologue, [&](int64_t task) {
            Acts acts = acts_of_hidden(group_wanted, memory);
            tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
                int which = block < ends[0] ? 0 : block < ends[1] ? 1 : 2;
                int64_t own_block = block - (which ? ends[which - 1] : 0);
                float tile[kTokenTile * kBlockRows];
                kernels().product(*weights[which], own_block, acts, t0, t1, tile);
                copy_rows(*weights[which], own_block, tile, t0, t1, qkv.data() + at[which], row_len);
            });
        });
    }

    static int64_t rows_in(const Weight &w, int64_t block) {
        int64_t left = w.rows - block * kBlockRows;
        return left < kBlockRows ? left : kBlockRows;
    }

    static void copy_rows(const Weight &w, int64_t block, const float *tile, int64_t t0, int64_t t1, float *out, int64_t stride) {
        for (int64_t t = t0; t < t1; t++)
            std::memcpy(out + t * stride + block * kBlockRows, tile + (t - t0) * kBlockRows,
                        static_cast<size_t>(rows_in(w, block)) * 4);
    }

    // Attention

    const float *projected(int64_t b, int64_t t, int64_t offset) const { return qkv.data() + (b * c.length + t) * row_len + offset; }
    const float *angles(const float *table, int64_t b, int64_t t) const { return table + b * c.cos_batch_stride + t * c.head_dim; }
    int64_t cache_at(int64_t b, int64_t kv_head, int64_t token) const {
        return b * c.batch_stride + kv_head * c.head_stride + token * c.head_dim;
    }
    void *in_cache(void *base, int64_t at) const {
        int64_t width = c.cache_kind == kCacheFloat32 ? 4 : c.cache_kind == kCacheBFloat16 ? 2 : 1;
        return static_cast<uint8_t *>(base) + at * width;
    }
    float *in_scales(float *base, int64_t at) const { return base ? base + at / c.head_dim : nullptr; }

    void store(const Layer &l, int64_t b, int64_t kv_head, int64_t t) {
        int64_t keys = c.heads * c.head_dim, values = keys + c.kv_heads * c.head_dim, at = cache_at(b, kv_head, c.past + t);
        float rotated[kMaxHeadDim];
        kernels().rotate(projected(b, t, keys + kv_head * c.head_dim), angles(c.cos, b, t), angles(c.sin, b, t), c.head_dim,
                         1.0f, rotated);
        const float *value = projected(b, t, values + kv_head * c.head_dim);
        kernels().store_kv(rotated, c.head_dim, c.cache_kind, in_cache(l.keys, at), in_scales(l.key_scales, at));
        kernels().store_kv(value, c.head_dim, c.cache_kind, in_cache(l.values, at), in_scales(l.value_scales, at));
    }

    Attend attend_of(const Layer &l, int64_t b, int64_t kv_head, int64_t first, int64_t count, Memory &memory) {
        float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
        int64_t rows = count * group;
        float *queries = sized(memory.queries, rows * c.head_dim);
        for (int64_t row = 0; row < rows; row++) {
            int64_t t = first + row / group, head = kv_head * group + row % group;
            kernels().rotate(projected(b, t, head * c.head_dim), angles(c.cos, b, t), angles(c.sin, b, t), c.head_dim, factor,
                             queries + row * c.head_dim);
        }
        Attend a{};
        a.q = queries;
        int64_t start = cache_at(b, kv_head, 0);
        a.keys = in_cache(l.keys, start);
        a.values = in_cache(l.values, start);
        a.key_scales = in_scales(l.key_scales, start);
        a.value_scales = in_scales(l.value_scales, start);
        a.kind = c.cache_kind;
        a.token_stride = a.head_dim = c.head_dim;
        a.rows = rows;
        a.num_groups = group;
        a.first_limit = c.is_causal ? c.past + first + 1 : c.past + c.length;
        if (c.mask) a.mask = c.mask + b * c.mask_batch_stride + first * c.mask_query_stride;
        a.mask_stride = c.mask_query_stride;
        a.scratch = sized(memory.scratch, attend_scratch(rows, c.head_dim));
        return a;
    }

    void set_chunk(Attend &a, int64_t chunk) const {
        int64_t end = (chunk + 1) * kChunkKeys, all = c.past + c.length;
        a.key_begin = chunk * kChunkKeys;
        a.key_end = end < all ? end : all;
    }

    void attend_few(const Layer &l, Phase *phase, Memory &memory) {
        int64_t rows = group * c.length, part_len = c.head_dim + 2;
        run_phase(phase[0], c.batch * c.kv_heads * chunks, [&](int64_t task) {
            int64_t chunk = task % chunks, kv_head = task / chunks % c.kv_heads, b = task / chunks / c.kv_heads;
            Attend a = attend_of(l, b, kv_head, 0, c.length, memory);
            set_chunk(a, chunk);
            for (int64_t t = 0; t < c.length; t++)
                if (c.past + t >= a.key_begin && c.past + t < a.key_end) store(l, b, kv_head, t);
            a.out = parts.data() + task * rows * part_len;
            kernels().attend(a);
        });
        if (merges_by_thread) return;
        run_phase(phase[1], c.batch * c.kv_heads, [&](int64_t task) { merge_head(task, attended.data(), memory); });
    }

    // What the chunks of a kv head (of one sequence) came to
    void merge_head(int64_t task, float *out, Memory &memory) const {
        int64_t rows = group * c.length, part_len = c.head_dim + 2, kv_head = task % c.kv_heads, b = task / c.kv_heads;
        for (int64_t row = 0; row < rows; row++) {
            float *state = new_state(memory, 1);
            for (int64_t chunk = 0; chunk < chunks; chunk++)
                kernels().merge(state, parts.data() + ((task * chunks + chunk) * rows + row) * part_len, c.head_dim);
            put_row(state, b, row / group, kv_head * group + row % group, out);
        }
    }

    void add_attended(const Weight &o, Phase *phase, Memory &memory) {
        add_product(o, attended.data(), phase, memory, [&] {
            if (!merges_by_thread) return static_cast<const float *>(attended.data());
            float *own = sized(memory.rows, n * o.cols);
            for (int64_t task = 0; task < c.batch * c.kv_heads; task++) merge_head(task, own, memory);
            return static_cast<const float *>(own);
        });
    }

    float *new_state(Memory &memory, int64_t rows) const {
        int64_t part_len = c.head_dim + 2;
        float *states = sized(memory.parts, 2 * rows * part_len);
        for (int64_t row = 0; row < rows; row++) {
            std::memset(states + row * part_len, 0, static_cast<size_t>(part_len) * 4);
            states[row * part_len + c.head_dim] = -INFINITY;
        }
        return states;
    }

    void put_row(const float *state, int64_t b, int64_t t, int64_t head, float *out) const {
        kernels().finish(state, c.head_dim, out + ((b * c.length + t) * c.heads + head) * c.head_dim);
    }

    void attend_many(const Layer &l, Phase *phase, Memory &memory) {
        run_phase(phase[0], ceil_div(n, 8), [&](int64_t task) {
            for (int64_t i = task * 8; i < task * 8 + 8 && i < n; i++)
                for (int64_t kv_head = 0; kv_head < c.kv_heads; kv_head++) store(l, i / c.length, kv_head, i % c.length);
        });
        int64_t per_tile = kRowsPerTask / group < 1 ? 1 : kRowsPerTask / group, tiles = ceil_div(c.length, per_tile);
        run_phase(phase[1], c.batch * c.kv_heads * tiles, [&](int64_t task) {
            int64_t tile = tiles - 1 - task / (c.batch * c.kv_heads);  // the longest first
            int64_t kv_head = task % c.kv_heads, b = task / c.kv_heads % c.batch, first = tile * per_tile;
            int64_t count = c.length - first < per_tile ? c.length - first : per_tile;
            attend_tile(attend_of(l, b, kv_head, first, count, memory), b, kv_head, first, memory);
        });
    }

    void attend_tile(Attend a, int64_t b, int64_t kv_head, int64_t first, Memory &memory) {
        int64_t part_len = c.head_dim + 2, last_limit = a.first_limit + (a.rows - 1) / group;
        float *states = new_state(memory, a.rows);
        a.out = states + a.rows * part_len;
        for (int64_t chunk = 0; chunk < chunks && chunk * kChunkKeys < last_limit; chunk++) {
            set_chunk(a, chunk);
            kernels().attend(a);
            for (int64_t row = 0; row < a.rows; row++)
                kernels().merge(states + row * part_len, a.out + row * part_len, c.head_dim);
        }
        for (int64_t row = 0; row < a.rows; row++)
            put_row(states + row * part_len, b, first + row / group, kv_head * group + row % group, attended.data());
    }

    // The rest of a layer

    void add_product(const Weight &w, const float *rows, Phase *phase, Memory &memory) {
        add_product(w, rows, phase, memory, [&] { return rows; });
    }

    // x += w * rows; where tokens are few, each thread asks for its rows
    template <class OwnRows>
    void add_product(const Weight &w, const float *rows, Phase *phase, Memory &memory, OwnRows own_rows) {
        const int64_t group = act_group(w);
        if (group && !few)
            each_tokens(phase[0], [&](int64_t first, int64_t count) { shared_acts.quantize(rows, w.cols, group, first, count); });
        auto prologue = [&] {
            if (!few) return;
            rows = own_rows();
            if (!group) return;
            memory.acts.reserve(n, w.cols, group);
            memory.acts.quantize(rows, w.cols, group, 0, n);
        };
        BlockTasks tasks(num_blocks(w), block_bytes(w), n, c.threads);
        run_phase(phase[1], tasks.count(), prologue, [&](int64_t task) {
            add_blocks(w, (few ? memory.acts : shared_acts).view(rows, w.cols, group), tasks, task);
        });
    }

    void add_blocks(const Weight &w, const Acts &acts, const BlockTasks &tasks, int64_t task) {
        tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
            float tile[kTokenTile * kBlockRows];
            kernels().product(w, block, acts, t0, t1, tile);
            int64_t rows = rows_in(w, block);
            for (int64_t t = t0; t < t1; t++) {
                float *to = c.x + t * c.hidden + block * kBlockRows;
                const float *from = tile + (t - t0) * kBlockRows;
                for (int64_t r = 0; r < rows; r++) to[r] += from[r];
            }
        });
    }

    // Blocks of 32 rows are groups of activations: then the next product's come out quantized.
    bool quantizes_at_once(const Weight &down) const { return act_group(down) == kBlockRows; }

    void gate_and_up(const Layer &l, Phase &phase, Memory &memory) {
        bool at_once = quantizes_at_once(l.down);
        BlockTasks tasks(num_blocks(l.gate), 2 * block_bytes(l.gate), n, c.threads);
        const int64_t group_wanted = group_of({&l.gate, &l.up});
        auto prologue = [&] { own_acts(l.post_norm, group_wanted, memory); };
        run_phase(phase, tasks.count(), prologue, [&](int64_t task) {
            Acts acts = acts_of_hidden(group_wanted, memory);
            tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
                float gate[kTokenTile * kBlockRows], up[kTokenTile * kBlockRows];
                kernels().product(l.gate, block, acts, t0, t1, gate);
                kernels().product(l.up, block, acts, t0, t1, up);
                kernels().silu_mul(gate, up, (t1 - t0) * kBlockRows);
                if (!at_once) copy_rows(l.gate, block, gate, t0, t1, gated.data(), c.intermediate);
                else gated_acts.quantize_group(gate, c.intermediate, kBlockRows, t0, t1 - t0, block);
            });
        });
    }

    void add_down(const Weight &down, Phase *phase, Memory &memory) {
        if (!quantizes_at_once(down)) return add_product(down, gated.data(), phase, memory);
        BlockTasks tasks(num_blocks(down), block_bytes(down), n, c.threads);
        Acts acts = gated_acts.view(nullptr, c.intermediate, kBlockRows);
        run_phase(phase[1], tasks.count(), [&](int64_t task) { add_blocks(down, acts, tasks, task); });
    }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void so_decoder(const DecoderCall *call) { Decoder(*call).run(); }
