// The kernels, written over F16 (16 floats) and I16 (16 integers). Included in one namespace per instruction set.
//
// Every sum has one order, whatever the number of tokens, rows or threads: equal inputs give equal bits.

// e ** x within 2 units in the last place; 0 below -87; NaN stays NaN (the order of operands of max and min sees to it)
template <F16 (*Fma)(F16, F16, F16)>
static inline F16 exp16_of(F16 x) {
    F16 low = set1(-87.0f);
    F16 y = min16(set1(88.0f), max16(low, x));
    F16 n = round16(mul(y, set1(1.44269504088896341f)));
    F16 r = Fma(n, set1(-0.693145751953125f), y);
    r = Fma(n, set1(-1.428606765330187e-6f), r);
    F16 p = set1(1.9875691500e-4f);
    p = Fma(p, r, set1(1.3981999507e-3f));
    p = Fma(p, r, set1(8.3334519073e-3f));
    p = Fma(p, r, set1(4.1665795894e-2f));
    p = Fma(p, r, set1(1.6666665459e-1f));
    p = Fma(p, r, set1(5.0000001201e-1f));
    p = add(Fma(p, mul(r, r), r), set1(1.0f));
    return zero_below(x, low, mul(p, exp2_int(n)));
}
static inline F16 exp16(F16 x) { return exp16_of<fma>(x); }

// 8-bit activations

template <int64_t Known>
static inline void quantize_group(const float *x, int64_t any, const Rounded &to, int64_t at) {
    const int64_t group = Known ? Known : any;
    F16 largest = zero16(), defect = zero16();
#pragma GCC unroll 2
    for (int64_t i = 0; i < group; i += 16) {
        F16 v = group - i >= 16 ? load16(x + i) : load_first(x + i, group - i);
        largest = max16(largest, abs16(v));
        defect = fma(v, zero16(), defect);  // NaN where a number is none, or infinite
    }
    float most = reduce_max(largest), inverse = most > 0 ? 127.0f / most : 0.0f;
    I16 total = zero_int();
#pragma GCC unroll 2
    for (int64_t i = 0; i < group; i += 16) {
        int64_t count = group - i >= 16 ? 16 : group - i;
        I16 rounded = round_int(mul(count == 16 ? load16(x + i) : load_first(x + i, count), set1(inverse)));
        total = add_int(total, rounded);
        int8_t *q = to.q + at * group + i;
        if (count == 16) {
            store_int8(q, rounded);
            continue;
        }
        int8_t lanes[16];
        store_int8(lanes, rounded);
        __builtin_memcpy(q, lanes, static_cast<__SIZE_TYPE__>(count));
    }
    float scale = has_nan(defect) ? __builtin_nanf("") : most / 127.0f;
    int32_t sum = reduce_int(total);
    to.scale[at] = scale;
    to.sum[at] = sum;
    to.scaled_sum[at] = scale * static_cast<float>(sum);
}

static void quantize(const float *x, int64_t rows, int64_t groups, int64_t group, const Rounded &to, int64_t row_groups) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t g = 0; g < groups; g++, x += group) {
            if (group == 32) quantize_group<32>(x, 32, to, row * row_groups + g);
            else quantize_group<0>(x, group, to, row * row_groups + g);
        }
}

// Products with packed weights: for each row its sum over groups, and in a group over the units of columns that share a
// scale of activations. A unit's sum is a whole number; `add_unit` adds it, and there is no other way to.

template <int Kind, int Zero, bool Wide>
struct Record {
    static constexpr int64_t kParam = Wide ? 128 : 64;
    static constexpr int64_t kExtra = Zero == kMinimum ? kParam : Zero == kPoint ? (Kind == kNibbles ? 16 : 32) : 0;
    static constexpr int64_t kQuad = Kind == kNibbles ? 64 : 128;
    static constexpr int32_t kMiddle = Kind == kNibbles ? 8 : 128;
    F16 scale[2], offset[2];

