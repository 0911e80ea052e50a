/* Steps of an encoder layer, for x86 CPUs with AVX2 or AVX-512: with 8-bit weights, or in floating point.
 *
 * variant.h is included once for each instruction set. All variants compute in lanes of 16 numbers and add them in the
 * same order, so that they agree to the last bit, but for products of bfloat16 by instructions for it; every row is
 * computed by itself, so that a row's result depends neither on the other rows nor on the number of threads.
 *
 * On other CPUs and compilers this file compiles to a library without variants.
 */

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Compilers that know the instructions for bfloat16. */
#if defined(__clang__) ? __clang_major__ >= 9 : __GNUC__ >= 10
#define WITH_BF16
#endif

/* Before loops over registers: without it arrays of them are stored in memory. */
#define UNROLL _Pragma("GCC unroll 16")

#define EXPORT __attribute__((visibility("default")))

enum {
    PANEL = 64,     /* output columns of which the weights are packed at a time */
    TILE = 6,       /* rows that are multiplied at a time */
    GROUP = 4,      /* output columns that are multiplied at a time in floating point */
    CHUNK = 3072,   /* bytes of each row of a weight in floating point that are multiplied at a time */
    HIGH = 256,     /* an outlier is HIGH * high + low */
    MOST_ROWS = 96 /* rows whose intermediate results stay in the cache of a core */
};

static int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static float from_bfloat16(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &word, 4);
    return x;
}

static int64_t size_of(int64_t dtype) { return dtype == BFLOAT16 ? 2 : 4; }

