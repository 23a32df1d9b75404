// Sixteen lanes in an array, for any processor; the compiler makes of the loops what it can. Included in a namespace.

constexpr bool kHasManyRegisters = false;  // some thirty, of sixteen lanes each

struct F16 {
    float v[16];
};
struct I16 {
    int32_t v[16];
};
struct B64 {
    uint8_t v[64];
};

#define EACH_LANE for (int i = 0; i < 16; i++)

static inline F16 set1(float x) {
    F16 r;
    EACH_LANE r.v[i] = x;
    return r;
}
static inline F16 zero16() { return set1(0.0f); }
static inline F16 load16(const float *p) {
    F16 r;
    __builtin_memcpy(r.v, p, sizeof r.v);
    return r;
}
static inline void store16(float *p, F16 x) { __builtin_memcpy(p, x.v, sizeof x.v); }
static inline F16 load_first(const float *p, int64_t n) {
    F16 r = zero16();
    for (int64_t i = 0; i < 16 && i < n; i++) r.v[i] = p[i];
    return r;
}
static inline F16 add(F16 a, F16 b) {
    EACH_LANE a.v[i] += b.v[i];
    return a;
}
static inline F16 sub(F16 a, F16 b) {
    EACH_LANE a.v[i] -= b.v[i];
    return a;
}
static inline F16 mul(F16 a, F16 b) {
    EACH_LANE a.v[i] *= b.v[i];
    return a;
}
static inline F16 div(F16 a, F16 b) {
    EACH_LANE a.v[i] /= b.v[i];
    return a;
}
static inline F16 fma(F16 a, F16 b, F16 c) {  // two roundings: a fused one is slow where there is no instruction for it
    EACH_LANE a.v[i] = a.v[i] * b.v[i] + c.v[i];
    return a;
}
static inline F16 max16(F16 a, F16 b) {
    EACH_LANE a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
static inline F16 min16(F16 a, F16 b) {
    EACH_LANE a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}
static inline F16 abs16(F16 a) {
    EACH_LANE a.v[i] = __builtin_fabsf(a.v[i]);
    return a;
}
static inline float float_of(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
static inline uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}
static inline float half_value(uint16_t h) {
    uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    if (exponent == 31) return float_of(sign | 0x7f800000u | (fraction << 13));
    if (exponent == 0) {  // subnormal: fraction * 2 ** -24, exact
        float x = static_cast<float>(fraction) * 5.9604644775390625e-8f;
        return sign ? -x : x;
    }
    return float_of(sign | ((exponent + 112u) << 23) | (fraction << 13));
}
static inline F16 half_to_float(const uint16_t *p) {
    F16 r;
    EACH_LANE r.v[i] = half_value(p[i]);
    return r;
}
static inline F16 bf16_to_float(const uint16_t *p) {
    F16 r;
    EACH_LANE r.v[i] = float_of(static_cast<uint32_t>(p[i]) << 16);
    return r;
}
static inline F16 first_halves(F16 pairs) {  // of 16 pairs of bf16
    EACH_LANE pairs.v[i] = float_of(bits_of(pairs.v[i]) << 16);
    return pairs;
}
static inline F16 second_halves(F16 pairs) {
    EACH_LANE pairs.v[i] = float_of(bits_of(pairs.v[i]) & 0xffff0000u);
    return pairs;
}
static inline void store_bf16(uint16_t *p, F16 x) {
    EACH_LANE {
        uint32_t bits = bits_of(x.v[i]);
        p[i] = x.v[i] != x.v[i] ? 0x7fc0u : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
}
static inline I16 set1_int(int32_t x) {
    I16 r;
    EACH_LANE r.v[i] = x;
    return r;
}
static inline I16 zero_int() { return set1_int(0); }
static inline I16 sub_int(I16 a, I16 b) {
    EACH_LANE a.v[i] -= b.v[i];
    return a;
}
static inline I16 add_int(I16 a, I16 b) {
    EACH_LANE a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]));
    return a;
}
static inline F16 to_float(I16 a) {
    F16 r;
    EACH_LANE r.v[i] = static_cast<float>(a.v[i]);
    return r;
}
static inline I16 round_int(F16 a) {
    I16 r;
    EACH_LANE {
        float x = __builtin_rintf(a.v[i]);
        r.v[i] = x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(x) : INT32_MIN;
    }
    return r;
}
static inline void store_int8(int8_t *p, I16 a) {
    EACH_LANE p[i] = static_cast<int8_t>(a.v[i]);
}
static inline F16 bytes_to_float(const uint8_t *p) {
    F16 r;
    EACH_LANE r.v[i] = static_cast<float>(p[i]);
    return r;
}
static inline F16 int8_to_float(const int8_t *p) {
    F16 r;
    EACH_LANE r.v[i] = static_cast<float>(p[i]);
    return r;
}
static inline F16 round16(F16 a) {
    EACH_LANE a.v[i] = __builtin_rintf(a.v[i]);
    return a;
}
static inline F16 exp2_int(F16 n) {
    I16 whole = round_int(n);
    EACH_LANE n.v[i] = float_of((static_cast<uint32_t>(whole.v[i]) + 127u) << 23);
    return n;
}
static inline F16 zero_below(F16 x, F16 limit, F16 value) {
    EACH_LANE value.v[i] = x.v[i] < limit.v[i] ? 0.0f : value.v[i];
    return value;
}
static inline bool has_nan(F16 x) {
    bool found = false;
    EACH_LANE found |= x.v[i] != x.v[i];
    return found;
}
static inline float reduce(F16 x) {
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) x.v[i] += x.v[i + width];
    return x.v[0];
}
static inline float reduce_max(F16 x) {
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) x.v[i] = x.v[i] > x.v[i + width] ? x.v[i] : x.v[i + width];
    return x.v[0];
}
static inline int32_t reduce_int(I16 x) {
    uint32_t sum = 0;
    EACH_LANE sum += static_cast<uint32_t>(x.v[i]);
    return static_cast<int32_t>(sum);
}

