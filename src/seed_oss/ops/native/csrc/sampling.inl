// Random words, and what filters of a row of scores need. Nothing here rounds as the instructions have it: a product and
// a sum are two roundings everywhere, so that every instruction set chooses the same tokens.

static inline F16 mul_add(F16 x, F16 y, F16 z) { return add(mul(x, y), z); }

// Philox4x32-10 of 16 counters (quad, token index, row, 0); words[4 * i + j] is word j of counter first_quad + i.
static inline void random_words(const Noise &noise, uint32_t first_quad, uint32_t *words) {
    Q16 c0 = quads_from(first_quad), c1 = set1_quad(noise.token_index), c2 = set1_quad(noise.row), c3 = set1_quad(0);
    uint32_t k0 = noise.key[0], k1 = noise.key[1];
    for (int round = 0; round < 10; round++) {
        Q16 first = mul_quad(c0, 0xD2511F53u), second = mul_quad(c2, 0xCD9E8D57u);
        c0 = xor_high(second, c1, k0);
        c2 = xor_high(first, c3, k1);
        c1 = second;
        c3 = first;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    store_quads(words, c0, c1, c2, c3);
}

// Not below the noise of a word, and above it by 0.07 where noise is large. The noise is at most -log((word + 1/2) / 2 ** 32);
// of a float's bits, read as a whole number, comes a lower bound of its logarithm.
static inline F16 most_noise(const uint32_t *words) {
    const float log2 = 0.693147180559945309f, slack = 1e-3f;
    F16 scaled = add(to_float(load_shifted(words)), set1(1.0f / 512));  // (word >> 8) + 1/2 / 256
    return sub(set1(151 * log2 + slack), mul(bits_to_float(scaled), set1(log2 / 8388608.0f)));
}

static uint64_t rivals(const float *x, int64_t n, const Noise &noise, int64_t first, float best, uint32_t *words) {
    const F16 limit = set1(best), minus_infinity = set1(-__builtin_inff());
    F16 most = minus_infinity, scores[4];
    for (int part = 0; part < 4; part++) {
        scores[part] = load_padded(x + 16 * part, n - 16 * part, -__builtin_inff());
        most = max16(scores[part], most);
    }
    if (!(reduce_max(most) + 22.9f >= best)) return 0;
    random_words(noise, static_cast<uint32_t>(first / 4), words);
    uint64_t found = 0;
    for (int part = 0; part < 4; part++) {
        uint64_t able = not_below(add(scores[part], most_noise(words + 16 * part)), limit);
        able &= not_below(scores[part], set1(-3.4028234663852886e38f));
        found |= able << (16 * part);
    }
    return found;
}

static float weigh(const float *x, int64_t n, float top, float *w) {
    F16 sum = zero16();
    for (int64_t i = 0; i < n; i += 16) {
        F16 weight = exp16_of<mul_add>(sub(load_padded(x + i, n - i, -__builtin_inff()), set1(top)));
        store16(w + i, weight);
        sum = add(sum, weight);
    }
    return reduce(sum);
}

static void masses_below(const float *x, const float *w, int64_t n, const float *limits, float *sums) {
    for (int64_t k = 0; k < kNumLimits; k += 4) {  // four sums at once have room in the registers
        F16 sum[4] = {zero16(), zero16(), zero16(), zero16()}, limit[4];
        for (int j = 0; j < 4; j++) limit[j] = set1(limits[k + j]);
        for (int64_t i = 0; i < n; i += 16) {
            F16 v = load_padded(x + i, n - i, __builtin_inff()), weight = load16(w + i);
            for (int j = 0; j < 4; j++) sum[j] = add_below(sum[j], v, limit[j], weight);
        }
        for (int j = 0; j < 4; j++) sums[k + j] = reduce(sum[j]);
    }
}

static uint64_t between(const float *x, int64_t n, float low, float high) {
    uint64_t found = 0;
    for (int64_t i = 0; i < n; i += 16) {
        F16 v = load_padded(x + i, n - i, __builtin_inff());
        uint64_t inside = not_below(v, set1(low)) & ~not_below(v, set1(high)) & 0xffffu;
        found |= inside << i;
    }
    return n >= 64 ? found : found & ((uint64_t{1} << n) - 1);
}

static void fill_below(const float *x, int64_t n, float limit, float fill, float *out) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        F16 v = load16(x + i);
        store16(out + i, choose_below(v, set1(limit), set1(fill), v));
    }
    for (; i < n; i++) out[i] = x[i] < limit ? fill : x[i];
}
