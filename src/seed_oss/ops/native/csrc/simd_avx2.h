// Sixteen lanes in two registers. Included inside a namespace, under a target with AVX2, FMA and F16C.

constexpr bool kHasManyRegisters = false;  // some thirty, of sixteen lanes each

struct F16 {
    __m256 a, b;
};
struct I16 {
    __m256i a, b;
};
struct B64 {
    __m256i a, b;  // rows 0 to 7 and 8 to 15
};

static inline F16 zero16() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline F16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F16 load16(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store16(float *p, F16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline F16 load_first(const float *p, int64_t n) {
    float padded[16] = {};
    for (int64_t i = 0; i < 16 && i < n; i++) padded[i] = p[i];
    return load16(padded);
}
static inline F16 add(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline F16 sub(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline F16 mul(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline F16 div(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline F16 fma(F16 x, F16 y, F16 z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline F16 max16(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline F16 min16(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline F16 abs16(F16 x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
static inline F16 half_to_float(const uint16_t *p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p + 8)))};
}
static inline __m256 bf16_half(const uint16_t *p) {
    __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
static inline F16 bf16_to_float(const uint16_t *p) { return {bf16_half(p), bf16_half(p + 8)}; }
static inline F16 first_halves(F16 x) {  // of 16 pairs of bf16
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.a), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x.b), 16))};
}
static inline F16 second_halves(F16 x) {
    __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u)));
    return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
static inline __m256i bf16_bits(__m256 x) {
    __m256i raw = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(raw, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(raw, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), _mm256_castps_si256(is_nan));
    return _mm256_srli_epi32(rounded, 16);
}
static inline void store_bf16(uint16_t *p, F16 x) {
    __m256i packed = _mm256_packus_epi32(bf16_bits(x.a), bf16_bits(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
static inline I16 zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline I16 set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline I16 sub_int(I16 x, I16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
static inline I16 add_int(I16 x, I16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
static inline F16 to_float(I16 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline I16 round_int(F16 x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
static inline void store_int8(int8_t *p, I16 x) {
    int32_t lanes[16];
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(lanes), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(lanes + 8), x.b);
    for (int i = 0; i < 16; i++) p[i] = static_cast<int8_t>(lanes[i]);
}
static inline F16 bytes_to_float(const uint8_t *p) {
    __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(raw)),
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(raw, 8)))};
}
static inline F16 int8_to_float(const int8_t *p) {
    __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(raw)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(raw, 8)))};
}
static inline __m256 exp2_half(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline F16 exp2_int(F16 n) { return {exp2_half(n.a), exp2_half(n.b)}; }
static inline F16 round16(F16 x) {
    return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline F16 zero_below(F16 x, F16 limit, F16 value) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ), value.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ), value.b)};
}
static inline bool has_nan(F16 x) {
    __m256 found = _mm256_or_ps(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
    return _mm256_movemask_ps(found) != 0;
}
static inline float reduce(F16 x) { return reduce8(_mm256_add_ps(x.a, x.b)); }
static inline float reduce_max(F16 x) { return reduce_max8(_mm256_max_ps(x.a, x.b)); }
static inline int32_t reduce_int(I16 x) { return reduce_int8(_mm256_add_epi32(x.a, x.b)); }

static inline B64 load_bytes(const uint8_t *p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 32))};
}
static inline B64 low_nibbles(B64 w) {
    __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)};
}
static inline B64 high_nibbles(B64 w) {
    __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(_mm256_srli_epi16(w.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(w.b, 4), mask)};
}
// Sums of two products fit 16 bits as long as w is below 128.
static inline __m256i dot_small(__m256i w, __m256i a) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1));
}
static inline __m256i four_columns(const int8_t *a) {
    int32_t four;
    __builtin_memcpy(&four, a, 4);
    return _mm256_set1_epi32(four);
}
static inline I16 dot_nibbles(I16 acc, B64 w, const int8_t *a) {
    __m256i x = four_columns(a);
    return {_mm256_add_epi32(acc.a, dot_small(w.a, x)), _mm256_add_epi32(acc.b, dot_small(w.b, x))};
}
static inline __m256i dot_byte_half(__m256i acc, __m256i w, __m256i a) {
    __m256i low = dot_small(_mm256_and_si256(w, _mm256_set1_epi8(127)), a);
    __m256i top = dot_small(_mm256_and_si256(_mm256_srli_epi16(w, 7), _mm256_set1_epi8(1)), a);
    return _mm256_add_epi32(acc, _mm256_add_epi32(low, _mm256_slli_epi32(top, 7)));
}
static inline I16 dot_bytes(I16 acc, B64 w, const int8_t *a) {
    __m256i x = four_columns(a);
    return {dot_byte_half(acc.a, w.a, x), dot_byte_half(acc.b, w.b, x)};
}

