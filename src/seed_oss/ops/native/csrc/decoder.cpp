// All layers of a decoder in one call. Phase after phase; every thread runs the same program and takes tasks.
//
//   few tokens    q k v | attend by chunks of keys | merge | o, added to x | gate up | down, added to x
//   many          norm | q k v | store keys and values | attend by tiles of queries | merge | quantize | o | norm | gate up | down
//
// Which one runs changes no bit of a token's result.

#include <cmath>
#include <memory>

#include "attention.h"

namespace {

constexpr int64_t kPhasesPerLayer = 11;

struct Memory {  // of one thread
    ActRows acts;
    std::vector<float> rows, queries, scratch, parts, low;
};

enum Which : int64_t { kQ, kK, kV, kO, kGate, kUp, kDown };  // weights of a layer

float *sized(std::vector<float> &memory, int64_t n) {
    if (static_cast<int64_t>(memory.size()) < n) memory.resize(static_cast<size_t>(n));
    return memory.data();
}

class Decoder {
   public:
    explicit Decoder(const DecoderCall &call)
        : c(call), n(call.num_tokens), group(call.heads / call.kv_heads), few(n <= kFewTokens), plan(call, few),
          merges_by_thread(few && plan.num_parts <= kRowsPerTask),
          phases(new Phase[static_cast<size_t>(call.num_layers * kPhasesPerLayer)]) {
        int64_t heads_dim = c.heads * c.head_dim;
        row_len = heads_dim + 2 * c.kv_heads * c.head_dim;
        qkv.resize(static_cast<size_t>(n * row_len));
        attended.resize(static_cast<size_t>(n * heads_dim));
        parts.resize(static_cast<size_t>(plan.num_parts * (c.head_dim + 2)));
        if (!few) normed.resize(static_cast<size_t>(n * c.hidden));
        gated.resize(static_cast<size_t>(n * c.intermediate));
        if (!few) shared_low.resize(static_cast<size_t>(3 * n * c.rank));
        reserve_acts();
    }

    void run() {
        Pool::shared().run(c.threads, [](void *self, int64_t) { static_cast<Decoder *>(self)->program(); }, this);
    }

   private:
    const DecoderCall &c;
    int64_t n, group;
    bool few;
    AttentionPlan plan;
    int64_t row_len = 0;
    bool merges_by_thread;  // each thread for itself: that takes less time than to wait for each other
    std::unique_ptr<Phase[]> phases;
    std::vector<float> qkv, attended, parts, normed, gated;
    std::vector<float> shared_low;  // of up to three weights [n, rank]: what an adapter makes of the next products' rows
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
        norm_and_quantize(l, l.input_norm, kQ, kO, phase[0]);
        project(l, phase[1], memory);
        if (!few) store_all(l, phase[2]);
        attend_all(l, phase[3], memory);
        merge_parts(phase[4], memory);
        add_attended(l, phase + 5, memory);
        norm_and_quantize(l, l.post_norm, kGate, kDown, phase[7]);
        gate_and_up(l, phase[8], memory);
        add_down(l, phase + 9, memory);
    }

    // 0 where no weight of them wants activations in 8 bits
    static int64_t group_of(std::initializer_list<const Weight *> weights) {
        int64_t result = 0;
        for (const Weight *w : weights)
            if (is_packed(*w)) result = common_divisor(act_group(*w), result);
        return result;
    }

    static const Weight &weight(const Layer &l, int64_t which) { return (&l.q)[which]; }

    static int64_t group_of(const Layer &l, int64_t begin, int64_t end) {
        int64_t result = 0;
        for (int64_t which = begin; which < end; which++) result = common_divisor(group_of({&weight(l, which)}), result);
        return result;
    }

    // The adapter

