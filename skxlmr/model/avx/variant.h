/* The kernels for one instruction set, named by NAME and compiled for TARGET. Included by kernels.c. */

#define INLINE TARGET static inline __attribute__((always_inline))
#define V NAME(Vector)

/* Vectors of 16 numbers. */

#ifdef AVX512

typedef __m512 V;

INLINE V NAME(load)(const float *p) { return _mm512_loadu_ps(p); }
INLINE void NAME(store)(float *p, V x) { _mm512_storeu_ps(p, x); }
INLINE V NAME(set)(float x) { return _mm512_set1_ps(x); }
INLINE V NAME(add)(V x, V y) { return _mm512_add_ps(x, y); }
INLINE V NAME(sub)(V x, V y) { return _mm512_sub_ps(x, y); }
INLINE V NAME(mul)(V x, V y) { return _mm512_mul_ps(x, y); }
INLINE V NAME(fma)(V x, V y, V z) { return _mm512_fmadd_ps(x, y, z); }
INLINE V NAME(from_ints)(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
INLINE V NAME(div)(V x, V y) { return _mm512_div_ps(x, y); }
INLINE V NAME(round)(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* The larger magnitude; as integers, in which NaN is larger than all numbers. */
INLINE V NAME(larger)(V x, V y) {
    __m512i mask = _mm512_set1_epi32(0x7fffffff);
    __m512i a = _mm512_and_si512(_mm512_castps_si512(x), mask), b = _mm512_and_si512(_mm512_castps_si512(y), mask);
    return _mm512_castsi512_ps(_mm512_max_epi32(a, b));
}

/* The larger number; y where x is NaN. */
INLINE V NAME(max)(V x, V y) { return _mm512_max_ps(x, y); }
INLINE V NAME(min)(V x, V y) { return _mm512_min_ps(x, y); }

INLINE V NAME(load_bfloat16)(const uint16_t *p) {
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

INLINE void NAME(store_bfloat16)(uint16_t *p, V x) {
    __m512i bits = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}

INLINE void NAME(store_int8)(int8_t *p, V x) {
    _mm_storeu_si128((__m128i *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}

/* y where |x| < limit, else x or 0 times x, which is NaN for infinite x. */
INLINE V NAME(inside)(V x, V y, float limit) {
    __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
    __mmask16 in = _mm512_cmp_ps_mask(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(limit), _CMP_NGE_UQ);
    __m512 step = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ), _mm512_set1_ps(1));
    return _mm512_mask_mov_ps(_mm512_mul_ps(x, step), in, y);
}

/* The first n lanes, and 0. */
INLINE V NAME(first)(V x, int64_t n) {
    return _mm512_maskz_mov_ps((__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1), x);
}

/* x * 2^n for whole n from -126 to 127. */
INLINE V NAME(times_power)(V x, V n) {
    return _mm512_scalef_ps(x, n);
}

/* Exchange rows and columns of a matrix of 16 x 16 numbers of 32 bits. */
INLINE void NAME(transpose)(__m512i r[16]) {
    __m512i s[16];
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        int j = i % 4 + (i / 4) * 4;
        r[j] = _mm512_shuffle_i32x4(s[j], s[j + 8], 0x88);
        r[j + 8] = _mm512_shuffle_i32x4(s[j], s[j + 8], 0xdd);
    }
}

INLINE void NAME(store_transposed)(const V rows[16], float *to, int64_t stride) {
    __m512i r[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_castps_si512(rows[i]);
    NAME(transpose)(r);
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(to + i * stride, r[i]);
}

#else

typedef struct { __m256 a, b; } V;


INLINE V NAME(load)(const float *p) { return (V){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void NAME(store)(float *p, V x) { _mm256_storeu_ps(p, x.a); _mm256_storeu_ps(p + 8, x.b); }
INLINE V NAME(set)(float x) { return (V){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE V NAME(add)(V x, V y) { return (V){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE V NAME(sub)(V x, V y) { return (V){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
INLINE V NAME(mul)(V x, V y) { return (V){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE V NAME(fma)(V x, V y, V z) { return (V){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE V NAME(div)(V x, V y) { return (V){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
INLINE V NAME(max)(V x, V y) { return (V){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INLINE V NAME(min)(V x, V y) { return (V){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
INLINE V NAME(from_ints)(const int32_t *p) {
    return (V){_mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)p)),
               _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(p + 8)))};
}
INLINE V NAME(round)(V x) {
    return (V){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
               _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
INLINE __m256 NAME(larger_half)(__m256 x, __m256 y) {
    __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i a = _mm256_and_si256(_mm256_castps_si256(x), mask), b = _mm256_and_si256(_mm256_castps_si256(y), mask);
    return _mm256_castsi256_ps(_mm256_max_epi32(a, b));
}
INLINE V NAME(larger)(V x, V y) { return (V){NAME(larger_half)(x.a, y.a), NAME(larger_half)(x.b, y.b)}; }
INLINE __m256 NAME(load_bfloat16_half)(const uint16_t *p) {
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}
INLINE V NAME(load_bfloat16)(const uint16_t *p) {
    return (V){NAME(load_bfloat16_half)(p), NAME(load_bfloat16_half)(p + 8)};
}
INLINE __m256i NAME(bfloat16_half)(__m256 x) {
    __m256i bits = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
    return _mm256_srli_epi32(rounded, 16);
}
INLINE void NAME(store_bfloat16)(uint16_t *p, V x) {
    __m256i packed = _mm256_packus_epi32(NAME(bfloat16_half)(x.a), NAME(bfloat16_half)(x.b));
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(packed, 0xd8));
}
INLINE void NAME(store_int8)(int8_t *p, V x) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
INLINE __m256 NAME(inside_half)(__m256 x, __m256 y, float limit) {
    __m256 magnitude = _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
    __m256 in = _mm256_cmp_ps(magnitude, _mm256_set1_ps(limit), _CMP_NGE_UQ);
    __m256 step = _mm256_and_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ), _mm256_set1_ps(1));
    return _mm256_blendv_ps(_mm256_mul_ps(x, step), y, in);
}
INLINE V NAME(inside)(V x, V y, float limit) {
    return (V){NAME(inside_half)(x.a, y.a, limit), NAME(inside_half)(x.b, y.b, limit)};
}
INLINE __m256 NAME(first_half)(__m256 x, int64_t n) {
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), end = _mm256_set1_epi32((int)(n > 16 ? 16 : n));
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(end, lanes)));
}
INLINE V NAME(first)(V x, int64_t n) { return (V){NAME(first_half)(x.a, n), NAME(first_half)(x.b, n - 8)}; }
INLINE __m256 NAME(times_power_half)(__m256 x, __m256 n) {
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
}
INLINE V NAME(times_power)(V x, V n) { return (V){NAME(times_power_half)(x.a, n.a), NAME(times_power_half)(x.b, n.b)}; }


INLINE void NAME(store_transposed)(const V rows[16], float *to, int64_t stride) {
    float row[16];
    for (int i = 0; i < 16; i++) {
        NAME(store)(row, rows[i]);
        for (int j = 0; j < 16; j++) to[j * stride + i] = row[j];
    }
}

#endif

/* The sum of 16 lanes, always in the same order. */
INLINE float NAME(sum)(V x) {
#ifdef AVX512
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#else
    __m256 y = _mm256_add_ps(x.a, x.b);
#endif
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}

/* The largest of 16 lanes. */
INLINE float NAME(most)(V x) {
#ifdef AVX512
    __m256 y = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#else
    __m256 y = _mm256_max_ps(x.a, x.b);
#endif
    __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}

/* The same as integers, in which NaN is larger than all numbers; lanes are not negative. */
INLINE float NAME(largest)(V x) {
#ifdef AVX512
    __m512i bits = _mm512_castps_si512(x);
    __m256i y = _mm256_max_epi32(_mm512_castsi512_si256(bits), _mm512_extracti32x8_epi32(bits, 1));
#else
    __m256i y = _mm256_max_epi32(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b));
#endif
    __m128i z = _mm_max_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    z = _mm_max_epi32(z, _mm_shuffle_epi32(z, 0x4e));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(z, _mm_shuffle_epi32(z, 0xb1))));
}

/* Up to 16 numbers from or to memory in another dtype; lanes from n on are 0, or are not written. */
INLINE V NAME(load_some)(const void *from, int64_t i, int64_t n, int64_t dtype) {
    if (n >= 16) return dtype == BFLOAT16 ? NAME(load_bfloat16)((const uint16_t *)from + i) : NAME(load)((const float *)from + i);
    float x[16] = {0};
    for (int64_t j = 0; j < n; j++) x[j] = load_one(from, i + j, dtype);
    return NAME(load)(x);
}

INLINE void NAME(store_some)(void *to, int64_t i, int64_t n, int64_t dtype, V x) {
    if (dtype == BFLOAT16) {
        uint16_t rounded[16];
        if (n >= 16) {
            NAME(store_bfloat16)((uint16_t *)to + i, x);
            return;
        }
        NAME(store_bfloat16)(rounded, x);
        memcpy((uint16_t *)to + i, rounded, n * 2);
    } else if (n >= 16) {
        NAME(store)((float *)to + i, x);
    } else {
        float whole[16];
        NAME(store)(whole, x);
        memcpy((float *)to + i, whole, n * 4);
    }
}

INLINE V NAME(gelu)(V x) {
    V u = NAME(fma)(NAME(mul)(x, x), NAME(set)(2 / (GELU_LIMIT * GELU_LIMIT)), NAME(set)(-1));
    V q = NAME(set)(GELU[0]);
    for (unsigned i = 1; i < sizeof(GELU) / sizeof(*GELU); i++) q = NAME(fma)(q, u, NAME(set)(GELU[i]));
    return NAME(inside)(x, NAME(mul)(x, NAME(fma)(x, q, NAME(set)(0.5f))), GELU_LIMIT);
}

/* With the coefficients from `first` on. */
INLINE V NAME(exp_from)(const unsigned first, V x) {
    x = NAME(max)(NAME(set)(-87), x); /* NaN stays NaN */
    V n = NAME(round)(NAME(mul)(x, NAME(set)(1.44269504f)));
    V r = NAME(fma)(n, NAME(set)(-0.693145752f), x); /* log(2) in two parts */
    r = NAME(fma)(n, NAME(set)(-1.42860677e-6f), r);
    V y = NAME(set)(EXP[first]);
    for (unsigned i = first + 1; i < sizeof(EXP) / sizeof(*EXP); i++) y = NAME(fma)(y, r, NAME(set)(EXP[i]));
    return NAME(times_power)(y, n);
}

INLINE V NAME(exp)(V x) { return NAME(exp_from)(0, x); }

INLINE V NAME(exact_gelu)(V x) {
    V zero = NAME(set)(0), a = NAME(max)(x, NAME(sub)(zero, x)); /* |x|, or NaN */
    V t = NAME(div)(NAME(set)(1), NAME(fma)(a, NAME(set)(NORMAL_SLOPE), NAME(set)(1))), p = NAME(set)(NORMAL[0]);
    for (unsigned i = 1; i < sizeof(NORMAL) / sizeof(*NORMAL); i++) p = NAME(fma)(p, t, NAME(set)(NORMAL[i]));
    V e = NAME(exp)(NAME(mul)(NAME(mul)(a, a), NAME(set)(-0.5f)));
    V y = NAME(fma)(NAME(mul)(NAME(sub)(zero, a), e), NAME(mul)(p, t), NAME(max)(x, zero)); /* max(x, 0) - |x| * tail */
    return NAME(inside)(x, y, NORMAL_LIMIT);
}

/* Rows: LayerNorm, and rounding to 8 bits. */

/* Normalise a row in place; it is followed by zeros up to a multiple of 16. */
INLINE void NAME(normalise)(const Rows *rows, int64_t t, float *row) {
    int64_t width = rows->width;
    V total = NAME(set)(0), squares = NAME(set)(0);
    for (int64_t i = 0; i < width; i += 16) total = NAME(add)(total, NAME(load)(row + i));
    float mean = NAME(sum)(total) / (float)width;
    V means = NAME(set)(mean);
    for (int64_t i = 0; i < width; i += 16) {
        V d = NAME(sub)(NAME(load)(row + i), means);
        if (width - i < 16) d = NAME(first)(d, width - i);
        NAME(store)(row + i, d);
        squares = NAME(fma)(d, d, squares);
    }
    V factor = NAME(set)(1 / sqrtf(NAME(sum)(squares) / (float)width + (float)rows->eps));
    for (int64_t i = 0; i < width; i += 16) {
        int64_t n = width - i;
        V w = NAME(load_some)(rows->norm_weight, i, n, rows->norm_dtype), b = NAME(set)(0);
        if (rows->norm_bias != NULL) b = NAME(load_some)(rows->norm_bias, i, n, rows->norm_dtype);
        V y = NAME(fma)(NAME(mul)(NAME(load)(row + i), factor), w, b);
        NAME(store)(row + i, y);
        if (rows->normalised != NULL) NAME(store_some)(rows->normalised, t * width + i, n, rows->dtype, y);
    }
}

/* Half of the range of a row, and its middle; both are NaN if a number is not finite. */
INLINE float NAME(half_range)(const float *row, int64_t width, float *middle) {
    V most = NAME(set)(-INFINITY), least = NAME(set)(INFINITY), zero = NAME(set)(0), not_finite = zero;
    int64_t whole = width / 16 * 16;
    for (int64_t i = 0; i < width; i += i < whole ? 16 : 1) {
        V x = i < whole ? NAME(load)(row + i) : NAME(set)(row[i]);
        most = NAME(max)(x, most);
        least = NAME(min)(x, least);
        not_finite = NAME(fma)(x, zero, not_finite);
    }
    float above = NAME(most)(most), below = -NAME(most)(NAME(sub)(zero, least)), spoil = NAME(sum)(not_finite);
    *middle = (below + above) / 2 + spoil;
    return (above - below) / 2 + spoil;
}

/* Round a row to 8 bits, its outliers to 16; it is followed by zeros up to a multiple of 16, and is changed. */
INLINE void NAME(quantise)(const Rows *rows, int64_t t, float *row, float *outliers) {
    int64_t width = rows->width, stride = round_up(width, 4), n_high = round_up(rows->n_columns, 4);
    V regular = NAME(set)(0), of_outliers = NAME(set)(0);
    for (int64_t j = 0; j < n_high; j++) outliers[j] = 0;
    for (int64_t j = 0; j < rows->n_columns; j++) {
        outliers[j] = row[rows->columns[j]];
        row[rows->columns[j]] = 0;
    }
    float middle = 0;
    if (rows->middles != NULL) {
        regular = NAME(set)(NAME(half_range)(row, width, &middle));
        rows->middles[t] = middle;
    } else {
        for (int64_t i = 0; i < width; i += 16) regular = NAME(larger)(regular, NAME(load)(row + i));
    }
    for (int64_t j = 0; j < rows->n_columns; j++) {
        outliers[j] -= middle;
        of_outliers = NAME(larger)(of_outliers, NAME(set)(outliers[j]));
    }
    V scaled = NAME(mul)(of_outliers, NAME(set)((float)(127. / (127 * HIGH + 127))));
    float most = NAME(largest)(NAME(larger)(regular, scaled));
    most = most < 1e-30f ? 1e-30f : most; /* a row may be zero */
    float steps = 127 / most;
    rows->scales[t] = most / 127;
    int8_t *values = rows->values + t * stride;
    for (int64_t i = 0; i < width; i += 16) {
        V x = NAME(mul)(NAME(sub)(NAME(load)(row + i), NAME(set)(middle)), NAME(set)(steps));
        if (stride - i >= 16) {
            NAME(store_int8)(values + i, x);
        } else {
            int8_t rest[16];
            NAME(store_int8)(rest, x);
            memcpy(values + i, rest, stride - i);
        }
    }
    memset(values + width, 0, stride - width);
    for (int64_t j = 0; j < n_high; j++) {
        float whole = nearbyintf(outliers[j] * steps), high = floorf((whole + HIGH / 2) / HIGH);
        int finite = whole == whole && whole * 0 == 0; /* what is not shows in the scale */
        rows->high[t * n_high + j] = finite ? (int8_t)high : 0;
        if (j < rows->n_columns) values[rows->columns[j]] = finite ? (int8_t)(whole - HIGH * high) : 0;
    }
}

typedef struct {
    const Rows *rows;
    int64_t step;
} NAME(RowTasks);

TARGET static void NAME(rows_task)(const void *arguments, int64_t task, void *scratch) {
    const NAME(RowTasks) *tasks = arguments;
    const Rows *rows = tasks->rows;
    int64_t width = rows->width, padded = round_up(width, 16);
    float *row = scratch;
    for (int64_t t = task * tasks->step; t < smaller((task + 1) * tasks->step, rows->n_rows); t++) {
        for (int64_t i = 0; i < width; i += 16)
            NAME(store)(row + i, NAME(load_some)(rows->x, t * width + i, width - i, rows->dtype));
        if (rows->norm_weight != NULL) NAME(normalise)(rows, t, row);
        if (rows->values != NULL) NAME(quantise)(rows, t, row, row + padded);
    }
}

EXPORT int NAME(skxlmr_rows)(const Rows *rows, int64_t n_threads) {
    int64_t step = (rows->n_rows + 4 * n_threads - 1) / (4 * n_threads);
    int64_t least = 8192 / rows->width + 1; /* waking a thread takes longer than so little work */
    NAME(RowTasks) all = {rows, step > least ? step : least};
    int64_t scratch = 4 * (round_up(rows->width, 16) + round_up(rows->n_columns, 16));
    Tasks tasks = {NAME(rows_task), &all, (rows->n_rows + all.step - 1) / all.step, scratch, 0, 0};
    return run_tasks(&tasks, n_threads);
}

/* Products: weights of PANEL columns are packed in the order in which they are multiplied, then TILE rows at a time. */

#ifdef AVX512

/* Bytes of a packed panel. Weights are stored with 128 added, because the instruction takes one unsigned factor. */
static int64_t NAME(panel_size)(int64_t width, int64_t n_columns) {
    return PANEL * (round_up(width, 4) + round_up(n_columns, 4));
}

static int64_t NAME(tile_size)(int64_t width, int64_t n_columns) { return 0 * (width + n_columns); }

/* Pack rows n to n + PANEL of a weight (N, K): 4 numbers of each of 64 rows after each other; missing ones are 0. */
INLINE void NAME(pack)(const int8_t *weight, int64_t n_rows, int64_t width, uint8_t *panel) {
    __m512i sign = _mm512_set1_epi8((char)128);
    for (int64_t n = 0; n < PANEL; n += 16) {
        for (int64_t k = 0; k < width; k += 64) {
            __m512i r[16];
            for (int i = 0; i < 16; i++) /* the next 16 rows, which follow these in memory */
                __builtin_prefetch(weight + (n + 16) * width + 16 * k + 64 * i);
            __mmask64 some = width - k >= 64 ? ~0ULL : (1ULL << (width - k)) - 1;
            for (int i = 0; i < 16; i++)
                r[i] = n + i < n_rows ? _mm512_maskz_loadu_epi8(some, weight + (n + i) * width + k) : _mm512_setzero_si512();
            NAME(transpose)(r);
            int64_t groups = smaller(16, (width - k + 3) / 4);
            for (int64_t g = 0; g < groups; g++)
                _mm512_store_si512(panel + (k / 4 + g) * (4 * PANEL) + 4 * n, _mm512_xor_si512(r[g], sign));
        }
    }
}

/* Pack columns n to n + PANEL of the outlier weights (k, N). */
INLINE void NAME(pack_outliers)(const Weight *weight, int64_t n0, int64_t n_outputs, int64_t n_columns, uint8_t *panel) {
    for (int64_t j = 0; j < round_up(n_columns, 4); j++)
        for (int64_t n = 0; n < PANEL; n++) {
            int exists = j < n_columns && n0 + n < n_outputs;
            panel[j / 4 * (4 * PANEL) + 4 * n + j % 4] =
                (uint8_t)((exists ? weight->outlier_weight[j * n_outputs + n0 + n] : 0) ^ 0x80);
        }
}

INLINE int32_t NAME(four)(const int8_t *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

INLINE int32_t NAME(total)(const int8_t *p, int64_t n) { /* n is a multiple of 4 */
    __m512i sums = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
    for (int64_t i = 0; i < n; i += 64) {
        __mmask64 some = n - i >= 64 ? ~0ULL : (1ULL << (n - i)) - 1;
        sums = _mm512_dpbusd_epi32(sums, ones, _mm512_maskz_loadu_epi8(some, p + i));
    }
    return _mm512_reduce_add_epi32(sums);
}

/* The sum of a row and HIGH times its high bytes. */
INLINE int32_t NAME(total_of_row)(const int8_t *values, const int8_t *high, int64_t width, int64_t n_high) {
    uint32_t total = (uint32_t)NAME(total)(values, width);
    return (int32_t)(n_high ? total + (uint32_t)HIGH * (uint32_t)NAME(total)(high, n_high) : total);
}

/* Multiply R rows, whose sums are `totals`, with a packed panel, (R, K) -> (R, PANEL). */
INLINE void NAME(multiply)(const int R, const int8_t *values, const int8_t *high, int64_t width, int64_t n_high,
                           const uint8_t *panel, const int32_t *totals, int16_t *unused, int32_t *sums) {
    __m512i acc[TILE][4];
    (void)unused;
    UNROLL
    for (int r = 0; r < R; r++)
        UNROLL
        for (int c = 0; c < 4; c++) acc[r][c] = _mm512_setzero_si512();
    const uint8_t *of_outliers = panel + width * PANEL;
    if (n_high) {
        for (int64_t j = 0; j < n_high; j += 4)
            UNROLL
            for (int r = 0; r < R; r++) {
                __m512i a = _mm512_set1_epi32(NAME(four)(high + r * n_high + j));
                UNROLL
                for (int c = 0; c < 4; c++)
                    acc[r][c] = _mm512_dpbusd_epi32(acc[r][c], _mm512_load_si512(of_outliers + j * PANEL + 64 * c), a);
            }
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int c = 0; c < 4; c++) acc[r][c] = _mm512_slli_epi32(acc[r][c], 8);
    }
    for (int64_t k = 0; k < width; k += 4) {
        __m512i b[4];
        UNROLL
        for (int c = 0; c < 4; c++) b[c] = _mm512_load_si512(panel + k * PANEL + 64 * c);
        UNROLL
        for (int r = 0; r < R; r++) {
            __m512i a = _mm512_set1_epi32(NAME(four)(values + r * width + k));
            UNROLL
            for (int c = 0; c < 4; c++) acc[r][c] = _mm512_dpbusd_epi32(acc[r][c], b[c], a);
        }
    }
    UNROLL
    for (int r = 0; r < R; r++) { /* what the added 128 have added */
        __m512i more = _mm512_set1_epi32((int32_t)(128 * (uint32_t)totals[r]));
        UNROLL
        for (int c = 0; c < 4; c++) _mm512_store_si512(sums + r * PANEL + 16 * c, _mm512_sub_epi32(acc[r][c], more));
    }
}

#else

static int64_t NAME(panel_size)(int64_t width, int64_t n_columns) {
    return 2 * PANEL * (round_up(width, 4) + round_up(n_columns, 4));
}

static int64_t NAME(tile_size)(int64_t width, int64_t n_columns) {
    return 2 * TILE * (round_up(width, 4) + round_up(n_columns, 4)) + 64;
}

/* Pack rows n to n + PANEL of a weight (N, K) in 16 bits: for each 16 rows, 2 numbers of each after each other. */
INLINE void NAME(pack)(const int8_t *weight, int64_t n_rows, int64_t width, uint8_t *packed) {
    int16_t *panel = (int16_t *)packed;
    int64_t stride = round_up(width, 4);
    for (int64_t n = 0; n < PANEL; n++)
        for (int64_t k = 0; k < stride; k++)
            panel[(n / 16) * 16 * stride + k / 2 * 32 + n % 16 * 2 + k % 2] =
                n < n_rows && k < width ? weight[n * width + k] : 0;
}

INLINE void NAME(pack_outliers)(const Weight *weight, int64_t n0, int64_t n_outputs, int64_t n_columns, uint8_t *packed) {
    int16_t *panel = (int16_t *)packed;
    int64_t stride = round_up(n_columns, 4);
    for (int64_t n = 0; n < PANEL; n++)
        for (int64_t k = 0; k < stride; k++)
            panel[(n / 16) * 16 * stride + k / 2 * 32 + n % 16 * 2 + k % 2] =
                k < n_columns && n0 + n < n_outputs ? weight->outlier_weight[k * n_outputs + n0 + n] : 0;
}

INLINE int32_t NAME(total_of_row)(const int8_t *values, const int8_t *high, int64_t width, int64_t n_high) {
    (void)values, (void)high, (void)width, (void)n_high; /* these products are signed */
    return 0;
}

INLINE int32_t NAME(two)(const int16_t *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return x;
}

/* Multiply R rows (R, K), in 16 bits, with 16 columns of a panel. */
INLINE void NAME(multiply_16)(const int R, const int16_t *rows, int64_t width, const int16_t *panel, __m256i acc[TILE][2]) {
    for (int64_t k = 0; k < width; k += 2) {
        __m256i b = _mm256_loadu_si256((const __m256i *)(panel + k * 16));
        __m256i c = _mm256_loadu_si256((const __m256i *)(panel + k * 16 + 16));
        UNROLL
        for (int r = 0; r < R; r++) {
            __m256i a = _mm256_set1_epi32(NAME(two)(rows + r * width + k));
            acc[r][0] = _mm256_add_epi32(acc[r][0], _mm256_madd_epi16(a, b));
            acc[r][1] = _mm256_add_epi32(acc[r][1], _mm256_madd_epi16(a, c));
        }
    }
}

INLINE void NAME(multiply)(const int R, const int8_t *values, const int8_t *high, int64_t width, int64_t n_high,
                           const uint8_t *packed, const int32_t *unused, int16_t *rows, int32_t *sums) {
    const int16_t *panel = (const int16_t *)packed;
    (void)unused;
    int16_t *of_outliers = rows + TILE * width;
    for (int64_t i = 0; i < R * width; i++) rows[i] = values[i];
    for (int64_t i = 0; i < R * n_high; i++) of_outliers[i] = high[i];
    UNROLL
    for (int c = 0; c < PANEL / 16; c++) {
        __m256i acc[TILE][2];
        UNROLL
        for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm256_setzero_si256();
        if (n_high) {
            NAME(multiply_16)(R, of_outliers, n_high, panel + PANEL * width + c * 16 * n_high, acc);
            UNROLL
            for (int r = 0; r < R; r++)
                UNROLL
                for (int i = 0; i < 2; i++) acc[r][i] = _mm256_slli_epi32(acc[r][i], 8);
        }
        NAME(multiply_16)(R, rows, width, panel + c * 16 * width, acc);
        UNROLL
        for (int r = 0; r < R; r++)
            UNROLL
            for (int i = 0; i < 2; i++)
                _mm256_storeu_si256((__m256i *)(sums + r * PANEL + 16 * c + 8 * i), acc[r][i]);
    }
}

#endif

/* What `finish` needs of the columns of a panel. */
typedef struct {
    float scales[PANEL], bias[PANEL], of_middles[PANEL]; /* `of_middles` is what a middle of 1 adds to the product */
} NAME(Columns);

INLINE void NAME(columns_of)(const Weight *w, int64_t n0, int64_t n_columns, NAME(Columns) *columns) {
    for (int64_t i = 0; i < PANEL; i += 16) {
        V scales = NAME(set)(0), bias = NAME(set)(0);
        int32_t sums[16] = {0};
        if (i < n_columns) {
            scales = NAME(div)(NAME(load_some)(w->absmax, n0 + i, n_columns - i, FLOAT32), NAME(set)(127));
            if (w->bias != NULL) bias = NAME(load_some)(w->bias, n0 + i, n_columns - i, w->bias_dtype);
            if (w->weight_sums != NULL) memcpy(sums, w->weight_sums + n0 + i, 4 * smaller(16, n_columns - i));
        }
        NAME(store)(columns->scales + i, scales);
        NAME(store)(columns->bias + i, bias);
        NAME(store)(columns->of_middles + i, NAME(mul)(NAME(from_ints)(sums), scales));
    }
}

/* Scale the sums of some rows and columns, and add bias, the product of the middles, unless `middles` is NULL, and
 * residual. Both `y` and `residual` start at the first of these rows and columns. */
INLINE void NAME(finish)(const int gelu, const int64_t dtype, const NAME(Columns) *columns, const float *row_scales,
                         const float *middles, const int32_t *sums, int64_t n_rows, int64_t n_columns, const void *residual,
                         int64_t residual_stride, void *y, int64_t y_stride) {
    for (int64_t r = 0; r < n_rows; r++) {
        V row_scale = NAME(set)(row_scales[r]);
        for (int64_t i = 0; i < n_columns; i += 16) {
            V x = NAME(mul)(NAME(from_ints)(sums + r * PANEL + i), NAME(load)(columns->scales + i));
            x = NAME(fma)(x, row_scale, NAME(load)(columns->bias + i));
            if (middles != NULL) x = NAME(fma)(NAME(set)(middles[r]), NAME(load)(columns->of_middles + i), x);
            if (gelu) x = NAME(gelu)(x);
            if (residual != NULL)
                x = NAME(add)(x, NAME(load_some)(residual, r * residual_stride + i, n_columns - i, dtype));
            NAME(store_some)(y, r * y_stride + i, n_columns - i, dtype, x);
        }
    }
}

/* Where row t and column n of a matrix are. */
INLINE void *NAME(at)(const void *matrix, int64_t t, int64_t stride, int64_t n, int64_t dtype) {
    return (char *)matrix + (t * stride + n) * size_of(dtype);
}

/* Multiply some rows with PANEL columns of one weight. Row `start` is written to the first row of `y`. */
TARGET static __attribute__((noinline)) void NAME(panel_of_rows)(const Product *p, const Weight *w, int64_t start, int64_t end,
                                                                 int64_t n0, void *y, int64_t y_stride, int64_t dtype,
                                                                 void *scratch) {
    int64_t width = round_up(p->width, 4), n_high = round_up(p->n_columns, 4);
    int64_t n_outputs = p->n_outputs, n_columns = smaller(PANEL, n_outputs - n0);
    int32_t *sums = scratch, of_tile[TILE];
    int16_t *rows = (int16_t *)(sums + TILE * PANEL);
    const uint8_t *panel;
    NAME(Columns) columns;
    NAME(columns_of)(w, n0, n_columns, &columns);
    if (w->packed != NULL) {
        panel = (const uint8_t *)w->packed + n0 / PANEL * NAME(panel_size)(p->width, p->n_columns);
    } else {
        uint8_t *to = (uint8_t *)rows + round_up(NAME(tile_size)(p->width, p->n_columns), 64);
        NAME(pack)((const int8_t *)w->weight + n0 * p->width, n_outputs - n0, p->width, to);
        NAME(pack_outliers)(w, n0, n_outputs, p->n_columns, to + NAME(panel_size)(p->width, 0));
        panel = to;
    }
    for (int64_t t = start; t < end; t += TILE) {
        const int8_t *values = p->values + t * width, *high = p->high + t * n_high;
        const char *residual = p->residual == NULL ? NULL : NAME(at)(p->residual, t, n_outputs, n0, dtype);
        void *to = NAME(at)(y, t - start, y_stride, n0, dtype);
        int64_t n = smaller(TILE, end - t);
        const int32_t *totals = p->totals == NULL ? of_tile : p->totals + t;
        if (p->totals == NULL)
            for (int64_t r = 0; r < n; r++)
                of_tile[r] = NAME(total_of_row)(values + r * width, high + r * n_high, width, n_high);
        if (residual != NULL) /* the rows are far from each other, where no prefetcher expects them */
            for (int64_t r = 0; r < n; r++) {
                __builtin_prefetch(NAME(at)(residual, r, n_outputs, 0, dtype));
                __builtin_prefetch(NAME(at)(residual, r, n_outputs, PANEL / 2, dtype));
            }
        switch (n) {
            case 6: NAME(multiply)(6, values, high, width, n_high, panel, totals, rows, sums); break;
            case 5: NAME(multiply)(5, values, high, width, n_high, panel, totals, rows, sums); break;
            case 4: NAME(multiply)(4, values, high, width, n_high, panel, totals, rows, sums); break;
            case 3: NAME(multiply)(3, values, high, width, n_high, panel, totals, rows, sums); break;
            case 2: NAME(multiply)(2, values, high, width, n_high, panel, totals, rows, sums); break;
            default: NAME(multiply)(1, values, high, width, n_high, panel, totals, rows, sums);
        }
        const float *scales = p->scales + t, *middles = p->middles == NULL ? NULL : p->middles + t;
        if (dtype == BFLOAT16 && residual != NULL && !p->gelu) /* without branches for what is frequent */
            NAME(finish)(0, BFLOAT16, &columns, scales, middles, sums, n, n_columns, residual, n_outputs, to, y_stride);
        else if (dtype == BFLOAT16 && residual == NULL && !p->gelu)
            NAME(finish)(0, BFLOAT16, &columns, scales, middles, sums, n, n_columns, NULL, 0, to, y_stride);
        else if (dtype == FLOAT32 && residual == NULL && p->gelu)
            NAME(finish)(1, FLOAT32, &columns, scales, middles, sums, n, n_columns, NULL, 0, to, y_stride);
        else
            NAME(finish)((int)p->gelu, dtype, &columns, scales, middles, sums, n, n_columns, residual, n_outputs, to, y_stride);
    }
}

/* Bytes that `panel_of_rows` needs if the weight is packed. */
static int64_t NAME(tile_scratch)(int64_t width, int64_t n_columns) {
    return 4 * TILE * PANEL + round_up(NAME(tile_size)(width, n_columns), 64);
}

static int64_t NAME(product_scratch)(const Product *p) {
    return NAME(tile_scratch)(p->width, p->n_columns) + NAME(panel_size)(p->width, p->n_columns);
}

/* Bytes of a packed weight (N, K) with outlier columns (k, N). */
EXPORT int64_t NAME(skxlmr_packed_size)(int64_t n_outputs, int64_t width, int64_t n_columns) {
    return (n_outputs + PANEL - 1) / PANEL * NAME(panel_size)(width, n_columns);
}

/* Pack a weight and its outlier columns; `to` is aligned to 64. */
TARGET EXPORT void NAME(skxlmr_pack)(const Weight *w, int64_t n_outputs, int64_t width, int64_t n_columns, void *to) {
    uint8_t *panel = to;
    for (int64_t n = 0; n < n_outputs; n += PANEL, panel += NAME(panel_size)(width, n_columns)) {
        NAME(pack)((const int8_t *)w->weight + n * width, n_outputs - n, width, panel);
        NAME(pack_outliers)(w, n, n_outputs, n_columns, panel + NAME(panel_size)(width, 0));
    }
}

typedef struct {
    const Product *product;
    const Rows *rows; /* what `skxlmr_chain` quantises */
    int64_t step, n_parts;
} NAME(ProductTasks);

TARGET static void NAME(product_task)(const void *arguments, int64_t task, void *scratch) {
    const NAME(ProductTasks) *tasks = arguments;
    const Product *p = tasks->product;
    int64_t panels = (p->n_outputs + PANEL - 1) / PANEL, part = task % tasks->n_parts, number = task / tasks->n_parts;
    const Weight *w = &p->weights[number / panels];
    int64_t start = part * tasks->step, end = smaller(start + tasks->step, p->n_rows);
    void *y = NAME(at)(w->y, start, p->n_outputs, 0, p->dtype);
    NAME(panel_of_rows)(p, w, start, end, number % panels * PANEL, y, p->n_outputs, p->dtype, scratch);
}

/* Products of all rows with up to three weights. */
EXPORT int NAME(skxlmr_products)(const Product *p, int64_t n_threads) {
    int64_t panels = p->n_weights * ((p->n_outputs + PANEL - 1) / PANEL);
    if (p->n_rows == 0) return 0;
    int64_t n_parts = panels >= 4 * n_threads ? 1 : (4 * n_threads + panels - 1) / panels;
    int64_t step = round_up((p->n_rows + n_parts - 1) / n_parts, TILE);
    if (step < MOST_ROWS) step = MOST_ROWS;
    NAME(ProductTasks) all = {p, NULL, step, (p->n_rows + step - 1) / step};
    Tasks tasks = {NAME(product_task), &all, panels * all.n_parts, NAME(product_scratch)(p), 0, 0};
    return run_tasks(&tasks, n_threads);
}

TARGET static void NAME(chain_task)(const void *arguments, int64_t task, void *scratch) {
    const NAME(ProductTasks) *tasks = arguments;
    const Product *p = tasks->product;
    int64_t start = task * tasks->step, end = smaller(start + tasks->step, p->n_rows);
    int64_t width = p->n_outputs, padded = round_up(width, 16);
    float *inner = (float *)((char *)scratch + round_up(NAME(product_scratch)(p), 64)), *outliers = inner + tasks->step * padded;
    for (int64_t n0 = 0; n0 < width; n0 += PANEL)
        NAME(panel_of_rows)(p, &p->weights[0], start, end, n0, inner, padded, FLOAT32, scratch);
    for (int64_t t = start; t < end; t++) {
        float *row = inner + (t - start) * padded;
        for (int64_t i = width; i < padded; i++) row[i] = 0;
        NAME(quantise)(tasks->rows, t, row, outliers);
    }
}

/* Products of all rows with one weight, and their rounding to 8 bits, which alone is stored. */
EXPORT int NAME(skxlmr_chain)(const Product *p, const Rows *rows, int64_t n_threads) {
    if (p->n_rows == 0) return 0;
    NAME(ProductTasks) all = {p, rows, rows_per_task(p->n_rows, n_threads), 1};
    int64_t n_floats = round_up(rows->n_columns, 16) + all.step * round_up(p->n_outputs, 16);
    int64_t scratch = round_up(NAME(product_scratch)(p), 64) + 4 * n_floats;
    Tasks tasks = {NAME(chain_task), &all, (p->n_rows + all.step - 1) / all.step, scratch, 0, 0};
    return run_tasks(&tasks, n_threads);
}

#ifdef AVX512

/* Numbers of 64 bytes of `dtype`; the products of two numbers of each lane are added. */
INLINE V NAME(multiply_add)(const int64_t dtype, __m512i a, __m512i b, V sum) {
#ifdef BF16
    if (dtype == BFLOAT16) return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#endif
    (void)dtype;
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

#endif

/* Attention: one head of one text at a time, in float32, or in bfloat16 where there are instructions for it. */

enum { NAME(QUERIES) = 4 };

/* Multiply R rows `a` (R, n) with a matrix (n, stride), of which C * 16 columns are wanted. */
INLINE void NAME(multiply_floats)(const int R, const int C, const float *a, int64_t a_stride, int64_t n, const float *b,
                                  int64_t stride, float *y, int64_t y_stride) {
    V acc[4][4];
    UNROLL
    for (int r = 0; r < R; r++)
        UNROLL
        for (int c = 0; c < C; c++) acc[r][c] = NAME(set)(0);
    for (int64_t i = 0; i < n; i++) {
        V columns[4];
        UNROLL
        for (int c = 0; c < C; c++) columns[c] = NAME(load)(b + i * stride + 16 * c);
        UNROLL
        for (int r = 0; r < R; r++) {
            V x = NAME(set)(a[r * a_stride + i]);
            UNROLL
            for (int c = 0; c < C; c++) acc[r][c] = NAME(fma)(x, columns[c], acc[r][c]);
        }
    }
    UNROLL
    for (int r = 0; r < R; r++)
        UNROLL
        for (int c = 0; c < C; c++) NAME(store)(y + r * y_stride + 16 * c, acc[r][c]);
}

/* Multiply QUERIES rows (QUERIES, n) with a matrix (n, width); width is a multiple of 16. */
INLINE void NAME(multiply_queries)(const float *a, int64_t a_stride, int64_t n, const float *b, int64_t width, float *y) {
    int64_t c = 0;
#ifdef AVX512
    for (; c + 64 <= width; c += 64) NAME(multiply_floats)(4, 4, a, a_stride, n, b + c, width, y + c, width);
    for (; c + 32 <= width; c += 32) NAME(multiply_floats)(4, 2, a, a_stride, n, b + c, width, y + c, width);
#endif
    for (; c < width; c += 16) NAME(multiply_floats)(4, 1, a, a_stride, n, b + c, width, y + c, width);
}

/* Softmax of scores times scale in place, of the first n of `width`; the others become 0. Returns the factor that
 * makes their sum 1. `first` is that of `exp_from`. */
INLINE float NAME(softmax)(const unsigned first, float *scores, int64_t n, int64_t width, float scale) {
    for (int64_t i = n; i < width; i++) scores[i] = -INFINITY;
    V most = NAME(set)(-INFINITY), total = NAME(set)(0);
    for (int64_t i = 0; i < n; i += 16) most = NAME(max)(most, NAME(load)(scores + i));
    V highest = NAME(set)(NAME(most)(most)), factor = NAME(set)(scale);
    for (int64_t i = 0; i < width; i += 16) {
        /* First the difference: of the highest score it is 0, whatever its size. */
        V x = NAME(exp_from)(first, NAME(mul)(NAME(sub)(NAME(load)(scores + i), highest), factor));
        if (i + 16 > n) x = NAME(first)(x, n - i); /* exp of the lowest number is not 0 */
        NAME(store)(scores + i, x);
        total = NAME(add)(total, x);
    }
    return 1 / NAME(sum)(total);
}

typedef struct {
    const Attention *attention;
    int64_t step;
} NAME(AttentionTasks);

INLINE void NAME(attend)(const Attention *a, int64_t text, int64_t head, float *scratch) {
    int64_t first = a->bounds[text], n = a->bounds[text + 1] - first, keys = round_up(n, 16);
    int64_t size = a->head_size, padded = round_up(size, 16), offset = head * size;
    float *k = scratch, *v = k + padded * keys, *q = v + n * padded;
    float *scores = q + NAME(QUERIES) * padded, *y = scores + NAME(QUERIES) * keys;
    for (int64_t j = 0; j < keys; j += 16) /* the keys as columns */
        for (int64_t d = 0; d < padded; d += 16) {
            V x[16];
            UNROLL
            for (int i = 0; i < 16; i++)
                x[i] = j + i < n ? NAME(load_some)(a->k, (first + j + i) * a->k_stride + offset + d, size - d, a->dtype)
                                 : NAME(set)(0);
            NAME(store_transposed)(x, k + d * keys + j, keys);
        }
    for (int64_t j = 0; j < n; j++)
        for (int64_t d = 0; d < padded; d += 16)
            NAME(store)(v + j * padded + d,
                        NAME(load_some)(a->v, (first + j) * a->v_stride + offset + d, size - d, a->dtype));
    for (int64_t i = 0; i < n; i += NAME(QUERIES)) {
        int64_t n_queries = smaller(NAME(QUERIES), n - i), seen = a->causal ? i + n_queries : n;
        float factors[NAME(QUERIES)] = {0};
        for (int64_t r = 0; r < NAME(QUERIES); r++)
            for (int64_t d = 0; d < padded; d += 16) {
                V x = NAME(set)(0);
                if (r < n_queries)
                    x = NAME(load_some)(a->q, (first + i + r) * a->q_stride + offset + d, size - d, a->dtype);
                NAME(store)(q + r * padded + d, x);
            }
        NAME(multiply_queries)(q, padded, size, k, keys, scores);
        for (int64_t r = 0; r < n_queries; r++)
            factors[r] = NAME(softmax)(0, scores + r * keys, a->causal ? i + r + 1 : n, keys, (float)a->scale);
        NAME(multiply_queries)(scores, keys, seen, v, padded, y);
        for (int64_t r = 0; r < n_queries; r++)
            for (int64_t d = 0; d < size; d += 16)
                NAME(store_some)(a->y, ((first + i + r) * a->n_heads + head) * size + d, size - d, a->dtype,
                                 NAME(mul)(NAME(load)(y + r * padded + d), NAME(set)(factors[r])));
    }
}

#ifdef BF16

/* Multiply TILE rows of pairs `a` (TILE, n) with a matrix of pairs (n, stride), of which C * 16 columns are wanted. */
INLINE void NAME(multiply_some_pairs)(const int C, const uint32_t *a, int64_t a_stride, int64_t n, const uint32_t *b,
                                      int64_t stride, float *y) {
    V acc[TILE][4];
    UNROLL
    for (int r = 0; r < TILE; r++)
        UNROLL
        for (int c = 0; c < C; c++) acc[r][c] = NAME(set)(0);
    for (int64_t i = 0; i < n; i++) {
        __m512i columns[4];
        UNROLL
        for (int c = 0; c < C; c++) columns[c] = _mm512_loadu_si512(b + i * stride + 16 * c);
        UNROLL
        for (int r = 0; r < TILE; r++) {
            __m512i x = _mm512_set1_epi32((int32_t)a[r * a_stride + i]);
            UNROLL
            for (int c = 0; c < C; c++) acc[r][c] = NAME(multiply_add)(BFLOAT16, x, columns[c], acc[r][c]);
        }
    }
    UNROLL
    for (int r = 0; r < TILE; r++)
        UNROLL
        for (int c = 0; c < C; c++) NAME(store)(y + r * stride + 16 * c, acc[r][c]);
}

/* Multiply TILE rows of pairs (TILE, n) with a matrix of pairs (n, width), (TILE, width); width is a multiple of 16. */
INLINE void NAME(multiply_pairs)(const uint32_t *a, int64_t a_stride, int64_t n, const uint32_t *b, int64_t width, float *y) {
    int64_t c = 0;
    for (; c + 64 <= width; c += 64) NAME(multiply_some_pairs)(4, a, a_stride, n, b + c, width, y + c);
    for (; c + 32 <= width; c += 32) NAME(multiply_some_pairs)(2, a, a_stride, n, b + c, width, y + c);
    for (; c < width; c += 16) NAME(multiply_some_pairs)(1, a, a_stride, n, b + c, width, y + c);
}

/* 32 numbers of row t, or 0 where there are none, from number `from` of one head on. */
INLINE __m512i NAME(load_32)(const void *x, int64_t t, int64_t stride, int64_t offset, int64_t from, int64_t size) {
    __mmask32 some = size - from >= 32 ? ~0U : (1U << (size - from)) - 1;
    return _mm512_maskz_loadu_epi16(some, (const uint16_t *)x + t * stride + offset + from);
}

/* 16 numbers of row t in the lower halves of 32 bits. */
INLINE __m512i NAME(load_halves)(const void *x, int64_t t, int64_t stride, int64_t offset, int64_t from, int64_t size) {
    __mmask16 some = size - from >= 16 ? 0xffff : (1U << (size - from)) - 1;
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, (const uint16_t *)x + t * stride + offset + from));
}

/* Round a row to bfloat16, into its first half. Returns the factor that makes the sum of what is rounded 1. */
INLINE float NAME(round_row)(float *row, int64_t width) {
    V total = NAME(set)(0);
    for (int64_t j = 0; j < width; j += 16) {
        __m256i x = (__m256i)_mm512_cvtneps_pbh(NAME(load)(row + j));
        _mm256_storeu_si256((__m256i *)(row + j / 2), x);
        total = NAME(add)(total, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)));
    }
    return 1 / NAME(sum)(total);
}

/* The same as `attend`: pairs of bfloat16 are multiplied, of neighbours in a head, and of two keys. Softmax is computed in
 * float32, and rounded. */
INLINE void NAME(attend_pairs)(const Attention *a, int64_t text, int64_t head, void *scratch) {
    int64_t first = a->bounds[text], n = a->bounds[text + 1] - first, keys = round_up(n, 16);
    int64_t size = a->head_size, padded = round_up(size, 16), offset = head * size, pairs = round_up(size, 32) / 2;
    uint32_t *k = scratch, *v = k + pairs * keys, *q = v + keys / 2 * padded;
    float *scores = (float *)(q + TILE * pairs), *y = scores + TILE * keys;
    for (int64_t j = 0; j < keys; j += 16) /* the keys as columns */
        for (int64_t d = 0; d < size; d += 32) {
            __m512i x[16];
            UNROLL
            for (int i = 0; i < 16; i++)
                x[i] = j + i < n ? NAME(load_32)(a->k, first + j + i, a->k_stride, offset, d, size) : _mm512_setzero_si512();
            NAME(transpose)(x);
            UNROLL
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(k + (d / 2 + i) * keys + j, x[i]);
        }
    for (int64_t j = 0; j < keys; j += 2)
        for (int64_t d = 0; d < padded; d += 16) {
            __m512i low = _mm512_setzero_si512(), high = low;
            if (j < n) low = NAME(load_halves)(a->v, first + j, a->v_stride, offset, d, size);
            if (j + 1 < n) high = NAME(load_halves)(a->v, first + j + 1, a->v_stride, offset, d, size);
            _mm512_storeu_si512(v + j / 2 * padded + d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    for (int64_t i = 0; i < n; i += TILE) {
        int64_t n_queries = smaller(TILE, n - i), seen = a->causal ? i + n_queries : n;
        float factors[TILE] = {0};
        for (int64_t r = 0; r < TILE; r++)
            for (int64_t d = 0; d < size; d += 32) {
                __m512i x = _mm512_setzero_si512();
                if (r < n_queries) x = NAME(load_32)(a->q, first + i + r, a->q_stride, offset, d, size);
                _mm512_storeu_si512(q + r * pairs + d / 2, x);
            }
        NAME(multiply_pairs)(q, pairs, pairs, k, keys, scores);
        for (int64_t r = 0; r < n_queries; r++) {
            float *row = scores + r * keys;
            NAME(softmax)(SHORT_EXP, row, a->causal ? i + r + 1 : n, keys, (float)a->scale);
            factors[r] = NAME(round_row)(row, keys);
        }
        NAME(multiply_pairs)((const uint32_t *)scores, keys, (seen + 1) / 2, v, padded, y);
        for (int64_t r = 0; r < n_queries; r++)
            for (int64_t d = 0; d < size; d += 16)
                NAME(store_some)(a->y, ((first + i + r) * a->n_heads + head) * size + d, size - d, BFLOAT16,
                                 NAME(mul)(NAME(load)(y + r * padded + d), NAME(set)(factors[r])));
    }
}

#endif

/* Bytes that a thread needs for texts of up to `longest` tokens. */
static int64_t NAME(attention_scratch)(int64_t longest, int64_t head_size) {
    int64_t keys = round_up(longest, 16), padded = round_up(head_size, 16);
    return 4 * (2 * padded * keys + TILE * (2 * padded + keys));
}

/* Fetch one head of one text: its rows are far from each other, where no prefetcher expects them. */
INLINE void NAME(prefetch)(const Attention *a, int64_t text, int64_t head) {
    int64_t size = a->dtype == BFLOAT16 ? 2 : 4, width = a->head_size * size;
    for (int64_t t = a->bounds[text]; t < a->bounds[text + 1]; t++)
        for (int64_t i = 0; i < width; i += 64) {
            __builtin_prefetch((const char *)a->k + t * a->k_stride * size + head * width + i);
            __builtin_prefetch((const char *)a->v + t * a->v_stride * size + head * width + i);
            __builtin_prefetch((const char *)a->q + t * a->q_stride * size + head * width + i);
        }
}

TARGET static void NAME(attention_task)(const void *arguments, int64_t task, void *scratch) {
    const NAME(AttentionTasks) *tasks = arguments;
    const Attention *a = tasks->attention;
    int64_t end = smaller((task + 1) * tasks->step, a->n_texts * a->n_heads);
    for (int64_t i = task * tasks->step; i < end; i++) {
        if (i + 1 < end) NAME(prefetch)(a, (i + 1) / a->n_heads, (i + 1) % a->n_heads);
#ifdef BF16
        if (a->dtype == BFLOAT16) {
            NAME(attend_pairs)(a, i / a->n_heads, i % a->n_heads, scratch);
            continue;
        }
#endif
        NAME(attend)(a, i / a->n_heads, i % a->n_heads, scratch);
    }
}

/* The rows after the last text become 0. */
static void NAME(clear_rest)(const Attention *a) {
    int64_t end = a->bounds[a->n_texts], row = a->n_heads * a->head_size * (a->dtype == BFLOAT16 ? 2 : 4);
    memset((char *)a->y + end * row, 0, (a->n_rows - end) * row);
}

EXPORT int NAME(skxlmr_attention)(const Attention *a, int64_t n_threads) {
    int64_t n = a->n_texts * a->n_heads, scratch = NAME(attention_scratch)(a->longest, a->head_size);
    NAME(clear_rest)(a);
    NAME(AttentionTasks) all = {a, n / (32 * n_threads) + 1};
    Tasks tasks = {NAME(attention_task), &all, (n + all.step - 1) / all.step, scratch, 0, 0};
    return run_tasks(&tasks, n_threads);
}

/* Products in floating point: weights are read where they are, GROUP of their rows at a time. */

#ifdef AVX512

/* The sums of each four lanes of four vectors, in each 128 bits those of the same four lanes. */
INLINE V NAME(sums_of_four)(const V x[GROUP]) {
    __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
}

/* The sums of the four parts of 128 bits of each vector, one after the other. */
INLINE V NAME(sums_of_parts)(V a, V b, V c, V d) {
    __m512 e = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 f = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(e, f, 0x88), _mm512_shuffle_f32x4(e, f, 0xdd));
}

/* Add the products of 64 bytes, or of the first of them, of R rows and of GROUP rows of a weight. */
INLINE void NAME(multiply_64)(const int R, const int64_t dtype, const char *a, int64_t stride, const char *const w[GROUP],
                              int64_t k, __mmask64 some, const int whole, V acc[TILE][GROUP]) {
    __m512i b[GROUP];
    UNROLL
    for (int c = 0; c < GROUP; c++) b[c] = whole ? _mm512_loadu_si512(w[c] + k) : _mm512_maskz_loadu_epi8(some, w[c] + k);
    UNROLL
    for (int r = 0; r < R; r++) {
        const char *row = a + r * stride + k;
        __m512i x = whole ? _mm512_loadu_si512(row) : _mm512_maskz_loadu_epi8(some, row);
        UNROLL
        for (int c = 0; c < GROUP; c++) acc[r][c] = NAME(multiply_add)(dtype, x, b[c], acc[r][c]);
    }
}

/* Multiply R rows with GROUP rows of a weight, `size` bytes of each, (R, GROUP); add what is in `sums` unless they are the
 * first. */
INLINE void NAME(multiply_group)(const int R, const int64_t dtype, const char *a, int64_t stride, const char *const w[GROUP],
                                 int64_t size, int first, float *sums) {
    V acc[TILE][GROUP], four[8];
    UNROLL
    for (int r = 0; r < R; r++)
        UNROLL
        for (int c = 0; c < GROUP; c++) acc[r][c] = NAME(set)(0);
    int64_t k = 0;
    for (; k + 64 <= size; k += 64) NAME(multiply_64)(R, dtype, a, stride, w, k, 0, 1, acc);
    if (k < size) NAME(multiply_64)(R, dtype, a, stride, w, k, (1ULL << (size - k)) - 1, 0, acc);
    UNROLL
    for (int r = 0; r < 8; r++) four[r] = r < R ? NAME(sums_of_four)(acc[r]) : NAME(set)(0);
    V above = NAME(sums_of_parts)(four[0], four[1], four[2], four[3]);
    V below = R > 4 ? NAME(sums_of_parts)(four[4], four[5], four[6], four[7]) : NAME(set)(0);
    UNROLL
    for (int r = 0; r < R; r++) {
        __m128 y = r < 4 ? _mm512_extractf32x4_ps(above, r % 4) : _mm512_extractf32x4_ps(below, r % 4);
        if (!first) y = _mm_add_ps(_mm_loadu_ps(sums + r * PANEL), y);
        _mm_storeu_ps(sums + r * PANEL, y);
    }
}

/* A product in floating point, all of `dtype`. */
typedef struct {
    const void *x, *residual; /* (T, K), and (T, N) or NULL */
    int64_t n_rows, width, n_outputs, dtype, gelu;
} NAME(FloatProduct);

/* Multiply up to MOST_ROWS rows `x` with PANEL columns of a weight, (rows, PANEL). The rows of the weight that are needed
 * next are fetched meanwhile. */
INLINE void NAME(float_sums)(const int64_t dtype, const char *x, int64_t n_rows, const char *weight, int64_t width,
                             int64_t n_columns, float *sums) {
    int64_t stride = width * size_of(dtype), n_tiles = (n_rows + TILE - 1) / TILE;
    for (int64_t k = 0; k < stride; k += CHUNK) {
        int64_t size = smaller(CHUNK, stride - k), lines = (size + 63) / 64, each = (GROUP * lines + n_tiles - 1) / n_tiles;
        for (int64_t n = 0; n < n_columns; n += GROUP) {
            const char *w[GROUP], *next = weight + (n + GROUP) * stride + k;
            for (int c = 0; c < GROUP; c++) w[c] = weight + smaller(n + c, n_columns - 1) * stride + k;
            for (int64_t t = 0, line = 0; t < n_rows; t += TILE) {
                for (int64_t end = smaller(line + each, GROUP * lines); line < end; line++)
                    __builtin_prefetch(next + line / lines * stride + line % lines * 64);
                const char *a = x + t * stride + k;
                float *to = sums + t * PANEL + n;
                switch (smaller(TILE, n_rows - t)) {
                    case 6: NAME(multiply_group)(6, dtype, a, stride, w, size, k == 0, to); break;
                    case 5: NAME(multiply_group)(5, dtype, a, stride, w, size, k == 0, to); break;
                    case 4: NAME(multiply_group)(4, dtype, a, stride, w, size, k == 0, to); break;
                    case 3: NAME(multiply_group)(3, dtype, a, stride, w, size, k == 0, to); break;
                    case 2: NAME(multiply_group)(2, dtype, a, stride, w, size, k == 0, to); break;
                    default: NAME(multiply_group)(1, dtype, a, stride, w, size, k == 0, to);
                }
            }
        }
    }
}

/* Add bias and residual, (rows, PANEL) -> (rows, n_columns); `residual` and `y` start at the first of these columns. */
INLINE void NAME(finish_floats)(const int gelu, const int64_t dtype, const float *bias, const float *sums, int64_t n_rows,
                                int64_t n_columns, const void *residual, void *y, int64_t stride) {
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t i = 0; i < n_columns; i += 16) {
            V x = NAME(add)(NAME(load)(sums + r * PANEL + i), NAME(load)(bias + i));
            if (gelu) x = dtype == FLOAT32 ? NAME(exact_gelu)(x) : NAME(gelu)(x);
            if (residual != NULL) x = NAME(add)(x, NAME(load_some)(residual, r * stride + i, n_columns - i, dtype));
            NAME(store_some)(y, r * stride + i, n_columns - i, dtype, x);
        }
}

/* Multiply all rows with PANEL columns of a weight, `y` is (T, N). */
INLINE void NAME(float_panel)(const int64_t dtype, const NAME(FloatProduct) *p, const Weight *w, int64_t n0, void *y,
                              float *sums) {
    int64_t n_columns = smaller(PANEL, p->n_outputs - n0);
    const char *weight = NAME(at)(w->weight, n0, p->width, 0, dtype);
    float bias[PANEL] = {0};
    for (int64_t i = 0; w->bias != NULL && i < n_columns; i += 16)
        NAME(store)(bias + i, NAME(load_some)(w->bias, n0 + i, n_columns - i, w->bias_dtype));
    int64_t step = rows_per_task(p->n_rows, 1);
    for (int64_t t = 0; t < p->n_rows; t += step) {
        int64_t n = smaller(step, p->n_rows - t);
        NAME(float_sums)(dtype, NAME(at)(p->x, t, p->width, 0, dtype), n, weight, p->width, n_columns, sums);
        const void *residual = p->residual == NULL ? NULL : NAME(at)(p->residual, t, p->n_outputs, n0, dtype);
        void *to = NAME(at)(y, t, p->n_outputs, n0, dtype);
        if (p->gelu) NAME(finish_floats)(1, dtype, bias, sums, n, n_columns, NULL, to, p->n_outputs);
        else NAME(finish_floats)(0, dtype, bias, sums, n, n_columns, residual, to, p->n_outputs);
    }
}

TARGET static __attribute__((noinline)) void NAME(panel_of_floats)(const NAME(FloatProduct) *p, const Weight *w, int64_t n0,
                                                                   void *y, float *sums) {
#ifdef BF16
    if (p->dtype == BFLOAT16) {
        NAME(float_panel)(BFLOAT16, p, w, n0, y, sums);
        return;
    }
#endif
    NAME(float_panel)(FLOAT32, p, w, n0, y, sums);
}

#endif

/* Encoder: all steps of its layers, in one region of threads. */

/* Round rows, which may be normalised first, and sum them up. */
TARGET static void NAME(round_rows)(const Rows *rows, int32_t *totals, float *row) {
    int64_t width = rows->width, padded = round_up(width, 16), stride = round_up(width, 4);
    int64_t n_high = round_up(rows->n_columns, 4);
    for (int64_t t = 0; t < rows->n_rows; t++) {
        for (int64_t i = 0; i < width; i += 16)
            NAME(store)(row + i, NAME(load_some)(rows->x, t * width + i, width - i, rows->dtype));
        if (rows->norm_weight != NULL) NAME(normalise)(rows, t, row);
        if (rows->values == NULL) continue;
        NAME(quantise)(rows, t, row, row + padded);
        totals[t] = NAME(total_of_row)(rows->values + t * stride, rows->high + t * n_high, stride, n_high);
    }
}

/* The rows `start` to `end` of a matrix (T, width) that are rounded to the buffers. */
static Rows NAME(rows_to)(const Encoder *e, const Buffers *b, const void *x, int64_t width, const Rounding *how, int64_t start,
                          int64_t end) {
    int64_t i = start - b->first, n_high = round_up(how->n_columns, 4);
    Rows rows = {x, NULL, NULL, how->columns, b->values + i * round_up(width, 4), b->scales + i, b->high + i * n_high,
                 how->with_middles ? b->middles + i : NULL, NULL, end - start, width, how->n_columns, 0, e->dtype, 0};
    return rows;
}

static void NAME(normalise_by)(Rows *rows, const Norm *norm, void *normalised) {
    rows->norm_weight = norm->weight, rows->norm_bias = norm->bias, rows->norm_dtype = norm->dtype, rows->eps = norm->eps;
    rows->normalised = normalised;
}

/* Compute the rows that precede a product, for the tokens `start` to `end`. */
TARGET static void NAME(rows_step)(const Encoding *all, int64_t l, int step, const Buffers *b, int64_t start, int64_t end,
                                   void *scratch) {
    const Encoder *e = all->encoder;
    const Layer *layer = &e->layers[l];
    int64_t width = e->width, i = start - b->first, dtype = e->dtype;
    void *y = NAME(at)(e->y, start, width, 0, dtype);
    Rows rows;
    void *normalised = e->quantised ? NULL : NAME(at)(b->normalised, i, width, 0, dtype);
    if (!has_rows(e, step)) return;
    if (step == INPUT) {
        const void *x = l == 0 ? NAME(at)(e->x, start, width, 0, dtype) : y;
        rows = NAME(rows_to)(e, b, x, width, &layer->of_qkv, start, end);
        if (e->pre_layer_norm) NAME(normalise_by)(&rows, &layer->attention_norm, normalised);
    } else if (step == ATTENDED) {
        int64_t attended = layer->n_heads * e->head_size;
        rows = NAME(rows_to)(e, b, NAME(at)(all->attended, start, attended, 0, dtype), attended, &layer->of_output, start, end);
    } else if (step == MIDDLE) {
        rows = NAME(rows_to)(e, b, NAME(at)(b->middle, i, width, 0, dtype), width, &layer->of_up, start, end);
        const Norm *norm = e->pre_layer_norm ? &layer->ffn_norm : &layer->attention_norm;
        NAME(normalise_by)(&rows, norm, e->pre_layer_norm ? normalised : NAME(at)(b->normalised, i, width, 0, dtype));
    } else { /* LAST */
        rows = NAME(rows_to)(e, b, NAME(at)(b->last, i, width, 0, dtype), width, &layer->of_qkv, start, end);
        NAME(normalise_by)(&rows, &layer->ffn_norm, y);
        rows.values = NULL;
    }
    if (!e->quantised) rows.values = NULL;
    NAME(round_rows)(&rows, b->totals + i, scratch);
}

/* Round the results of gelu. */
TARGET static void NAME(inner_step)(const Encoding *all, int64_t l, const Buffers *b, int64_t start, int64_t end, void *scratch) {
    int64_t width = all->encoder->inner_width, padded = round_up(width, 16), stride = round_up(width, 4), i = start - b->first;
    if (!has_rows(all->encoder, INNER)) return;
    Rows rows = NAME(rows_to)(all->encoder, b, NULL, width, &all->encoder->layers[l].of_down, start, end);
    int64_t n_high = round_up(rows.n_columns, 4);
    for (int64_t t = 0; t < end - start; t++) {
        float *row = (float *)b->inner + (i + t) * padded;
        for (int64_t j = width; j < padded; j++) row[j] = 0;
        NAME(quantise)(&rows, t, row, scratch);
        b->totals[i + t] = NAME(total_of_row)(rows.values + t * stride, rows.high + t * n_high, stride, n_high);
    }
}

static const Weight *NAME(weights_of)(const Layer *layer, int step) {
    return step == QKV ? layer->qkv : step == OUTPUT ? &layer->output : step == UP ? &layer->up : &layer->down;
}

#ifdef AVX512

/* The same as `product_step` in floating point. */
TARGET static void NAME(float_step)(const Encoding *all, int64_t l, int step, const Buffers *b, int64_t start, int64_t end,
                                    int64_t from, int64_t to, void *scratch) {
    const Encoder *e = all->encoder;
    int64_t width = e->width, attended = e->layers[l].n_heads * e->head_size, i = start - b->first, dtype = e->dtype;
    int64_t n_panels = panels_of(e, l, step) / (step == QKV ? 3 : 1);
    const Weight *weights = NAME(weights_of)(&e->layers[l], step);
    const void *given = NAME(at)(l == 0 ? e->x : e->y, start, width, 0, dtype);
    const void *normalised = NAME(at)(b->normalised, i, width, 0, dtype), *middle = NAME(at)(b->middle, i, width, 0, dtype);
    void *inner = NAME(at)(b->inner, i, e->inner_width, 0, dtype), *y = NULL;
    NAME(FloatProduct) p = {.n_rows = end - start, .width = width, .n_outputs = width, .dtype = dtype};
    if (step == QKV) {
        p.x = e->pre_layer_norm ? normalised : given, p.n_outputs = attended;
    } else if (step == OUTPUT) {
        p.x = NAME(at)(all->attended, start, attended, 0, dtype), p.width = attended, p.residual = given;
        y = NAME(at)(b->middle, i, width, 0, dtype);
    } else if (step == UP) {
        p.x = normalised, p.n_outputs = e->inner_width, p.gelu = 1;
        y = inner;
    } else {
        p.x = inner, p.width = e->inner_width, p.residual = e->pre_layer_norm ? middle : normalised;
        y = e->pre_layer_norm ? NAME(at)(e->y, start, width, 0, dtype) : NAME(at)(b->last, i, width, 0, dtype);
    }
    for (int64_t n = from; n < to; n++) {
        int64_t which = n / n_panels;
        if (step == QKV) y = NAME(at)(all->qkv, which * e->n_rows + start, attended, 0, dtype);
        NAME(panel_of_floats)(&p, &weights[which], n % n_panels * PANEL, y, scratch);
    }
}

#endif

/* Multiply the tokens `start` to `end` with the panels `from` to `to` of the weights of a step. */
TARGET static void NAME(product_step)(const Encoding *all, int64_t l, int step, const Buffers *b, int64_t start, int64_t end,
                                      int64_t from, int64_t to, void *scratch) {
    const Encoder *e = all->encoder;
#ifdef AVX512
    if (!e->quantised) {
        NAME(float_step)(all, l, step, b, start, end, from, to, scratch);
        return;
    }
#endif
    const Layer *layer = &e->layers[l];
    int64_t width = e->width, attended = layer->n_heads * e->head_size, inner = e->inner_width, i = start - b->first;
    int64_t n_panels = panels_of(e, l, step) / (step == QKV ? 3 : 1), dtype = e->dtype;
    const Weight *weights = NAME(weights_of)(layer, step);
    const Rounding *how = step == QKV ? &layer->of_qkv : step == OUTPUT ? &layer->of_output : step == UP ? &layer->of_up : &layer->of_down;
    Product p = {b->values, b->scales + i, b->high, how->with_middles ? b->middles + i : NULL, b->totals + i, NULL};
    p.n_rows = end - start, p.n_columns = how->n_columns, p.dtype = dtype;
    p.width = step == OUTPUT ? attended : step == DOWN ? inner : width;
    p.n_outputs = step == QKV ? attended : step == UP ? inner : width;
    p.values += i * round_up(p.width, 4), p.high += i * round_up(p.n_columns, 4);
    void *y = NULL;
    int64_t stride = p.n_outputs;
    if (step == OUTPUT) {
        p.residual = NAME(at)(l == 0 ? e->x : e->y, start, width, 0, dtype);
        y = NAME(at)(b->middle, i, width, 0, dtype);
    } else if (step == UP) {
        p.gelu = 1, p.dtype = dtype = FLOAT32, stride = round_up(inner, 16);
        y = (float *)b->inner + i * stride;
    } else if (step == DOWN) {
        p.residual = NAME(at)(e->pre_layer_norm ? b->middle : b->normalised, i, width, 0, dtype);
        y = e->pre_layer_norm ? NAME(at)(e->y, start, width, 0, dtype) : NAME(at)(b->last, i, width, 0, dtype);
    }
    for (int64_t n = from; n < to; n++) {
        int64_t which = n / n_panels;
        if (step == QKV) y = NAME(at)(all->qkv, which * e->n_rows + start, attended, 0, dtype);
        NAME(panel_of_rows)(&p, &weights[which], 0, end - start, n % n_panels * PANEL, y, stride, dtype, scratch);
    }
}

TARGET static void NAME(attention_step)(const Encoding *all, int64_t l, int64_t task, void *scratch) {
    const Encoder *e = all->encoder;
    int64_t n_heads = e->layers[l].n_heads, width = n_heads * e->head_size;
    Attention a = {.y = all->attended, .bounds = e->bounds, .q_stride = width, .k_stride = width, .v_stride = width};
    a.q = all->qkv;
    a.k = NAME(at)(all->qkv, e->n_rows, width, 0, e->dtype), a.v = NAME(at)(all->qkv, 2 * e->n_rows, width, 0, e->dtype);
    a.n_rows = e->n_rows, a.n_texts = e->n_texts, a.n_heads = n_heads, a.head_size = e->head_size, a.longest = e->longest;
    a.dtype = e->dtype, a.causal = e->causal, a.scale = e->scale;
    if (task == 0) NAME(clear_rest)(&a);
    NAME(AttentionTasks) tasks = {&a, heads_per_task(all, l)};
    NAME(attention_task)(&tasks, task, scratch);
}

/* What follows attention for some tokens, up to the products of query, key and value of the next layer; for l = -1 these
 * alone. */
TARGET static void NAME(block)(const Encoding *all, int64_t l, const Buffers *b, int64_t start, int64_t end, void *scratch) {
    const Encoder *e = all->encoder;
    if (l >= 0) {
        NAME(rows_step)(all, l, ATTENDED, b, start, end, scratch);
        NAME(product_step)(all, l, OUTPUT, b, start, end, 0, panels_of(e, l, OUTPUT), scratch);
        NAME(rows_step)(all, l, MIDDLE, b, start, end, scratch);
        NAME(product_step)(all, l, UP, b, start, end, 0, panels_of(e, l, UP), scratch);
        NAME(inner_step)(all, l, b, start, end, scratch);
        NAME(product_step)(all, l, DOWN, b, start, end, 0, panels_of(e, l, DOWN), scratch);
        NAME(rows_step)(all, l, LAST, b, start, end, scratch);
    }
    if (l + 1 < e->n_layers) {
        NAME(rows_step)(all, l + 1, INPUT, b, start, end, scratch);
        NAME(product_step)(all, l + 1, QKV, b, start, end, 0, panels_of(e, l + 1, QKV), scratch);
    }
}

TARGET static void NAME(encoder_task)(const Encoding *all, int64_t step, int64_t task, const Buffers *of_thread, void *scratch) {
    int64_t n_rows = all->encoder->n_rows, l = layer_of(all, step), start = task * all->block;
    int64_t end = smaller(start + all->block, n_rows);
    int kind = kind_of(all, step);
    Buffers b = all->by_rows ? *of_thread : all->shared;
    if (all->by_rows) b.first = start;
    if (kind == ATTENTION) NAME(attention_step)(all, l, task, scratch);
    else if (kind == BLOCK) NAME(block)(all, l, &b, start, end, scratch);
    else if (kind == INNER) NAME(inner_step)(all, l, &b, start, end, scratch);
    else if (is_product(kind)) NAME(product_step)(all, l, kind, &b, 0, n_rows, task, task + 1, scratch);
    else NAME(rows_step)(all, l, kind, &b, start, end, scratch);
}

/* Bytes that a thread needs beside its buffers. */
static int64_t NAME(thread_scratch)(const Encoder *e) {
    int64_t most = most_columns(e), widest = widest_of(e);
    int64_t rows = 4 * (round_up(widest, 16) + round_up(most, 16));
    int64_t product = e->quantised ? NAME(tile_scratch)(widest, most) : 4 * MOST_ROWS * PANEL;
    return round_up(larger(larger(rows, product), NAME(attention_scratch)(e->longest, e->head_size)), 64);
}

static void NAME(encode_in_thread)(void *data) {
    Encoding *all = data;
    char *own = all->of_threads + __atomic_fetch_add(&all->n_started, 1, __ATOMIC_RELAXED) * all->thread_size;
    char *scratch = own;
    Buffers b = {0};
    if (all->by_rows) b = buffers_at(all->encoder, all->block, own + NAME(thread_scratch)(all->encoder));
    for (int64_t s = 0; s < all->n_steps; s++) {
        Step *step = &all->steps[s];
        int64_t n_tasks = tasks_of(all, s), task;
        while ((task = __atomic_fetch_add(&step->next, 1, __ATOMIC_RELAXED)) < n_tasks) {
            NAME(encoder_task)(all, s, task, &b, scratch);
            __atomic_fetch_add(&step->n_done, 1, __ATOMIC_RELEASE);
        }
        await(&step->n_done, n_tasks);
    }
}

/* Bytes of the scratch of an encoder. */
EXPORT int64_t NAME(skxlmr_encoder_scratch)(const Encoder *e, int64_t n_threads) {
    Encoding all = encoding_of(e, n_threads, NAME(thread_scratch)(e));
    return all.size;
}

/* Run the layers. */
EXPORT int NAME(skxlmr_encoder)(const Encoder *e, int64_t n_threads) {
    if (e->n_rows == 0) return 0;
    Encoding all = encoding_of(e, n_threads, NAME(thread_scratch)(e));
    memset(all.steps, 0, all.n_steps * sizeof(Step));
    if (n_threads <= 1 || parallel == NULL) NAME(encode_in_thread)(&all);
    else parallel(NAME(encode_in_thread), &all, (unsigned)n_threads, 0);
    return 0;
}

#undef INLINE
#undef V