    Record() = default;
    explicit Record(const uint8_t *at) {
        for (int half = 0; half < 2; half++) {
            scale[half] = param(at, half);
            if (Zero == kMinimum) offset[half] = param(at + kParam, half);
            if (Zero != kPoint) continue;
            uint8_t points[16];
            const uint8_t *from = at + kParam + (Kind == kNibbles ? 0 : 16 * half);
            for (int i = 0; i < 16; i++)
                points[i] = Kind == kNibbles ? static_cast<uint8_t>(half ? from[i] >> 4 : from[i] & 15) : from[i];
            offset[half] = bytes_to_float(points);
        }
    }

    static F16 param(const uint8_t *at, int half) {
        return Wide ? load16(reinterpret_cast<const float *>(at) + 16 * half)
                    : half_to_float(reinterpret_cast<const uint16_t *>(at) + 16 * half);
    }

};

// A unit's sum from the sum of weight * activation; `at` is its place among the scales. All is exact, being below 2 ** 24.
template <int Zero>
static inline F16 unit_sum(I16 sum, F16 point, const Acts &acts, int64_t at) {
    return Zero == kPoint ? sub(to_float(sum), mul(point, set1(static_cast<float>(acts.sum[at])))) : to_float(sum);
}

template <int Zero>
static inline F16 add_unit(F16 total, F16 sum, F16 scale, F16 minimum, const Acts &acts, int64_t at) {
    total = fma(sum, mul(scale, set1(acts.scale[at])), total);
    return Zero == kMinimum ? fma(minimum, set1(acts.scaled_sum[at]), total) : total;
}

// One pass over a block of 32 rows for T tokens. `ahead` bytes further on lies what comes next: a pass over a block that
// is near already has time to fetch it.
template <int T, int Kind, int Zero, bool Wide>
static inline void packed_tile(const Weight &w, const uint8_t *at, int64_t ahead, const Acts &acts, int64_t t0, float *out) {
    using R = Record<Kind, Zero, Wide>;
    const int64_t units = w.group / acts.group, quads = acts.group / 4, groups = acts.cols / acts.group;
    F16 total[T][2];
    for (int t = 0; t < T; t++) total[t][0] = total[t][1] = zero16();
    int64_t unit = 0;
    for (int64_t g = 0; g < w.cols / w.group; g++) {
        const R record(at);
        at += R::kParam + R::kExtra;
        for (int64_t u = 0; u < units; u++, unit++) {
            I16 acc[T][2];
            for (int t = 0; t < T; t++)
                acc[t][0] = acc[t][1] =
                    Zero == kSymmetric ? set1_int(-R::kMiddle * acts.sum[(t0 + t) * groups + unit]) : zero_int();
            const int8_t *a = acts.q + t0 * acts.cols + unit * acts.group;
            for (int64_t quad = 0; quad < quads; quad++, at += R::kQuad, a += 4) {
                B64 first = load_bytes(at);
                __builtin_prefetch(at + ahead);
                if (Kind == kNibbles) {
                    B64 low = low_nibbles(first), high = high_nibbles(first);
                    for (int t = 0; t < T; t++) {
                        acc[t][0] = dot_nibbles(acc[t][0], low, a + t * acts.cols);
                        acc[t][1] = dot_nibbles(acc[t][1], high, a + t * acts.cols);
                    }
                } else {
                    B64 second = load_bytes(at + 64);
                    __builtin_prefetch(at + ahead + 64);
                    for (int t = 0; t < T; t++) {
                        acc[t][0] = dot_bytes(acc[t][0], first, a + t * acts.cols);
                        acc[t][1] = dot_bytes(acc[t][1], second, a + t * acts.cols);
                    }
                }
            }
            for (int t = 0; t < T; t++)
                for (int half = 0; half < 2; half++) {
                    const int64_t scales = (t0 + t) * groups + unit;
                    F16 sum = unit_sum<Zero>(acc[t][half], record.offset[half], acts, scales), &sums = total[t][half];
                    sums = add_unit<Zero>(sums, sum, record.scale[half], record.offset[half], acts, scales);
                }
        }
    }
    for (int t = 0; t < T; t++)
        for (int half = 0; half < 2; half++) store16(out + t * kBlockRows + 16 * half, total[t][half]);
}

#ifdef SEED_OSS_PANELS
#include "panels.inl"
#endif
#ifdef SEED_OSS_TILES
#include "tiles_amx.inl"
#endif