static inline B64 load_bytes(const uint8_t *p) {
    B64 r;
    __builtin_memcpy(r.v, p, 64);
    return r;
}
static inline B64 low_nibbles(B64 w) {
    for (int i = 0; i < 64; i++) w.v[i] &= 15;
    return w;
}
static inline B64 high_nibbles(B64 w) {
    for (int i = 0; i < 64; i++) w.v[i] >>= 4;
    return w;
}
static inline I16 dot_bytes(I16 acc, B64 w, const int8_t *a) {
    EACH_LANE for (int j = 0; j < 4; j++) acc.v[i] += static_cast<int32_t>(w.v[4 * i + j]) * a[j];
    return acc;
}
static inline I16 dot_nibbles(I16 acc, B64 w, const int8_t *a) { return dot_bytes(acc, w, a); }

static inline void transpose16(F16 *rows) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < i; j++) {
            float x = rows[i].v[j];
            rows[i].v[j] = rows[j].v[i];
            rows[j].v[i] = x;
        }
}
// Sixteen 32-bit words at the bottom of 64 bits each; what is above them does not count.
struct Q16 {
    uint64_t v[16];
};
static inline Q16 set1_quad(uint32_t x) {
    Q16 r;
    EACH_LANE r.v[i] = x;
    return r;
}
static inline Q16 quads_from(uint32_t first) {
    Q16 r;
    EACH_LANE r.v[i] = uint64_t{first} + static_cast<uint64_t>(i);
    return r;
}
static inline Q16 mul_quad(Q16 x, uint32_t factor) {  // all 64 bits of the product
    EACH_LANE x.v[i] = (x.v[i] & 0xffffffffu) * factor;
    return x;
}
static inline Q16 xor_high(Q16 x, Q16 y, uint32_t key) {  // high word of x, low word of y, key
    EACH_LANE x.v[i] = (x.v[i] >> 32) ^ y.v[i] ^ key;
    return x;
}
static inline void store_quads(uint32_t *p, Q16 c0, Q16 c1, Q16 c2, Q16 c3) {  // a counter's words behind each other
    EACH_LANE {
        p[4 * i] = static_cast<uint32_t>(c0.v[i]);
        p[4 * i + 1] = static_cast<uint32_t>(c1.v[i]);
        p[4 * i + 2] = static_cast<uint32_t>(c2.v[i]);
        p[4 * i + 3] = static_cast<uint32_t>(c3.v[i]);
    }
}
static inline I16 load_shifted(const uint32_t *p) {  // by 8 bits
    I16 r;
    EACH_LANE r.v[i] = static_cast<int32_t>(p[i] >> 8);
    return r;
}
static inline F16 bits_to_float(F16 x) {  // the bits read as a whole number
    EACH_LANE x.v[i] = static_cast<float>(static_cast<int32_t>(bits_of(x.v[i])));
    return x;
}
static inline uint64_t not_below(F16 x, F16 limit) {  // one bit for each lane
    uint64_t found = 0;
    EACH_LANE found |= static_cast<uint64_t>(x.v[i] >= limit.v[i]) << i;
    return found;
}
static inline F16 choose_below(F16 x, F16 limit, F16 below, F16 other) {
    EACH_LANE other.v[i] = x.v[i] < limit.v[i] ? below.v[i] : other.v[i];
    return other;
}
static inline F16 add_below(F16 sum, F16 x, F16 limit, F16 value) {  // 0 where x is not below the limit
    EACH_LANE sum.v[i] += x.v[i] < limit.v[i] ? value.v[i] : 0.0f;
    return sum;
}
#undef EACH_LANE
