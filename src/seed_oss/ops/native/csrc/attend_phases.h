// Attention of the layers of a call: new keys and values to their places, queries over chunks of keys, and what these
// come to.
#pragma once

#include <cmath>
#include <cstring>

#include "attention.h"

struct AttendMemory {  // of one thread
    Buffer<float> queries, scratch, parts;
};

class Attention {
   public:
    Attention(const DecoderCall &call, bool few)
        : c(call), n(call.num_tokens), group(call.heads / call.kv_heads), plan(call, few) {
        parts.sized(plan.num_parts * (c.head_dim + 2));
    }

   protected:
    const DecoderCall &c;
    int64_t n, group;
    AttentionPlan plan;
    Buffer<float> parts;
    const float *projections = nullptr;  // queries of all heads, and where they are to be stored, keys and values behind them
    int64_t row_len = 0;
    float *attended = nullptr;    // [n, heads, head_dim]

    const float *projected(int64_t row, int64_t offset) const { return projections + row * row_len + offset; }
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

    // A query is rotated where there are angles, and scaled.
    void put_query(const Sequence &s, int64_t t, int64_t head, float factor, float *out) const {
        const float *from = projected(s.first_row + t, head * c.head_dim);
        if (c.cos) return kernels().rotate(from, angles(c.cos, s, t), angles(c.sin, s, t), c.head_dim, factor, out);
        for (int64_t i = 0; i < c.head_dim; i++) out[i] = from[i] * factor;
    }

    Attend attend_of(const AttendTask &task, AttendMemory &memory) {
        float factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
        const Sequence &s = *task.sequence;
        int64_t rows = task.rows(group);
        float *queries = memory.queries.sized(rows * c.head_dim);
        for (int64_t row = 0; row < rows; row++) {
            int64_t t = task.first + row / group, head = task.kv_head * group + row % group;
            put_query(s, t, head, factor, queries + row * c.head_dim);
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
        a.scratch = memory.scratch.sized(attend_scratch(rows, c.head_dim));
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

    // before(task) runs ahead of each
    template <class Before>
    void attend_all(const Layer &l, Phase &phase, AttendMemory &memory, Before before) {
        run_phase(phase, static_cast<int64_t>(plan.tasks.size()), [&](int64_t index) {
            const AttendTask &task = plan.tasks[static_cast<size_t>(index)];
            before(task);
            Attend a = attend_of(task, memory);
            if (task.part < 0) return attend_tile(a, l, task, memory);
            set_chunk(a, l, task, task.chunk_begin);
            a.out = parts.data() + task.part * (c.head_dim + 2);
            kernels().attend(a);
        });
    }

    void attend_tile(Attend &a, const Layer &l, const AttendTask &task, AttendMemory &memory) {
        int64_t part_len = c.head_dim + 2;
        float *states = new_states(memory, a.rows);
        a.out = states + a.rows * part_len;
        for (int64_t chunk = 0; chunk < task.chunk_end; chunk++) {
            set_chunk(a, l, task, chunk);
            kernels().attend(a);
            for (int64_t row = 0; row < a.rows; row++)
                kernels().merge(states + row * part_len, a.out + row * part_len, c.head_dim);
        }
        for (int64_t row = 0; row < a.rows; row++) put_row(states + row * part_len, task, row, attended);
    }

    float *new_states(AttendMemory &memory, int64_t rows) const {
        int64_t part_len = c.head_dim + 2;
        float *states = memory.parts.sized(2 * rows * part_len);
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

    void merge_parts(Phase &phase, AttendMemory &memory) {
        if (plan.merges.empty()) return;
        run_phase(phase, static_cast<int64_t>(plan.merges.size()), [&](int64_t index) {
            merge_tile(plan.merges[static_cast<size_t>(index)], attended, memory);
        });
    }

    // What the chunks of a tile came to
    void merge_tile(const AttendTask &tile, float *out, AttendMemory &memory) const {
        int64_t rows = tile.rows(group), part_len = c.head_dim + 2;
        for (int64_t row = 0; row < rows; row++) {
            float *state = new_states(memory, 1);
            for (int64_t chunk = 0; chunk < tile.chunk_end; chunk++)
                kernels().merge(state, parts.data() + (tile.part + chunk * rows + row) * part_len, c.head_dim);
            put_row(state, tile, row, out);
        }
    }
};