template <int Kind, int Zero, bool Wide>
static void packed_product(const Weight &w, int64_t block, const Acts &acts, int64_t t0, int64_t t1, float *out) {
    using R = Record<Kind, Zero, Wide>;
    const int64_t block_len = (w.cols / w.group) * (R::kParam + R::kExtra + w.group * (Kind == kNibbles ? 16 : 32));
    const uint8_t *data = static_cast<const uint8_t *>(w.data) + block * block_len;
    int64_t ahead = 0;  // the first pass has enough to fetch
#ifdef SEED_OSS_TILES
    if (int64_t count = (t1 - t0) / kTileTokens * kTileTokens; count && acts.group % 4 == 0) {
        tiled_product<Kind, Zero, Wide>(w, data, block_len, acts, t0, count, out);
        t0 += count, out += count * kBlockRows, ahead = block_len;
    }
#elif defined(SEED_OSS_PANELS)
    if (int64_t count = (t1 - t0) / kMaxTile * kMaxTile; count >= kPanelTokens && acts.group % 4 == 0) {
        unpacked_product<Kind, Zero, Wide>(w, data, block_len, acts, t0, count, out);
        t0 += count, out += count * kBlockRows, ahead = block_len;
    }
#endif
    for (; t1 - t0 >= kMaxTile; t0 += kMaxTile, out += kMaxTile * kBlockRows, ahead = block_len)
        packed_tile<kMaxTile, Kind, Zero, Wide>(w, data, ahead, acts, t0, out);
    switch (t1 - t0) {
        case 1: packed_tile<1, Kind, Zero, Wide>(w, data, ahead, acts, t0, out); break;
        case 2: packed_tile<2, Kind, Zero, Wide>(w, data, ahead, acts, t0, out); break;
        case 3: packed_tile<3, Kind, Zero, Wide>(w, data, ahead, acts, t0, out); break;
        case 4: packed_tile<4, Kind, Zero, Wide>(w, data, ahead, acts, t0, out); break;
        case 5: packed_tile<5, Kind, Zero, Wide>(w, data, ahead, acts, t0, out); break;
        default: break;
    }
}

// Products with plain weights, for a few tokens. Rows are read one after another, as they lie in memory; a row's sum is made
// of four times sixteen partial sums, added up in a fixed tree. Where a token's numbers do not stay in the nearest cache while
// the weight streams through it, four rows share what is fetched of them again.

template <bool Wide>
static inline F16 plain_load(const void *data, int64_t at, int64_t count) {
    if (Wide) {
        const float *p = static_cast<const float *>(data) + at;
        return count >= 16 ? load16(p) : load_first(p, count);
    }
    const uint16_t *p = static_cast<const uint16_t *>(data) + at;
    if (count >= 16) return bf16_to_float(p);
    uint16_t padded[16] = {};
    for (int64_t i = 0; i < count; i++) padded[i] = p[i];
    return bf16_to_float(padded);
}

