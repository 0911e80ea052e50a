/* Steps of an encoder layer with 8-bit weights, for x86 CPUs with AVX2 or AVX-512.
 *
 * variant.h is included once for each instruction set. All variants compute in lanes of 16 numbers and add them in the
 * same order, so that they agree to the last bit; every row is computed by itself, so that a row's result depends
 * neither on the other rows nor on the number of threads.
 *
 * On other CPUs and compilers this file compiles to a library without variants.
 */

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Before loops over registers: without it arrays of them are stored in memory. */
#define UNROLL _Pragma("GCC unroll 16")

#define EXPORT __attribute__((visibility("default")))

enum {
    PANEL = 64,     /* output columns of which the weights are packed at a time */
    TILE = 6,       /* rows that are multiplied at a time */
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

/* exp(x) = 2^n * exp(r), |r| <= log(2) / 2: Taylor's polynomial of exp(r), whose error is below half a unit. */
static const float EXP[] = {1.f / 5040, 1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};

#define AVX512
#define NAME(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#include "variant.h"
#undef AVX512
#undef NAME
#undef TARGET

#define NAME(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#include "variant.h"
#undef NAME
#undef TARGET

EXPORT int skxlmr_version(void) { return VERSION; }

/* The best variant for this CPU: 2 with AVX-512 and its integer products, 1 with AVX2, 0 if there is none. */
EXPORT int skxlmr_best_variant(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

#else

int skxlmr_version(void) { return 0; }

#endif
