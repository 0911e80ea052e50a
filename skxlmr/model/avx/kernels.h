/* What the kernels of avx take: see kernels.c. Fields mirror those of the structures in library.py. */

#ifndef SKXLMR_KERNELS_H
#define SKXLMR_KERNELS_H

#include <stdint.h>

/* To be changed together with VERSION in library.py, whenever a structure or a function changes. */
enum { VERSION = 4 };

enum { FLOAT32 = 0, BFLOAT16 = 1 };

/* A matrix (T, K) that is normalised, if `norm_weight` is not NULL, and rounded to 8 bits row by row. */
typedef struct {
    const void *x;           /* (T, K) in `dtype`, contiguous */
    const void *norm_weight; /* (K,) in `norm_dtype`, or NULL */
    const void *norm_bias;   /* (K,) in `norm_dtype`, or NULL */
    const int64_t *columns;  /* (k,), the outlier columns */
    int8_t *values;          /* (T, K'), K' is K rounded up to a multiple of 4 */
    float *scales;           /* (T,), value of one step */
    int8_t *high;            /* (T, k'), high bytes of the outliers; k' is k rounded up to a multiple of 4 */
    float *middles;          /* (T,), middle of each row's range, subtracted before it is rounded; NULL: 0 is */
    void *normalised;        /* (T, K) in `dtype`: the result of the LayerNorm, or NULL */
    int64_t n_rows, width, n_columns;
    double eps;
    int64_t dtype, norm_dtype;
} Rows;

/* A weight (N, K) with what is added to its products, and its scales if it has 8 bits. */
typedef struct {
    const void *weight;           /* (N, K) int8, or NULL if it is `packed`; in floating point in the dtype of the input */
    const void *packed;           /* `weight` and `outlier_weight` as they are multiplied, by `skxlmr_pack`, or NULL */
    const float *absmax;          /* (N,), 127 steps of each row */
    const int8_t *outlier_weight; /* (k, N) */
    const int32_t *weight_sums;   /* (N,), sums of the rows of `weight`; not NULL if the inputs have `middles` */
    const void *bias;             /* (N,) in `bias_dtype`, or NULL */
    void *y;                      /* (T, N) in the dtype of the product */
    int64_t bias_dtype;
} Weight;

/* Products of one quantised matrix with up to three weights of one shape. */
typedef struct {
    const int8_t *values; /* of Rows */
    const float *scales;
    const int8_t *high;
    const float *middles;  /* or NULL */
    const int32_t *totals; /* (T,), sums of `values` and HIGH * `high`; NULL: they are computed for each product */
    const void *residual;  /* (T, N) in `dtype`, added to the product, or NULL */
    int64_t n_rows, width, n_outputs, n_columns;
    int64_t dtype, gelu, n_weights;
    Weight weights[3];
} Product;

/* Attention within each text: queries, keys and values (T, N, D), of which the last dimension is contiguous. */
typedef struct {
    const void *q, *k, *v;
    void *y;               /* (T, N * D), zero after the last text */
    const int32_t *bounds; /* (B + 1,): text b is the rows bounds[b] to bounds[b + 1] */
    int64_t q_stride, k_stride, v_stride; /* from one token to the next */
    int64_t n_rows, n_texts, n_heads, head_size, longest;
    int64_t dtype, causal;
    double scale;
} Attention;

typedef struct {
    const void *weight, *bias; /* (H,) in `dtype`; `bias` may be NULL */
    double eps;
    int64_t dtype;
} Norm;

/* How the input of a product is rounded to 8 bits. */
typedef struct {
    const int64_t *columns; /* (k,), the outlier columns */
    int64_t n_columns;
    int64_t with_middles;
} Rounding;

/* An encoder layer, all of whose weights are `packed`, or in floating point. */
typedef struct {
    Weight qkv[3], output, up, down;
    Rounding of_qkv, of_output, of_up, of_down;
    Norm attention_norm, ffn_norm;
    int64_t n_heads;
} Layer;

/* Layers of an encoder, run on packed texts (T, H). */
typedef struct {
    const Layer *layers;
    const void *x;
    void *y;               /* (T, H), not x */
    void *scratch;         /* of `skxlmr_encoder_scratch` bytes, aligned to 64 */
    const int32_t *bounds; /* (B + 1,): text b is the rows bounds[b] to bounds[b + 1] */
    int64_t n_layers, n_rows, n_texts, longest;
    int64_t width, inner_width, head_size, pre_layer_norm; /* H, I and D */
    int64_t dtype, causal;
    int64_t quantised; /* whether weights have 8 bits; otherwise they have `dtype`, and there are no variants for AVX2 */
    double scale;
} Encoder;

/* Call `body(data)` in `n_threads` threads at once, and return when all have. */
typedef void (*Parallel)(void (*body)(void *), void *data, unsigned n_threads, unsigned flags);

#endif