template <bool Wide, int R, int T>
static inline void plain_rows(const Weight &w, int64_t row, const float *x, float *out) {
    const int64_t start = row * w.cols;
    F16 total[R][4][T];
    for (int r = 0; r < R; r++)
        for (int part = 0; part < 4; part++)
            for (int t = 0; t < T; t++) total[r][part][t] = zero16();
    int64_t k = 0;
    for (; w.cols - k >= 64; k += 64)
        for (int part = 0; part < 4; part++)
            for (int r = 0; r < R; r++) {
                F16 m = plain_load<Wide>(w.data, start + r * w.cols + k + 16 * part, 16);
                for (int t = 0; t < T; t++)
                    total[r][part][t] = fma(m, load16(x + t * w.cols + k + 16 * part), total[r][part][t]);
            }
    for (int part = 0; part < 4; part++, k += 16) {
        int64_t count = w.cols - k;
        if (count <= 0) break;
        for (int r = 0; r < R; r++) {
            F16 m = plain_load<Wide>(w.data, start + r * w.cols + k, count);
            for (int t = 0; t < T; t++) {
                const float *p = x + t * w.cols + k;
                total[r][part][t] = fma(m, count >= 16 ? load16(p) : load_first(p, count), total[r][part][t]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++)
            out[t * kBlockRows + r] =
                reduce(add(add(total[r][0][t], total[r][1][t]), add(total[r][2][t], total[r][3][t])));
}

// The same sums for R rows and T tokens at once, one of the four parts after another: each number that is loaded serves
// several products. Needs many registers; for a few tokens the way above reads the weight straight on, as memory likes it.
template <bool Wide, int R, int T>
static inline void plain_tile(const Weight &w, int64_t row, const float *x, float *out) {
    F16 sums[2][R][T];
    for (int64_t part = 0; part < 4; part++) {
        F16 total[R][T];
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++) total[r][t] = zero16();
        for (int64_t k = 16 * part; k < w.cols; k += 64) {
            const int64_t count = w.cols - k;
            F16 m[R];
            for (int r = 0; r < R; r++) m[r] = plain_load<Wide>(w.data, (row + r) * w.cols + k, count);
            for (int t = 0; t < T; t++) {
                const float *p = x + t * w.cols + k;
                F16 v = count >= 16 ? load16(p) : load_first(p, count);
                for (int r = 0; r < R; r++) total[r][t] = fma(m[r], v, total[r][t]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int t = 0; t < T; t++)
                sums[part / 2][r][t] = part % 2 ? add(sums[part / 2][r][t], total[r][t]) : total[r][t];
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) out[t * kBlockRows + r] = reduce(add(sums[0][r][t], sums[1][r][t]));
}

template <bool Wide>
static void plain_product(const Weight &w, int64_t block, const Acts &acts, int64_t t0, int64_t t1, float *out) {
    int64_t first = block * kBlockRows, rows = w.rows - first < kBlockRows ? w.rows - first : kBlockRows;
    if (kHasManyRegisters && t1 - t0 > kFewRows)
        for (; t1 - t0 >= 6; t0 += 6, out += 6 * kBlockRows) {
            int64_t r = 0;
            const float *x = acts.x + t0 * w.cols;
            for (; rows - r >= 4; r += 4) plain_tile<Wide, 4, 6>(w, first + r, x, out + r);
            for (; r < rows; r++) plain_tile<Wide, 1, 6>(w, first + r, x, out + r);
        }
    int64_t r = 0;
    if (kHasManyRegisters && t1 - t0 == 1 && w.cols > kNearCols)
        for (; rows - r >= 4; r += 4) plain_rows<Wide, 4, 1>(w, first + r, acts.x + t0 * w.cols, out + r);
    for (; r < rows; r++) {
        int64_t t = t0;
        for (; t1 - t >= 4; t += 4)
            plain_rows<Wide, 1, 4>(w, first + r, acts.x + t * w.cols, out + (t - t0) * kBlockRows + r);
        for (; t < t1; t++) plain_rows<Wide, 1, 1>(w, first + r, acts.x + t * w.cols, out + (t - t0) * kBlockRows + r);
    }
}

using Product = void (*)(const Weight &, int64_t, const Acts &, int64_t, int64_t, float *);

#ifdef SEED_OSS_PAIRS
#include "pairs_bf16.inl"
static constexpr Product bf16_product = pairs_product;
static constexpr auto round_activations = round_bf16;
#else
static constexpr Product bf16_product = plain_product<false>;
static constexpr void (*round_activations)(const float *, int64_t, uint16_t *) = nullptr;
#endif

template <int Kind, bool Wide>
static Product product_of(int32_t zero) {
    return zero == kSymmetric ? packed_product<Kind, kSymmetric, Wide>
           : zero == kMinimum ? packed_product<Kind, kMinimum, Wide>
                              : packed_product<Kind, kPoint, Wide>;
}

static void product(const Weight &w, int64_t block, const Acts &acts, int64_t t0, int64_t t1, float *out) {
    Product run = w.kind == kBFloat16  ? bf16_product
                  : w.kind == kFloat32 ? plain_product<true>
                  : w.kind == kNibbles ? (w.wide_params ? product_of<kNibbles, true>(w.zero) : product_of<kNibbles, false>(w.zero))
                                       : (w.wide_params ? product_of<kBytes, true>(w.zero) : product_of<kBytes, false>(w.zero));
    run(w, block, acts, t0, t1, out);
    int64_t first = block * kBlockRows;
    for (int64_t t = 0; w.bias && t < t1 - t0; t++)
        for (int64_t r = 0; r < kBlockRows && first + r < w.rows; r++) out[t * kBlockRows + r] += w.bias[first + r];
}

// Elementwise

static void rms_norm(const float *x, const float *weight, float eps, int64_t cols, float *out) {
    F16 squares = zero16();
    for (int64_t i = 0; i < cols; i += 16) {
        F16 v = cols - i >= 16 ? load16(x + i) : load_first(x + i, cols - i);
        squares = fma(v, v, squares);
    }
    float factor = 1.0f / __builtin_sqrtf(reduce(squares) / static_cast<float>(cols) + eps);
    for (int64_t i = 0; i < cols; i++) out[i] = (x[i] * factor) * weight[i];
}

static void silu_mul(float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        bool whole = n - i >= 16;
        F16 g = whole ? load16(gate + i) : load_first(gate + i, n - i);
        F16 u = whole ? load16(up + i) : load_first(up + i, n - i);
        F16 y = mul(div(g, add(set1(1.0f), exp16(sub(zero16(), g)))), u);
        if (whole) {
            store16(gate + i, y);
            continue;
        }
        float lanes[16];
        store16(lanes, y);
        for (int64_t j = 0; i + j < n; j++) gate[i + j] = lanes[j];
    }
}

static void add_to(float *x, const float *y, int64_t n) {
    int64_t i = 0;
    for (; n - i >= 16; i += 16) store16(x + i, add(load16(x + i), load16(y + i)));
    for (; i < n; i++) x[i] += y[i];
}

static void rotate(const float *x, const float *cos, const float *sin, int64_t head_dim, float factor, float *out) {
    int64_t half = head_dim / 2, i = 0;
    for (; half - i >= 16; i += 16) {
        F16 first = load16(x + i), second = load16(x + half + i), by = set1(factor);
        F16 a = sub(mul(first, load16(cos + i)), mul(second, load16(sin + i)));
        F16 b = add(mul(second, load16(cos + half + i)), mul(first, load16(sin + half + i)));
        store16(out + i, mul(a, by));
        store16(out + half + i, mul(b, by));
    }
    for (; i < half; i++) {
        float first = x[i], second = x[i + half];
        out[i] = (first * cos[i] - second * sin[i]) * factor;
        out[i + half] = (second * cos[i + half] + first * sin[i + half]) * factor;
    }
}

static void store_kv(const float *x, int64_t n, int64_t kind, void *out, float *scale) {  // n is a multiple of 16
    if (kind == kCacheFloat32) __builtin_memcpy(out, x, static_cast<__SIZE_TYPE__>(n) * 4);
    for (int64_t i = 0; kind == kCacheBFloat16 && i < n; i += 16) store_bf16(static_cast<uint16_t *>(out) + i, load16(x + i));
    int32_t sum;
    float scaled_sum;
    if (kind == kCacheInt8) quantize_group<0>(x, n, {static_cast<int8_t *>(out), scale, &sum, &scaled_sum}, 0);
}

// Attention of some queries over one chunk of keys

template <int64_t Kind>
static inline F16 kv_load(const void *data, int64_t at) {
    return Kind == kCacheFloat32    ? load16(static_cast<const float *>(data) + at)
           : Kind == kCacheBFloat16 ? bf16_to_float(static_cast<const uint16_t *>(data) + at)
                                    : int8_to_float(static_cast<const int8_t *>(data) + at);
}

template <int64_t Kind>
static constexpr int64_t kv_width() {
    return Kind == kCacheFloat32 ? 4 : Kind == kCacheBFloat16 ? 2 : 1;
}

// keys [count <= 32, head_dim] to columns [head_dim, 32]; the first of them begins a unit
template <int64_t Kind>
static void transpose_keys(const Attend &a, int64_t first, int64_t count, float *columns) {
    const bool in_pairs = Kind == kCacheBFloat16 && a.head_dim % 32 == 0;  // half as much to move
    for (int64_t half = 0; half < 2; half++) {
        const void *keys = a.units[first / kUnitKeys + half].keys;
        for (int64_t d = 0; d < a.head_dim; d += in_pairs ? 32 : 16) {
            F16 rows[16];
            for (int64_t i = 0; i < 16; i++) {
                int64_t at = i * a.token_stride + d;
                if (16 * half + i >= count) rows[i] = zero16();
                else if (in_pairs) rows[i] = load16(reinterpret_cast<const float *>(static_cast<const uint16_t *>(keys) + at));
                else rows[i] = kv_load<Kind>(keys, at);
            }
            transpose16(rows);
            float *to = columns + d * 32 + 16 * half;
            for (int64_t i = 0; i < 16; i++) {
                if (!in_pairs) {
                    store16(to + i * 32, rows[i]);
                    continue;
                }
                store16(to + 2 * i * 32, first_halves(rows[i]));
                store16(to + (2 * i + 1) * 32, second_halves(rows[i]));
            }
        }
    }
}

// Memory that is read soon is asked for bit by bit, at `ahead`: the processor looks ahead by itself, but not beyond the
// end of a page, and asked for all at once it would make the loads of now wait.
template <int R, int64_t Kind>
static inline void score_tile(const float *q, const float *columns, int64_t head_dim, float *scores, const uint8_t *ahead) {
    F16 total[R][2];
    for (int r = 0; r < R; r++) total[r][0] = total[r][1] = zero16();
#pragma GCC unroll 4
    for (int64_t d = 0; d < head_dim; d++) {
        F16 k0 = load16(columns + 32 * d), k1 = load16(columns + 32 * d + 16);
        __builtin_prefetch(ahead + 32 * d * kv_width<Kind>());
        for (int r = 0; r < R; r++) {
            F16 x = set1(q[r * head_dim + d]);
            total[r][0] = fma(x, k0, total[r][0]);
            total[r][1] = fma(x, k1, total[r][1]);
        }
    }
    for (int r = 0; r < R; r++) {
        store16(scores + r * kChunkKeys, total[r][0]);
        store16(scores + r * kChunkKeys + 16, total[r][1]);
    }
}

static inline int64_t limit_of(const Attend &a, int64_t row) {  // keys of the chunk that a row sees
    int64_t limit = a.first_limit + row / a.num_groups - a.key_begin, all = a.key_end - a.key_begin;
    return limit < 0 ? 0 : limit < all ? limit : all;
}

// Scores of keys in 8 bits still lack the keys' scales.
static void scale_scores(const Attend &a, int64_t key, int64_t count, float *scores) {
    for (int64_t i = 0; i < count; i += 16) {
        const float *scales = a.units[(key + i) / kUnitKeys].key_scales;
        F16 scale = count - i >= 16 ? load16(scales) : load_first(scales, count - i);
        for (int64_t row = 0; row < a.rows; row++) {
            float *to = scores + row * kChunkKeys + key + i;
            store16(to, mul(load16(to), scale));
        }
    }
}

// run(a tile, its first row) for rows in tiles of `Most`, and what is left in one smaller tile
template <int R>
struct Tile {
    static constexpr int kRows = R;
};

template <int Most, class Run>
static inline void in_tiles(int64_t rows, Run run) {
    int64_t row = 0;
    for (; rows - row >= Most; row += Most) run(Tile<Most>(), row);
    if constexpr (Most > 1)
        if (row < rows) in_tiles<Most - 1>(rows - row, [&](auto tile, int64_t first) { run(tile, row + first); });
}

// What is read behind keys before `key`: the next ones, or the first values.
static inline const uint8_t *asked_ahead(const Attend &a, int64_t key, int64_t num_keys) {
    return static_cast<const uint8_t *>(key < num_keys ? a.units[key / kUnitKeys].keys : a.units[0].values);
}

template <int64_t Kind>
static void scores_of(const Attend &a, float *scores, float *columns) {
    int64_t most = limit_of(a, a.rows - 1);
    for (int64_t key = 0; key < most; key += 32) {
        int64_t here = most - key < 32 ? most - key : 32;
        const uint8_t *ahead = asked_ahead(a, key + 32, most);
        transpose_keys<Kind>(a, key, here, columns);
        in_tiles<6>(a.rows, [&](auto tile, int64_t row) {
            constexpr int R = decltype(tile)::kRows;
            if (limit_of(a, row + R - 1) <= key) return;  // none of them looks that far
            score_tile<R, Kind>(a.q + row * a.head_dim, columns, a.head_dim, scores + row * kChunkKeys + key, ahead);
        });
        if (Kind == kCacheInt8) scale_scores(a, key, here, scores);
    }
}

template <int R, int V, int64_t Kind>
static inline void value_tile(const Attend &a, const float *weights, int64_t row, int64_t d, int64_t num_keys) {
    F16 total[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) total[r][v] = zero16();
    for (int64_t first = 0; first < num_keys; first += kUnitKeys, weights += kUnitKeys) {
        const Unit *unit = a.units + first / kUnitKeys;
        const uint8_t *next = static_cast<const uint8_t *>(unit[2].values);
        const int64_t count = num_keys - first < kUnitKeys ? num_keys - first : kUnitKeys;
        for (int64_t key = 0; key < count; key++) {
            F16 value[V];
            int64_t at = key * a.token_stride + d;
            const uint8_t *ahead = next + at * kv_width<Kind>();
            for (int64_t i = 0; i < 16 * V * kv_width<Kind>(); i += 64) __builtin_prefetch(ahead + i);
            for (int v = 0; v < V; v++) value[v] = kv_load<Kind>(unit->values, at + 16 * v);
            for (int r = 0; r < R; r++) {
                float weight = weights[r * kChunkKeys + key];
                F16 p = set1(Kind == kCacheInt8 ? weight * unit->value_scales[key] : weight);
                for (int v = 0; v < V; v++) total[r][v] = fma(p, value[v], total[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store16(a.out + (row + r) * (a.head_dim + 2) + d + 16 * v, total[r][v]);
}

template <int R, int64_t Kind>
static inline void values_of(const Attend &a, const float *weights, int64_t row) {
    int64_t num_keys = limit_of(a, row + R - 1), d = 0;
    for (; a.head_dim - d >= 64; d += 64) value_tile<R, 4, Kind>(a, weights, row, d, num_keys);
    for (; d < a.head_dim; d += 16) value_tile<R, 1, Kind>(a, weights, row, d, num_keys);
}

// Keys that some row sees, up to a multiple of 32
static inline int64_t seen_by_any(const Attend &a) { return (limit_of(a, a.rows - 1) + 31) / 32 * 32; }

// Scores to weights in place; the maximum and the sum go behind the row's values.
template <F16 (*Exp)(F16)>
static void softmax_row(const Attend &a, int64_t row, float *scores, float *tail) {
    const float minus_infinity = -__builtin_inff();
    int64_t limit = limit_of(a, row), padded = (limit + 31) / 32 * 32;
    if (a.mask) {
        const uint8_t *mask = a.mask + row / a.num_groups * a.mask_stride + a.key_begin;
        for (int64_t i = 0; i < limit; i++)
            if (!mask[i]) scores[i] = minus_infinity;
    }
    const int64_t end = seen_by_any(a);
    for (int64_t i = limit; i < end; i++) scores[i] = minus_infinity;
    F16 most = set1(minus_infinity);
    for (int64_t i = 0; i < padded; i += 16) most = max16(most, load16(scores + i));
    float top = reduce_max(most);
    if (top == minus_infinity) {  // nothing to see, or nothing but NaN, which the weights keep
        bool is_nan = false;
        for (int64_t i = 0; i < limit; i++) is_nan |= scores[i] != scores[i];
        for (int64_t i = 0; i < end; i++) scores[i] = is_nan ? __builtin_nanf("") : 0.0f;
        tail[0] = is_nan ? 0.0f : minus_infinity;
        tail[1] = is_nan ? __builtin_nanf("") : 0.0f;
        return;
    }
    F16 sum = zero16();
    for (int64_t i = 0; i < padded; i += 16) {
        F16 weight = Exp(sub(load16(scores + i), set1(top)));
        store16(scores + i, weight);
        sum = add(sum, weight);
    }
    for (int64_t i = padded; i < end; i++) scores[i] = 0.0f;
    tail[0] = top;
    tail[1] = reduce(sum);
}

template <int64_t Kind>
static void attend_over(const Attend &a) {
    float *scores = a.scratch, *columns = a.scratch + a.rows * kChunkKeys;
    scores_of<Kind>(a, scores, columns);
    for (int64_t row = 0; row < a.rows; row++)
        softmax_row<exp16>(a, row, scores + row * kChunkKeys, a.out + row * (a.head_dim + 2) + a.head_dim);
    in_tiles<kHasManyRegisters ? 6 : 4>(a.rows, [&](auto tile, int64_t row) {
        values_of<decltype(tile)::kRows, Kind>(a, scores + row * kChunkKeys, row);
    });
}

#ifdef SEED_OSS_PAIRS
#include "attention_bf16.inl"
static constexpr auto attend_over_bf16 = attend_over_pairs;
#else
static constexpr auto attend_over_bf16 = attend_over<kCacheBFloat16>;
#endif

static void attend(const Attend &a) {
    if (a.kind == kCacheFloat32) attend_over<kCacheFloat32>(a);
    else if (a.kind == kCacheBFloat16) attend_over_bf16(a);
    else attend_over<kCacheInt8>(a);
}

// The chunks of a row go into its state one after another: state and part are [head_dim] values, maximum, sum of weights.

static void merge(float *state, const float *part, int64_t head_dim) {
    float top = state[head_dim], part_top = part[head_dim];
    if (part_top == -__builtin_inff()) return;  // it saw nothing
    float most = top > part_top ? top : part_top, lanes[16];
    store16(lanes, exp16(sub(set1(top), set1(most))));
    float old_factor = top == -__builtin_inff() ? 0.0f : lanes[0];
    store16(lanes, exp16(sub(set1(part_top), set1(most))));
    float new_factor = lanes[0];
    for (int64_t d = 0; d < head_dim; d += 16)
        store16(state + d, add(mul(load16(state + d), set1(old_factor)), mul(load16(part + d), set1(new_factor))));
    state[head_dim] = most;
    state[head_dim + 1] = state[head_dim + 1] * old_factor + part[head_dim + 1] * new_factor;
}

static void finish(const float *state, int64_t head_dim, float *out) {
    float sum = state[head_dim + 1], inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int64_t d = 0; d < head_dim; d += 16) store16(out + d, mul(load16(state + d), set1(inverse)));
}

static int64_t read(const uint8_t *data, int64_t num_bytes) {
    int64_t lanes[8] = {};
    for (; num_bytes >= 64; num_bytes -= 64, data += 64)
        for (int i = 0; i < 8; i++) {
            int64_t word;
            __builtin_memcpy(&word, data + 8 * i, 8);
            lanes[i] ^= word;
        }
    for (int i = 1; i < 8; i++) lanes[0] ^= lanes[i];
    return lanes[0];
}

// Logits

static inline F16 load_padded(const float *x, int64_t n, float padding) {
    if (n >= 16) return load16(x);
    float lanes[16];
    for (int64_t i = 0; i < 16; i++) lanes[i] = i < n ? x[i] : padding;
    return load16(lanes);
}

static float highest(const float *x, int64_t n, bool *is_special) {
    const F16 infinity = set1(__builtin_inff()), one = set1(1.0f);
    F16 most = set1(-__builtin_inff()), special = zero16();
    for (int64_t i = 0; i < n; i += 16) {
        F16 v = load_padded(x + i, n - i, -__builtin_inff());
        most = max16(v, most);  // where v is NaN, what was there
        special = add(special, zero_below(v, infinity, one));
    }
    *is_special = reduce(special) > 0.0f;
    return reduce_max(most);
}

static float sum_exp(const float *x, int64_t n, float top) {
    F16 sum = zero16();
    for (int64_t i = 0; i < n; i += 16)
        sum = add(sum, exp16(sub(load_padded(x + i, n - i, -__builtin_inff()), set1(top))));
    return reduce(sum);
}

#include "sampling.inl"

static const Kernels kTable = {quantize, round_activations, product, rms_norm, silu_mul, add_to, rotate, store_kv, attend,    merge,
                               finish,   read,              highest, sum_exp,  rivals,   weigh,        masses_below, between,
                               fill_below};