static inline void transpose16(F16 *rows) {
    float lanes[16][16];
    for (int i = 0; i < 16; i++) store16(lanes[i], rows[i]);
    for (int i = 0; i < 16; i++) {
        float column[16];
        for (int j = 0; j < 16; j++) column[j] = lanes[j][i];
        rows[i] = load16(column);
    }
}

// Sixteen 32-bit words at the bottom of 64 bits each; what is above them does not count. Lane order: see store_quads.
struct Q16 {
    __m256i v[4];
};
static inline Q16 set1_quad(uint32_t x) {
    __m256i y = _mm256_set1_epi64x(x);
    return {{y, y, y, y}};
}
static inline Q16 quads_from(uint32_t first) {
    __m256i order = _mm256_setr_epi64x(0, 2, 1, 3);
    Q16 r;
    for (int i = 0; i < 4; i++) r.v[i] = _mm256_add_epi64(_mm256_set1_epi64x(int64_t{first} + 4 * i), order);
    return r;
}
static inline Q16 mul_quad(Q16 x, uint32_t factor) {  // all 64 bits of the product
    __m256i y = _mm256_set1_epi64x(factor);
    for (int i = 0; i < 4; i++) x.v[i] = _mm256_mul_epu32(x.v[i], y);
    return x;
}
static inline Q16 xor_high(Q16 x, Q16 y, uint32_t key) {  // high word of x, low word of y, key
    __m256i k = _mm256_set1_epi64x(key);
    for (int i = 0; i < 4; i++)
        x.v[i] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(x.v[i], 32), y.v[i]), k);
    return x;
}
static inline __m256i pair_words(__m256i low, __m256i high) {
    return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xaa);
}
// The words of a counter one behind the other, the counters in the order of quads_from.
static inline void store_quads(uint32_t *p, Q16 c0, Q16 c1, Q16 c2, Q16 c3) {
    for (int i = 0; i < 4; i++, p += 16) {
        __m256i first = pair_words(c0.v[i], c1.v[i]), second = pair_words(c2.v[i], c3.v[i]);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_unpacklo_epi64(first, second));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(p + 8), _mm256_unpackhi_epi64(first, second));
    }
}
static inline I16 load_shifted(const uint32_t *p) {
    return {_mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), 8),
            _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p + 8)), 8)};
}
static inline F16 bits_to_float(F16 x) {
    return {_mm256_cvtepi32_ps(_mm256_castps_si256(x.a)), _mm256_cvtepi32_ps(_mm256_castps_si256(x.b))};
}
static inline uint64_t not_below(F16 x, F16 limit) {
    int first = _mm256_movemask_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GE_OQ));
    int second = _mm256_movemask_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_GE_OQ));
    return static_cast<uint64_t>(first | second << 8);
}
static inline F16 choose_below(F16 x, F16 limit, F16 below, F16 other) {
    return {_mm256_blendv_ps(other.a, below.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(other.b, below.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
// sum + value where x < limit, else sum + 0
static inline F16 add_below(F16 sum, F16 x, F16 limit, F16 value) {
    return {_mm256_add_ps(sum.a, _mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ), value.a)),
            _mm256_add_ps(sum.b, _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ), value.b))};
}