    // a * x of tokens t0 <= t < t1, for weights that share their input `rows`
    void shrink(const Layer &l, int64_t begin, int64_t end, const float *rows, int64_t t0, int64_t t1, float *low) const {
        for (int64_t which = begin; c.rank && which < end; which++, low += n * c.rank) {
            if (!l.low_ranks[which].a) continue;
            const Weight a{l.low_ranks[which].a, nullptr, c.rank, weight(l, which).cols, kFloat32, 0, 0, 0};
            const Acts acts{rows, nullptr, nullptr, nullptr, nullptr, a.cols, 0};
            float tile[kTokenTile * kBlockRows];
            for (int64_t t = t0; t < t1; t += kTokenTile)
                for (int64_t block = 0; block < num_blocks(a); block++) {
                    int64_t after = t + kTokenTile < t1 ? t + kTokenTile : t1;
                    kernels().product(a, block, acts, t, after, tile);
                    copy_rows(a, block, tile, t, after, low, c.rank);
                }
        }
    }

    void shrink_own(const Layer &l, int64_t begin, int64_t end, const float *rows, Memory &memory) const {
        if (few && c.rank) shrink(l, begin, end, rows, 0, n, sized(memory.low, 3 * n * c.rank));
    }

    // tile += b * low; `slot` counts the weights from where `shrink` began
    void expand(const Layer &l, int64_t which, int64_t slot, int64_t block, int64_t t0, int64_t t1, const Memory &memory,
                float *tile) const {
        if (!c.rank || !l.low_ranks[which].b) return;
        const Weight b{l.low_ranks[which].b, nullptr, weight(l, which).rows, c.rank, kFloat32, 0, 0, 0};
        const float *low = (few ? memory.low.data() : shared_low.data()) + slot * n * c.rank;
        float own[kTokenTile * kBlockRows];
        kernels().product(b, block, {low, nullptr, nullptr, nullptr, nullptr, c.rank, 0}, t0, t1, own);
        int64_t rows = rows_in(b, block);
        for (int64_t t = 0; t < t1 - t0; t++)
            for (int64_t r = 0; r < rows; r++) tile[t * kBlockRows + r] += own[t * kBlockRows + r];
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
    void norm_and_quantize(const Layer &l, const float *weight, int64_t begin, int64_t end, Phase &phase) {
        if (few) return;
        const int64_t group = group_of(l, begin, end);
        each_tokens(phase, [&](int64_t first, int64_t count) {
            norm_rows(weight, first, count, normed.data());
            if (group) shared_acts.quantize(normed.data(), c.hidden, group, first, count);
            shrink(l, begin, end, normed.data(), first, first + count, shared_low.data());
        });
    }

    void norm_rows(const float *weight, int64_t first, int64_t count, float *out) {
        for (int64_t t = first; t < first + count; t++)
            kernels().rms_norm(c.x + t * c.hidden, weight, static_cast<float>(c.eps), c.hidden, out + t * c.hidden);
    }

    void own_acts(const Layer &l, const float *norm_weight, int64_t begin, int64_t end, int64_t group, Memory &memory) {
        if (!few) return;
        norm_rows(norm_weight, 0, n, sized(memory.rows, n * c.hidden));
        shrink_own(l, begin, end, memory.rows.data(), memory);
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
        BlockTasks tasks(ends[2], n, c.threads);
        const int64_t group_wanted = group_of({&l.q, &l.k, &l.v});
        auto prologue = [&] { own_acts(l, l.input_norm, kQ, kO, group_wanted, memory); };
        run_phase(phase, tasks.count(), prologue, [&](int64_t task) {
            Acts acts = acts_of_hidden(group_wanted, memory);
            tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
                int which = block < ends[0] ? 0 : block < ends[1] ? 1 : 2;
                int64_t own_block = block - (which ? ends[which - 1] : 0);
                float tile[kTokenTile * kBlockRows];
                kernels().product(*weights[which], own_block, acts, t0, t1, tile);
                expand(l, which, which, own_block, t0, t1, memory, tile);
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

    const float *projected(int64_t row, int64_t offset) const { return qkv.data() + row * row_len + offset; }
    const float *angles(const float *table, const Sequence &s, int64_t t) const {
        return table + (s.first_angle + t) * c.head_dim;
    }
    int64_t cache_at(const Sequence &s, int64_t kv_head, int64_t token) const {
        int64_t block = c.blocks[s.first_block + token / c.block_len];
        return block * c.block_stride + kv_head * c.head_stride + token % c.block_len * c.head_dim;
    }
    void *in_cache(void *base, int64_t at) const {
        int64_t width = c.cache_kind == kCacheFloat32 ? 4 : c.cache_kind == kCacheBFloat16 ? 2 : 1;
        return static_cast<uint8_t *>(base) + at * width;
    }
    float *in_scales(float *base, int64_t at) const { return base ? base + at / c.head_dim : nullptr; }

    void store(const Layer &l, const Sequence &s, int64_t kv_head, int64_t t) {
        int64_t keys = c.heads * c.head_dim, values = keys + c.kv_heads * c.head_dim, at = cache_at(s, kv_head, s.past + t);
        float rotated[kMaxHeadDim];
        kernels().rotate(projected(s.first_row + t, keys + kv_head * c.head_dim), angles(c.cos, s, t), angles(c.sin, s, t),
                         c.head_dim, 1.0f, rotated);
        const float *value = projected(s.first_row + t, values + kv_head * c.head_dim);
        kernels().store_kv(rotated, c.head_dim, c.cache_kind, in_cache(l.keys, at), in_scales(l.key_scales, at));
        kernels().store_kv(value, c.head_dim, c.cache_kind, in_cache(l.values, at), in_scales(l.value_scales, at));
    }

    void store_all(const Layer &l, Phase &phase) {
        run_phase(phase, ceil_div(n, 8), [&](int64_t task) {
            int64_t row = task * 8, end = row + 8 < n ? row + 8 : n;
            const Sequence *after = std::upper_bound(c.sequences, c.sequences + c.num_sequences, row,
                                                     [](int64_t row, const Sequence &s) { return row < s.first_row; });
            for (const Sequence *s = after - 1; row < end; row++) {
                if (row == s->first_row + s->length) s++;
                for (int64_t kv_head = 0; kv_head < c.kv_heads; kv_head++) store(l, *s, kv_head, row - s->first_row);
            }
        });
    }

    // Few tokens: each task stores those of its chunk.
    void store_chunk(const Layer &l, const AttendTask &task) {
        for (int64_t t = 0; t < task.sequence->length; t++)
            if ((task.sequence->past + t) / kChunkKeys == task.chunk_begin) store(l, *task.sequence, task.kv_head, t);
    }

    Attend attend_of(const AttendTask &task, Memory &memory) {
        float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
        const Sequence &s = *task.sequence;
        int64_t rows = task.rows(group);
        float *queries = sized(memory.queries, rows * c.head_dim);
        for (int64_t row = 0; row < rows; row++) {
            int64_t t = task.first + row / group, head = task.kv_head * group + row % group;
            kernels().rotate(projected(s.first_row + t, head * c.head_dim), angles(c.cos, s, t), angles(c.sin, s, t), c.head_dim,
                             factor, queries + row * c.head_dim);
        }
        Attend a{};
        a.q = queries;
        a.kind = c.cache_kind;
        a.token_stride = a.head_dim = c.head_dim;
        a.rows = rows;
        a.num_groups = group;
        a.first_limit = c.is_causal ? s.past + task.first + 1 : s.past + s.length;
        if (c.mask) a.mask = c.mask + (&s - c.sequences) * c.mask_batch_stride + task.first * c.mask_query_stride;
        a.mask_stride = c.mask_query_stride;
        a.scratch = sized(memory.scratch, attend_scratch(rows, c.head_dim));
        return a;
    }

    void set_chunk(Attend &a, const Layer &l, const AttendTask &task, int64_t chunk) const {
        const Sequence &s = *task.sequence;
        int64_t end = (chunk + 1) * kChunkKeys, all = s.past + s.length;
        a.key_begin = chunk * kChunkKeys;
        a.key_end = end < all ? end : all;
        int64_t block = a.key_begin / c.block_len, offset = a.key_begin % c.block_len, num_units = 0;
        for (int64_t key = a.key_begin; key < a.key_end; key += kUnitKeys, offset += kUnitKeys) {
            if (offset >= c.block_len) {
                block++;
                offset = 0;
            }
            int64_t at = c.blocks[s.first_block + block] * c.block_stride + task.kv_head * c.head_stride + offset * c.head_dim;
            a.units[num_units++] = {in_cache(l.keys, at), in_cache(l.values, at), in_scales(l.key_scales, at),
                                    in_scales(l.value_scales, at)};
        }
        for (int64_t i = num_units; i < kChunkUnits + 2; i++) a.units[i] = a.units[num_units - 1];
    }

    void attend_all(const Layer &l, Phase &phase, Memory &memory) {
        run_phase(phase, static_cast<int64_t>(plan.tasks.size()), [&](int64_t index) {
            const AttendTask &task = plan.tasks[static_cast<size_t>(index)];
            if (few) store_chunk(l, task);
            Attend a = attend_of(task, memory);
            if (task.part < 0) return attend_tile(a, l, task, memory);
            set_chunk(a, l, task, task.chunk_begin);
            a.out = parts.data() + task.part * (c.head_dim + 2);
            kernels().attend(a);
        });
    }

    void attend_tile(Attend &a, const Layer &l, const AttendTask &task, Memory &memory) {
        int64_t part_len = c.head_dim + 2;
        float *states = new_states(memory, a.rows);
        a.out = states + a.rows * part_len;
        for (int64_t chunk = 0; chunk < task.chunk_end; chunk++) {
            set_chunk(a, l, task, chunk);
            kernels().attend(a);
            for (int64_t row = 0; row < a.rows; row++)
                kernels().merge(states + row * part_len, a.out + row * part_len, c.head_dim);
        }
        for (int64_t row = 0; row < a.rows; row++) put_row(states + row * part_len, task, row, attended.data());
    }

    float *new_states(Memory &memory, int64_t rows) const {
        int64_t part_len = c.head_dim + 2;
        float *states = sized(memory.parts, 2 * rows * part_len);
        for (int64_t row = 0; row < rows; row++) {
            std::memset(states + row * part_len, 0, static_cast<size_t>(part_len) * 4);
            states[row * part_len + c.head_dim] = -INFINITY;
        }
        return states;
    }

    void put_row(const float *state, const AttendTask &task, int64_t row, float *out) const {
        int64_t t = task.sequence->first_row + task.first + row / group, head = task.kv_head * group + row % group;
        kernels().finish(state, c.head_dim, out + (t * c.heads + head) * c.head_dim);
    }

    void merge_parts(Phase &phase, Memory &memory) {
        if (merges_by_thread || plan.merges.empty()) return;
        run_phase(phase, static_cast<int64_t>(plan.merges.size()), [&](int64_t index) {
            merge_tile(plan.merges[static_cast<size_t>(index)], attended.data(), memory);
        });
    }

    // What the chunks of a tile came to
    void merge_tile(const AttendTask &tile, float *out, Memory &memory) const {
        int64_t rows = tile.rows(group), part_len = c.head_dim + 2;
        for (int64_t row = 0; row < rows; row++) {
            float *state = new_states(memory, 1);
            for (int64_t chunk = 0; chunk < tile.chunk_end; chunk++)
                kernels().merge(state, parts.data() + (tile.part + chunk * rows + row) * part_len, c.head_dim);
            put_row(state, tile, row, out);
        }
    }

    void add_attended(const Layer &l, Phase *phase, Memory &memory) {
        add_product(l, kO, attended.data(), phase, memory, [&] {
            if (!merges_by_thread) return static_cast<const float *>(attended.data());
            float *own = sized(memory.rows, n * l.o.cols);
            for (const AttendTask &tile : plan.merges) merge_tile(tile, own, memory);
            return static_cast<const float *>(own);
        });
    }

    // The rest of a layer

    void add_product(const Layer &l, int64_t which, const float *rows, Phase *phase, Memory &memory) {
        add_product(l, which, rows, phase, memory, [&] { return rows; });
    }

    // x += w * rows; where tokens are few, each thread asks for its rows
    template <class OwnRows>
    void add_product(const Layer &l, int64_t which, const float *rows, Phase *phase, Memory &memory, OwnRows own_rows) {
        const Weight &w = weight(l, which);
        const int64_t group = act_group(w);
        if ((group || c.rank) && !few)
            each_tokens(phase[0], [&](int64_t first, int64_t count) {
                if (group) shared_acts.quantize(rows, w.cols, group, first, count);
                shrink(l, which, which + 1, rows, first, first + count, shared_low.data());
            });
        auto prologue = [&] {
            if (!few) return;
            rows = own_rows();
            shrink_own(l, which, which + 1, rows, memory);
            if (!group) return;
            memory.acts.reserve(n, w.cols, group);
            memory.acts.quantize(rows, w.cols, group, 0, n);
        };
        BlockTasks tasks(num_blocks(w), n, c.threads);
        run_phase(phase[1], tasks.count(), prologue, [&](int64_t task) {
            add_blocks(l, which, (few ? memory.acts : shared_acts).view(rows, w.cols, group), tasks, task, memory);
        });
    }

    void add_blocks(const Layer &l, int64_t which, const Acts &acts, const BlockTasks &tasks, int64_t task,
                    const Memory &memory) {
        const Weight &w = weight(l, which);
        tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
            float tile[kTokenTile * kBlockRows];
            kernels().product(w, block, acts, t0, t1, tile);
            expand(l, which, 0, block, t0, t1, memory, tile);
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
        BlockTasks tasks(num_blocks(l.gate), n, c.threads);
        const int64_t group_wanted = group_of({&l.gate, &l.up});
        auto prologue = [&] { own_acts(l, l.post_norm, kGate, kDown, group_wanted, memory); };
        run_phase(phase, tasks.count(), prologue, [&](int64_t task) {
            Acts acts = acts_of_hidden(group_wanted, memory);
            tasks.each(task, [&](int64_t block, int64_t t0, int64_t t1) {
                float gate[kTokenTile * kBlockRows], up[kTokenTile * kBlockRows];
                kernels().product(l.gate, block, acts, t0, t1, gate);
                kernels().product(l.up, block, acts, t0, t1, up);
                expand(l, kGate, 0, block, t0, t1, memory, gate);
                expand(l, kUp, 1, block, t0, t1, memory, up);
                kernels().silu_mul(gate, up, (t1 - t0) * kBlockRows);
                if (!at_once || c.rank) copy_rows(l.gate, block, gate, t0, t1, gated.data(), c.intermediate);
                if (at_once) gated_acts.quantize_group(gate, c.intermediate, kBlockRows, t0, t1 - t0, block);
            });
        });
    }

    void add_down(const Layer &l, Phase *phase, Memory &memory) {
        if (!quantizes_at_once(l.down)) return add_product(l, kDown, gated.data(), phase, memory);
        if (c.rank && !few)
            each_tokens(phase[0], [&](int64_t first, int64_t count) {
                shrink(l, kDown, kDown + 1, gated.data(), first, first + count, shared_low.data());
            });
        BlockTasks tasks(num_blocks(l.down), n, c.threads);
        Acts acts = gated_acts.view(nullptr, c.intermediate, kBlockRows);
        auto prologue = [&] { shrink_own(l, kDown, kDown + 1, gated.data(), memory); };
        run_phase(phase[1], tasks.count(), prologue,
                  [&](int64_t task) { add_blocks(l, kDown, acts, tasks, task, memory); });
    }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void so_decoder(const DecoderCall *call) { Decoder(*call).run(); }