static float load_one(const void *from, int64_t i, int64_t dtype) {
    return dtype == BFLOAT16 ? from_bfloat16(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

/* GOMP_parallel of the OpenMP that torch uses, so that its threads are shared; without it one thread computes all. */
static Parallel parallel = NULL;

EXPORT void skxlmr_set_parallel(Parallel function) { parallel = function; }

/* Tasks that threads take one after the other. */
typedef struct {
    void (*run)(const void *arguments, int64_t task, void *scratch);
    const void *arguments;
    int64_t n_tasks, scratch_size, next;
    int failed;
} Tasks;

static void work(void *data) {
    Tasks *tasks = data;
    void *scratch = NULL;
    for (;;) {
        int64_t task = __atomic_fetch_add(&tasks->next, 1, __ATOMIC_RELAXED);
        if (task >= tasks->n_tasks) break;
        if (scratch == NULL) scratch = aligned_alloc(64, round_up(tasks->scratch_size, 64));
        if (scratch == NULL) {
            __atomic_store_n(&tasks->failed, 1, __ATOMIC_RELAXED);
            break;
        }
        tasks->run(tasks->arguments, task, scratch);
    }
    free(scratch);
}

/* Run all tasks; return 1 if memory ran out. */
static int run_tasks(Tasks *tasks, int64_t n_threads) {
    n_threads = smaller(n_threads, tasks->n_tasks);
    if (n_threads <= 1 || parallel == NULL) work(tasks);
    else parallel(work, tasks, (unsigned)n_threads, 0);
    return tasks->failed;
}

/* Rows that a task takes: at most MOST_ROWS, and as many tasks for each thread. Packing pays for many rows only. */
static int64_t rows_per_task(int64_t n_rows, int64_t n_threads) {
    int64_t n_tasks = round_up((n_rows + MOST_ROWS - 1) / MOST_ROWS, n_threads);
    return round_up((n_rows + n_tasks - 1) / n_tasks, TILE);
}

/* gelu(x) = x * (1/2 + x * Q(u)) with u = x^2 * 2 / LIMIT^2 - 1: a minimax polynomial of half the error function, by
 * iteratively reweighted least squares. Its error is at most 1e-6 (tests/model/avx/test_kernels.py). */
#define GELU_LIMIT 5.5f
static const float GELU[] = {
    -0.0009116356377489865f, 0.0025921647902578115f, -0.0025185048580169678f, 0.0024755930062383413f,
    -0.006292426958680153f,  0.011425040662288666f,  -0.01537338737398386f,   0.020029647275805473f,
    -0.025941869243979454f,  0.03211357444524765f,   -0.03880469501018524f,   0.047735605388879776f,
    -0.06417197734117508f,   0.12855194509029388f,
};

/* Half the complementary error function of x / sqrt(2) is exp(-x^2 / 2) * t * P(t), t = 1 / (1 + NORMAL_SLOPE * x) and
 * x >= 0, with an error of at most 7.5e-8 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26). It takes
 * longer than GELU, which is exact enough for results of 8 or 16 bits. */
#define NORMAL_SLOPE 0.23164189f
#define NORMAL_LIMIT 14.f
static const float NORMAL[] = {0.5307027145f, -0.7265760135f, 0.7107068705f, -0.142248368f, 0.127414796f};

/* exp(x) = 2^n * exp(r), |r| <= log(2) / 2: Taylor's polynomial of exp(r), whose error is below half a unit. */
enum { SHORT_EXP = 2 }; /* the first coefficient for results of 16 bits, whose error is then 3e-6 */
static const float EXP[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};

/* Encoder: its steps are rows that are rounded, products and attention, each of some tasks, which threads take one after
 * the other. A thread goes on to the next step when all tasks of this one are done, so that it does not matter how many
 * threads there are. With few tokens, or large weights in floating point, the tasks of a product are panels of its weight;
 * otherwise, or in one thread, all that follows attention up to the next one is a single task for a block of tokens. */

enum { INPUT, QKV, ATTENTION, ATTENDED, OUTPUT, MIDDLE, UP, INNER, DOWN, LAST, N_KINDS, BLOCK };

enum {
    MOST_BY_PANELS = 48,     /* tokens for each thread up to which the tasks of products are panels */
    MOST_IN_CACHE = 1 << 23, /* bytes of the weights of a layer that the cache of a processor keeps */
    LINE = 128,              /* bytes of two cache lines, which are fetched together */
    SPINS = 2000             /* before a thread that waits lets others run */
};

typedef struct {
    int64_t next, n_done;
    char unused[LINE - 16];
} Step;

/* What is computed between products, for some rows. */
typedef struct {
    int8_t *values, *high;
    float *scales, *middles;
    int32_t *totals;
    void *inner;                      /* (rows, I), in 8 bits (rows, I') float, I' is I rounded up to a multiple of 16 */
    void *middle, *normalised, *last; /* (rows, H), after attention, a LayerNorm, and the feed-forward network */
    int64_t first;                    /* number of the first row */
} Buffers;

typedef struct {
    const Encoder *encoder;
    Step *steps;
    char *qkv, *attended, *of_threads; /* (3, T, N * D) and (T, N * D); scratch of each thread */
    Buffers shared;                    /* unless the tasks are blocks of rows */
    int64_t by_rows, block, n_steps, thread_size, n_started, n_threads, size;
} Encoding;

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t most_columns(const Encoder *e) {
    int64_t most = 0;
    for (const Layer *l = e->layers; l < e->layers + e->n_layers; l++)
        most = larger(larger(larger(most, l->of_qkv.n_columns), larger(l->of_output.n_columns, l->of_up.n_columns)),
                      l->of_down.n_columns);
    return most;
}

/* The largest N * D. */
static int64_t most_attended(const Encoder *e) {
    int64_t most = 0;
    for (int64_t l = 0; l < e->n_layers; l++) most = larger(most, e->layers[l].n_heads * e->head_size);
    return most;
}

static int64_t widest_of(const Encoder *e) { return larger(larger(e->width, e->inner_width), most_attended(e)); }

static char *take(char **from, int64_t size) {
    char *taken = *from;
    *from += round_up(size, 64);
    return taken;
}

static int64_t inner_size(const Encoder *e, int64_t n_rows) {
    return n_rows * (e->quantised ? 4 * round_up(e->inner_width, 16) : e->inner_width * size_of(e->dtype));
}

/* Buffers for some rows at an address; where they end is the address of `inner` and its size. */
static Buffers buffers_at(const Encoder *e, int64_t n_rows, char *at) {
    int64_t row = e->width * size_of(e->dtype);
    Buffers b = {0};
    if (e->quantised) {
        b.values = (int8_t *)take(&at, n_rows * round_up(widest_of(e), 4));
        b.high = (int8_t *)take(&at, n_rows * round_up(most_columns(e), 4));
        b.scales = (float *)take(&at, 4 * n_rows);
        b.middles = (float *)take(&at, 4 * n_rows);
        b.totals = (int32_t *)take(&at, 4 * n_rows);
    }
    b.middle = take(&at, n_rows * row);
    b.normalised = take(&at, n_rows * row);
    b.last = e->quantised ? take(&at, n_rows * row) : b.middle; /* which is not needed any more */
    b.inner = take(&at, inner_size(e, n_rows));
    return b;
}

static int64_t buffers_size(const Encoder *e, int64_t n_rows) {
    return (char *)buffers_at(e, n_rows, NULL).inner - (char *)NULL + round_up(inner_size(e, n_rows), 64);
}

/* Whether the weights of a layer in floating point are so large that each block of rows would read them from memory, and
 * there are enough panels for all threads. */
static int is_read_by_panels(const Encoder *e, int64_t n_threads) {
    int64_t size = size_of(e->dtype) * e->width * (4 * most_attended(e) + 2 * e->inner_width);
    return !e->quantised && size > MOST_IN_CACHE && e->width / PANEL >= 2 * n_threads;
}

/* How an encoder is run by at most so many threads, which need `thread_scratch` bytes each beside their buffers. */
static Encoding encoding_of(const Encoder *e, int64_t n_threads, int64_t thread_scratch) {
    Encoding all = {.encoder = e, .n_threads = n_threads};
    int64_t n_rows = larger(e->n_rows, 1), qkv = n_rows * most_attended(e) * size_of(e->dtype);
    char *at = e->scratch;
    all.by_rows = n_threads <= 1 || (n_rows > MOST_BY_PANELS * n_threads && !is_read_by_panels(e, n_threads));
    if (all.by_rows) {
        all.block = rows_per_task(n_rows, n_threads), all.n_steps = 2 * e->n_layers + 1;
        all.thread_size = round_up(thread_scratch + buffers_size(e, all.block), LINE);
    } else {
        all.block = (n_rows + n_threads - 1) / n_threads, all.n_steps = N_KINDS * e->n_layers;
        all.thread_size = round_up(thread_scratch, LINE);
    }
    all.steps = (Step *)take(&at, all.n_steps * (int64_t)sizeof(Step));
    all.qkv = take(&at, 3 * qkv);
    all.attended = take(&at, qkv);
    all.of_threads = take(&at, n_threads * all.thread_size);
    if (!all.by_rows) all.shared = buffers_at(e, n_rows, take(&at, buffers_size(e, n_rows)));
    all.size = at - (char *)e->scratch;
    return all;
}

static int64_t layer_of(const Encoding *all, int64_t step) {
    return all->by_rows ? (step - 1) / 2 - (step == 0) : step / N_KINDS;
}

static int kind_of(const Encoding *all, int64_t step) {
    if (all->by_rows) return step % 2 ? ATTENTION : BLOCK;
    return (int)(step % N_KINDS);
}

static int is_product(int kind) { return kind == QKV || kind == OUTPUT || kind == UP || kind == DOWN; }

static int64_t panels_of(const Encoder *e, int64_t l, int kind) {
    int64_t width = kind == QKV ? e->layers[l].n_heads * e->head_size : kind == UP ? e->inner_width : e->width;
    return (width + PANEL - 1) / PANEL * (kind == QKV ? 3 : 1);
}

static int64_t heads_per_task(const Encoding *all, int64_t l) {
    return all->encoder->n_texts * all->encoder->layers[l].n_heads / (32 * all->n_threads) + 1;
}

/* Whether something is computed in a step that is neither product nor attention: in floating point LayerNorms alone. */
static int has_rows(const Encoder *e, int kind) {
    if (kind == LAST) return !e->pre_layer_norm;
    if (kind == INPUT) return e->quantised || e->pre_layer_norm;
    return kind == MIDDLE || kind == BLOCK || e->quantised;
}

static int64_t tasks_of(const Encoding *all, int64_t step) {
    const Encoder *e = all->encoder;
    int kind = kind_of(all, step);
    int64_t l = layer_of(all, step), blocks = (e->n_rows + all->block - 1) / all->block;
    if (kind == ATTENTION) {
        int64_t each = heads_per_task(all, l);
        return (e->n_texts * e->layers[l].n_heads + each - 1) / each;
    }
    if (is_product(kind)) return panels_of(e, l, kind);
    return has_rows(e, kind) ? blocks : 0;
}

/* Wait until a number that other threads increase is n. */
static void await(const int64_t *number, int64_t n) {
    for (int64_t i = 0; __atomic_load_n(number, __ATOMIC_ACQUIRE) < n; i++) {
        if (i < SPINS) __builtin_ia32_pause();
        else sched_yield();
    }
}

#define AVX512
#define NAME(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#include "variant.h"
#undef NAME
#undef TARGET

#ifdef WITH_BF16
#define BF16
#define NAME(name) name##_avx512bf16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma")))
#include "variant.h"
#undef BF16
#undef NAME
#undef TARGET
#endif
#undef AVX512

#define NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "variant.h"
#undef NAME
#undef TARGET

EXPORT int skxlmr_version(void) { return VERSION; }

/* The best variant for this CPU: 3 with AVX-512 and its products of integers and of bfloat16, 2 without the latter, 1 with
 * AVX2, 0 if there is none. */
EXPORT int skxlmr_best_variant(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
#ifdef WITH_BF16
        return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
#else
        return 2;
#endif
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

#else

int skxlmr_version(void) { return 0; }

#endif
