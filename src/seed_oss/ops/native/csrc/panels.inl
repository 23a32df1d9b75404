// Weights unpacked for many tokens: some units of a block of 32 rows, a byte per weight, each half of the rows by itself.

constexpr int64_t kPanelUnits = 24;   // units of columns that are unpacked at a time: as much as stays in the nearest cache
constexpr int64_t kMaxUnit = 32;      // columns of a unit
constexpr int64_t kPanelTokens = 18;  // from here on unpacking is worth its time

// Bytes are weights less their zero where that fits (`kIsWhole`); else as they come, and their zero counts later. Products
// want them with a sign, or above a middle of 128.
template <int Kind, int Zero, bool Wide, bool AboveMiddle>
struct Panel {
    static constexpr bool kIsWhole = Zero == kSymmetric || (Zero == kPoint && Kind == kNibbles);
    using R = Record<Kind, Zero, Wide>;
    alignas(64) uint8_t bytes[2][kPanelUnits][kMaxUnit * 16];
    F16 scale[2][kPanelUnits], offset[2][kPanelUnits];

    // Reads a unit; returns where the next one begins.
    const uint8_t *unpack(int64_t i, const R &record, const uint8_t *at, int64_t quads, int64_t ahead) {
        B64 zero[2];
        for (int half = 0; half < 2; half++) {
            scale[half][i] = record.scale[half];
            offset[half][i] = record.offset[half];
            zero[half] = Zero == kPoint ? four_bytes(round_int(record.offset[half])) : set1_byte(R::kMiddle);
            if (AboveMiddle) zero[half] = sub_bytes(zero[half], set1_byte(128));
        }
        for (int64_t quad = 0; quad < quads; quad++, at += R::kQuad) {
            B64 halves[2] = {load_bytes(at)};
            __builtin_prefetch(at + ahead);
            if (Kind == kNibbles) {
                halves[1] = high_nibbles(halves[0]);
                halves[0] = low_nibbles(halves[0]);
            } else {
                halves[1] = load_bytes(at + 64);
                __builtin_prefetch(at + ahead + 64);
            }
            for (int half = 0; half < 2; half++)
                store_bytes(bytes[half][i] + 64 * quad, kIsWhole ? sub_bytes(halves[half], zero[half]) : halves[half]);
        }
        return at;
    }
};

// All units of a block, a panel at a time: use(panel, first unit, number of units).
template <int Kind, int Zero, bool Wide, bool AboveMiddle, class Use>
static inline void each_panel(const Weight &w, const uint8_t *at, int64_t ahead, const Acts &acts, Use use) {
    using R = Record<Kind, Zero, Wide>;
    Panel<Kind, Zero, Wide, AboveMiddle> panel;
    const int64_t units = w.group / acts.group, quads = acts.group / 4, groups = acts.cols / acts.group;
    const int64_t panels = (groups + kPanelUnits - 1) / kPanelUnits;
    R record;
    for (int64_t i = 0, left = 0; i < panels; i++) {
        const int64_t first = i * groups / panels, end = (i + 1) * groups / panels;
        for (int64_t unit = first; unit < end; unit++, left--) {
            if (left == 0) record = R(at), at += R::kParam + R::kExtra, left = units;
            at = panel.unpack(unit - first, record, at, quads, ahead);
        }
        use(panel, first, end - first);
    }
}

// out [T, 32 rows] = the first panel, += one that begins with unit `first` of the columns. Quads: of a unit, 0 where they are not known.
// All of a unit's are written out one after another, else gcc copies every sum from register to register at each of them.
template <int T, int Quads, class P, int Zero>
static inline void panel_tile(const P &panel, int64_t first, int64_t units, const Acts &acts, int64_t t0, float *out) {
    const int64_t groups = acts.cols / acts.group, quads = Quads ? Quads : acts.group / 4;
    F16 total[T][2];
    for (int t = 0; t < T; t++)
        for (int half = 0; half < 2; half++) total[t][half] = first ? load16(out + t * kBlockRows + 16 * half) : zero16();
    const int8_t *a = acts.q + t0 * acts.cols + first * acts.group;
    for (int64_t unit = 0; unit < units; unit++) {
        const int64_t scales = t0 * groups + first + unit;
        const uint8_t *low = panel.bytes[0][unit], *high = panel.bytes[1][unit];
        I16 acc[T][2];
        for (int t = 0; t < T; t++)
            acc[t][0] = acc[t][1] = P::kIsWhole ? set1_int(-128 * acts.sum[scales + t * groups]) : zero_int();
#pragma GCC unroll 8
        for (int64_t quad = 0; quad < quads; quad++, a += 4) {
            B64 first_rows = load_bytes(low + 64 * quad), second_rows = load_bytes(high + 64 * quad);
            for (int t = 0; t < T; t++) {
                acc[t][0] = dot_bytes(acc[t][0], first_rows, a + t * acts.cols);
                acc[t][1] = dot_bytes(acc[t][1], second_rows, a + t * acts.cols);
            }
        }
        for (int t = 0; t < T; t++)
            for (int half = 0; half < 2; half++) {
                F16 offset = panel.offset[half][unit];
                F16 sum = unit_sum<P::kIsWhole ? kSymmetric : Zero>(acc[t][half], offset, acts, scales + t * groups);
                total[t][half] = add_unit<Zero>(total[t][half], sum, panel.scale[half][unit], offset, acts, scales + t * groups);
            }
    }
    for (int t = 0; t < T; t++)
        for (int half = 0; half < 2; half++) store16(out + t * kBlockRows + 16 * half, total[t][half]);
}

// A block of 32 rows for `count` tokens, a multiple of kMaxTile.
template <int Kind, int Zero, bool Wide>
static void unpacked_product(
    const Weight &w, const uint8_t *data, int64_t ahead, const Acts &acts, int64_t t0, int64_t count, float *out) {
    each_panel<Kind, Zero, Wide, true>(w, data, ahead, acts, [&](const auto &panel, int64_t first, int64_t units) {
        using P = Panel<Kind, Zero, Wide, true>;
        for (int64_t t = 0; t < count; t += kMaxTile) {
            if (acts.group == 32) panel_tile<kMaxTile, 8, P, Zero>(panel, first, units, acts, t0 + t, out + t * kBlockRows);
            else panel_tile<kMaxTile, 0, P, Zero>(panel, first, units, acts, t0 + t, out + t * kBlockRows);
        }
    });
}
