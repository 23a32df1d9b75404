// Products with plain weights in bf16, where the processor multiplies pairs of bf16 and adds them up in fp32. Activations are
// rounded to bf16 before. A row's sum is made of sixteen partial sums, each of every sixteenth pair, added up in a fixed tree:
// one register, whatever the number of rows and tokens that are multiplied at once.

// Where a weight comes from memory, the rows that follow are asked for meanwhile, to be in the cache behind the nearest: the
// processor looks ahead by itself, but in each row anew, and not beyond the end of a page.
template <int R, int T, bool IsFar>
static inline void pairs_tile(const Weight &w, int64_t row, const uint16_t *x, float *out) {
    const uint16_t *rows = static_cast<const uint16_t *>(w.data) + row * w.cols;
    const int64_t end = w.cols / 32 * 32, rest = w.cols - end;
    F16 total[R][T];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) total[r][t] = zero16();
    for (int64_t k = 0; k < end; k += 32) {
        Bf32 m[R];
        for (int r = 0; r < R; r++) {
            m[r] = load_pairs(rows + r * w.cols + k);
            if (IsFar) __builtin_prefetch(rows + (r + R) * w.cols + k, 0, 2);
        }
        for (int t = 0; t < T; t++) {
            Bf32 v = load_pairs(x + t * w.cols + k);
            for (int r = 0; r < R; r++) total[r][t] = add_pairs(total[r][t], m[r], v);
        }
    }
    for (int r = 0; rest && r < R; r++)
        for (int t = 0; t < T; t++) {
            Bf32 m = load_first_pairs(rows + r * w.cols + end, rest), v = load_first_pairs(x + t * w.cols + end, rest);
            total[r][t] = add_pairs(total[r][t], m, v);
        }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) out[t * kBlockRows + r] = reduce(total[r][t]);
}

// Four rows share each number of a token that is loaded.
template <int T, bool IsFar>
static inline void pairs_rows(const Weight &w, int64_t first, int64_t rows, const uint16_t *x, float *out) {
    int64_t r = 0;
    for (; rows - r >= 4; r += 4) pairs_tile<4, T, IsFar>(w, first + r, x, out + r);
    for (; r < rows; r++) pairs_tile<1, T, false>(w, first + r, x, out + r);
}

static void pairs_product(const Weight &w, int64_t block, const Acts &acts, int64_t t0, int64_t t1, float *out) {
    int64_t first = block * kBlockRows, rows = w.rows - first < kBlockRows ? w.rows - first : kBlockRows;
    const uint16_t *x = acts.bf16 + t0 * w.cols;
    for (bool is_far = true; t1 - t0 >= kMaxTile; is_far = false) {
        if (is_far) pairs_rows<kMaxTile, true>(w, first, rows, x, out);
        else pairs_rows<kMaxTile, false>(w, first, rows, x, out);
        t0 += kMaxTile, x += kMaxTile * w.cols, out += kMaxTile * kBlockRows;
    }
    switch (t1 - t0) {
        case 1: pairs_rows<1, true>(w, first, rows, x, out); break;
        case 2: pairs_rows<2, true>(w, first, rows, x, out); break;
        case 3: pairs_rows<3, true>(w, first, rows, x, out); break;
        case 4: pairs_rows<4, true>(w, first, rows, x, out); break;
        case 5: pairs_rows<5, true>(w, first, rows, x, out); break;
        default: break;
    }
}

static void round_bf16(const float *x, int64_t n, uint16_t *out) {
    int64_t i = 0;
    for (; n - i >= 16; i += 16) store_bf16(out + i, load16(x + i));
    if (i == n) return;
    uint16_t lanes[16];
    store_bf16(lanes, load_first(x + i, n - i));
    for (int64_t j = 0; i + j < n; j++) out[i + j] = lanes[j];
}
