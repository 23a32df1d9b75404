// Attention over keys and values in bf16, where the processor multiplies pairs of bf16 and adds them up in fp32. Queries and
// the weights of keys are rounded to bf16 before; a row's sum of weights is that of the rounded ones, so that values which
// agree come out as they are. Pairs are of neighbouring columns in scores, and of neighbouring keys in sums of values.

static inline F16 exp16_in_bf16(F16 x) { return nearest_bf16(exp16(x)); }

// keys [count <= 32, head_dim] to columns of pairs [head_dim / 2, 32]; the first of them begins a unit
static void transpose_pairs(const Attend &a, int64_t first, int64_t count, float *columns) {
    const int64_t pairs = a.head_dim / 2;
    for (int64_t half = 0; half < 2; half++) {
        const uint16_t *keys = static_cast<const uint16_t *>(a.units[first / kUnitKeys + half].keys);
        for (int64_t d = 0; d < pairs; d += 16) {
            const int64_t here = pairs - d < 16 ? pairs - d : 16;
            F16 rows[16];
            for (int64_t i = 0; i < 16; i++) {
                const float *from = reinterpret_cast<const float *>(keys + i * a.token_stride) + d;
                rows[i] = 16 * half + i >= count ? zero16() : here == 16 ? load16(from) : load_first(from, here);
            }
            transpose16(rows);
            for (int64_t i = 0; i < here; i++) store16(columns + (d + i) * 32 + 16 * half, rows[i]);
        }
    }
}

template <int R>
static inline void pair_score_tile(const uint16_t *q, const float *columns, int64_t head_dim, float *scores, const uint8_t *ahead) {
    F16 total[R][2];
    for (int r = 0; r < R; r++) total[r][0] = total[r][1] = zero16();
#pragma GCC unroll 4
    for (int64_t d = 0; d < head_dim; d += 2, columns += 32) {
        Bf32 first = as_pairs(load16(columns)), second = as_pairs(load16(columns + 16));
        __builtin_prefetch(ahead + 64 * d);
        __builtin_prefetch(ahead + 64 * d + 64);
        for (int r = 0; r < R; r++) {
            Bf32 x = set1_pair(q + r * head_dim + d);
            total[r][0] = add_pairs(total[r][0], first, x);
            total[r][1] = add_pairs(total[r][1], second, x);
        }
    }
    for (int r = 0; r < R; r++) {
        store16(scores + r * kChunkKeys, total[r][0]);
        store16(scores + r * kChunkKeys + 16, total[r][1]);
    }
}

static void pair_scores_of(const Attend &a, const uint16_t *queries, float *scores, float *columns) {
    int64_t most = limit_of(a, a.rows - 1);
    for (int64_t key = 0; key < most; key += 32) {
        const uint8_t *ahead = asked_ahead(a, key + 32, most);
        transpose_pairs(a, key, most - key < 32 ? most - key : 32, columns);
        in_tiles<6>(a.rows, [&](auto tile, int64_t row) {
            constexpr int R = decltype(tile)::kRows;
            if (limit_of(a, row + R - 1) <= key) return;  // none of them looks that far
            pair_score_tile<R>(queries + row * a.head_dim, columns, a.head_dim, scores + row * kChunkKeys + key, ahead);
        });
    }
}

// weights: of R rows, 2 * kChunkKeys apart. V vectors of sixteen columns each, V even, or the first `columns` of them.
template <int R, int V>
static inline void pair_value_tile(
    const Attend &a, const uint16_t *weights, int64_t row, int64_t d, int64_t num_keys, int64_t columns = 16 * V) {
    const bool is_whole = columns == 16 * V;
    F16 total[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) total[r][v] = zero16();
    for (int64_t first = 0; first < num_keys; first += kUnitKeys, weights += kUnitKeys) {
        const Unit *unit = a.units + first / kUnitKeys;
        const uint16_t *values = static_cast<const uint16_t *>(unit->values) + d;
        const uint16_t *next = static_cast<const uint16_t *>(unit[2].values) + d;
        const int64_t count = num_keys - first < kUnitKeys ? num_keys - first : kUnitKeys;
        for (int64_t key = 0; key < count; key += 2) {
            const int64_t even = key * a.token_stride, odd = even + a.token_stride;
            for (int64_t i = 0; i < 16 * V; i += 32) {
                __builtin_prefetch(next + even + i);
                __builtin_prefetch(next + odd + i);
            }
            Bf32 pairs[V];
            for (int v = 0; v < V; v += 2) {
                const uint16_t *at = values + 16 * v;
                Bf32 x = is_whole ? load_pairs(at + even) : load_first_pairs(at + even, columns);
                Bf32 y = key + 1 == count ? no_pairs() : is_whole ? load_pairs(at + odd) : load_first_pairs(at + odd, columns);
                interleave(x, y, pairs[v], pairs[v + 1]);
            }
            for (int r = 0; r < R; r++) {
                Bf32 p = set1_pair(weights + r * 2 * kChunkKeys + key);
                for (int v = 0; v < V; v++) total[r][v] = add_pairs(total[r][v], pairs[v], p);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v += 2) {
            float *out = a.out + (row + r) * (a.head_dim + 2) + d + 16 * v;
            undo_interleave(total[r][v], total[r][v + 1]);
            store16(out, total[r][v]);
            if (16 * v + 16 < columns) store16(out + 16, total[r][v + 1]);
        }
}

template <int R>
static inline void pair_values_of(const Attend &a, const uint16_t *weights, int64_t row) {
    int64_t num_keys = limit_of(a, row + R - 1), d = 0;
    for (; a.head_dim - d >= 64; d += 64) pair_value_tile<R, 4>(a, weights, row, d, num_keys);
    for (; a.head_dim - d >= 32; d += 32) pair_value_tile<R, 2>(a, weights, row, d, num_keys);
    if (d < a.head_dim) pair_value_tile<R, 2>(a, weights, row, d, num_keys, a.head_dim - d);
}

static void attend_over_pairs(const Attend &a) {
    float *scores = a.scratch, *columns = a.scratch + a.rows * kChunkKeys;
    uint16_t *queries = reinterpret_cast<uint16_t *>(columns + a.head_dim / 2 * 32);
    uint16_t *weights = reinterpret_cast<uint16_t *>(scores);  // a row's take the place of its scores
    round_bf16(a.q, a.rows * a.head_dim, queries);
    pair_scores_of(a, queries, scores, columns);
    for (int64_t row = 0; row < a.rows; row++) {
        float *from = scores + row * kChunkKeys;
        softmax_row<exp16_in_bf16>(a, row, from, a.out + row * (a.head_dim + 2) + a.head_dim);
        for (int64_t i = 0, end = seen_by_any(a); i < end; i += 16)
            put_bf16(weights + row * 2 * kChunkKeys + i, load16(from + i));
    }
    in_tiles<6>(a.rows, [&](auto tile, int64_t row) {
        pair_values_of<decltype(tile)::kRows>(a, weights + row * 2 * kChunkKeys, row);
    });
}
