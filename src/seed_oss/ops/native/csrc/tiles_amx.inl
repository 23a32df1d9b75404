// Packed products in AMX tiles: 16 tokens times 16 rows of a weight at once, for some columns. Only a unit's whole numbers
// are made in tiles; they are added up as everywhere, so the results have the same bits.
//
// tiles 0 to 3: sums [16 tokens, 16 rows]    4, 5: activations [16 tokens, a unit]    6, 7: weights [unit / 4, 16 rows, 4]

constexpr int64_t kTileTokens = 16;

struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];  // of a row
    uint8_t rows[16];
};

static inline void configure_tiles(int64_t unit) {
    alignas(64) TileConfig config = {};
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.rows[i] = static_cast<uint8_t>(i < 6 ? kTileTokens : unit / 4);
        config.bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? unit : 64);
    }
    _tile_loadconfig(&config);
}

// Sums of unit number i. What a tile gives is only there some units later, so several are under way at a time.
template <bool Signed>
static inline void multiply_tiles(int64_t i, const int8_t *a, int64_t stride, const uint8_t *weights, int32_t *sums) {
#define MULTIPLY(SUM, ACT, WEIGHT)                      \
    _tile_zero(SUM);                                    \
    _tile_loadd(ACT, a, stride);                        \
    _tile_loadd(WEIGHT, weights, 64);                   \
    if (Signed) _tile_dpbssd(SUM, ACT, WEIGHT);         \
    else _tile_dpbsud(SUM, ACT, WEIGHT);                \
    _tile_stored(SUM, sums, 64);                        \
    break
    switch (i % 4) {
        case 0: MULTIPLY(0, 4, 6);
        case 1: MULTIPLY(1, 5, 7);
        case 2: MULTIPLY(2, 4, 6);
        default: MULTIPLY(3, 5, 7);
    }
#undef MULTIPLY
}

// Where a panel's work is: for 16 tokens one half of the rows after the other, and for each of them the units.
struct Place {
    int64_t unit = 0, token = 0, half = 0;

    bool step(int64_t units) {  // whether other rows or tokens begin
        if (++unit < units) return false;
        unit = 0;
        token += half * kTileTokens;
        half ^= 1;
        return true;
    }
};

// totals [count, 32 rows] += the panel, which begins with unit `first` of the columns and has `units` of them
template <int Kind, int Zero, bool Wide>
static void add_panel(
    const Panel<Kind, Zero, Wide, false> &panel, int64_t first, int64_t units, const Acts &acts, int64_t t0, int64_t count, float *totals) {
    constexpr bool kIsWhole = Panel<Kind, Zero, Wide, false>::kIsWhole;
    constexpr int64_t kAhead = 3;
    alignas(64) int32_t sums[4][kTileTokens * 16];
    const int64_t groups = acts.cols / acts.group, steps = count / kTileTokens * 2 * units, cols = acts.cols;
    Acts scales = acts;  // a copy that nothing else points to
    const int8_t *a = acts.q + t0 * cols + first * acts.group;
    const uint8_t *weights = panel.bytes[0][0];
    F16 total[kTileTokens];
    Place next, now;
    float *out = totals;
    int64_t at = t0 * groups + first;
    for (int64_t step = 0; step < steps + kAhead; step++) {
        if (step < steps) {
            multiply_tiles<kIsWhole>(step, a, cols, weights, sums[step % 4]);
            a += acts.group;
            weights += kMaxUnit * 16;
            if (next.step(units)) {
                a = acts.q + (t0 + next.token) * cols + first * acts.group;
                weights = panel.bytes[next.half][0];
            }
        }
        if (step < kAhead) continue;
        if (now.unit == 0)
            for (int t = 0; t < kTileTokens; t++) total[t] = load16(out + t * kBlockRows);
        const F16 scale = panel.scale[now.half][now.unit], offset = panel.offset[now.half][now.unit];
        const int32_t *dots = sums[(step - kAhead) % 4];
        for (int t = 0; t < kTileTokens; t++) {
            I16 dot = {_mm512_load_si512(dots + 16 * t)};
            F16 sum = unit_sum<kIsWhole ? kSymmetric : Zero>(dot, offset, scales, at + t * groups);
            total[t] = add_unit<Zero>(total[t], sum, scale, offset, scales, at + t * groups);
        }
        at++;
        if (now.step(units)) {
            for (int t = 0; t < kTileTokens; t++) store16(out + t * kBlockRows, total[t]);
            out = totals + now.token * kBlockRows + 16 * now.half;
            at = (t0 + now.token) * groups + first;
        }
    }
}

// A block of 32 rows for `count` tokens, a multiple of 16.
template <int Kind, int Zero, bool Wide>
static void tiled_product(
    const Weight &w, const uint8_t *at, int64_t ahead, const Acts &acts, int64_t t0, int64_t count, float *out) {
    for (int64_t i = 0; i < count * kBlockRows; i += 16) store16(out + i, zero16());
    configure_tiles(acts.group);
    each_panel<Kind, Zero, Wide, false>(w, at, ahead, acts, [&](const auto &panel, int64_t first, int64_t units) {
        add_panel(panel, first, units, acts, t0, count, out);
    });
    _tile_release();
}
