// Who attends to what: plain numbers, made once for all layers of a call.
//
//   few tokens    a task is one chunk of keys of a kv head; what chunks come to is merged afterwards
//   many          a task is a tile of queries over all its chunks, the longest first; a tile that would keep one thread
//                 busy after the others are done is cut into its chunks
//
// The order in which the chunks of a row are merged is always theirs, so how tasks are cut changes no bit.
#pragma once

#include <algorithm>
#include <vector>

#include "linear.h"
#include "types.h"

constexpr int64_t kRowsPerTask = 64;  // query heads x queries that share one pass over keys

struct AttendTask {
    const Sequence *sequence;
    int64_t kv_head, first, count;    // queries
    int64_t chunk_begin, chunk_end;
    int64_t part;                     // row of the first chunk's parts; -1 where the task merges its chunks itself
    int64_t rows(int64_t group) const { return count * group; }
};

class AttentionPlan {
   public:
    AttentionPlan(const DecoderCall &call, bool few)
        : c(call), group(call.heads / call.kv_heads) {
        for (int64_t i = 0; i < c.num_sequences; i++) add_sequence(c.sequences[i], few);
        if (!few) cut_and_sort();
    }

    std::vector<AttendTask> tasks;
    std::vector<AttendTask> merges;  // of tiles whose chunks are tasks
    int64_t num_parts = 0;           // rows of parts of chunks

   private:
    const DecoderCall &c;
    int64_t group;

    // Chunks that the last query of a tile sees
    int64_t num_chunks(const Sequence &s, int64_t end) const {
        return ceil_div(s.past + (c.is_causal ? end : s.length), kChunkKeys);
    }

    void add_sequence(const Sequence &s, bool few) {
        int64_t per_tile = few ? s.length : kRowsPerTask / group < 1 ? 1 : kRowsPerTask / group;
        for (int64_t first = 0; first < s.length; first += per_tile)
            for (int64_t kv_head = 0; kv_head < c.kv_heads; kv_head++) {
                int64_t count = s.length - first < per_tile ? s.length - first : per_tile;
                AttendTask tile{&s, kv_head, first, count, 0, num_chunks(s, first + count), -1};
                if (few) cut(tile, tasks);
                else tasks.push_back(tile);
            }
    }

    void cut(AttendTask tile, std::vector<AttendTask> &to) {
        tile.part = num_parts;
        merges.push_back(tile);
        for (int64_t chunk = 0; chunk < merges.back().chunk_end; chunk++) {
            tile.chunk_begin = chunk;
            tile.chunk_end = chunk + 1;
            tile.part = num_parts;
            num_parts += tile.rows(group);
            to.push_back(tile);
        }
    }

    int64_t work(const AttendTask &t) const { return t.count * (t.chunk_end - t.chunk_begin); }

    void cut_and_sort() {
        int64_t all = 0;
        for (const AttendTask &tile : tasks) all += work(tile);
        std::vector<AttendTask> cut_tasks;
        for (const AttendTask &tile : tasks) {
            bool is_long = tile.chunk_end > 1 && work(tile) * 4 * c.threads > all && c.threads > 1;
            if (is_long) cut(tile, cut_tasks);
            else cut_tasks.push_back(tile);
        }
        tasks.swap(cut_tasks);
        std::stable_sort(tasks.begin(), tasks.end(),
                         [this](const AttendTask &a, const AttendTask &b) { return work(a) > work(b); });
    }
};
