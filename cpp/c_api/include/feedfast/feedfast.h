/* feedfast's C interface: open a ranker of a model store, score feed requests. C99; docs/c_api.md.
 *
 * - Functions that can fail return an ff_status and, when it is not FF_OK, write what, where, what
 *   was found and what is allowed into `message`: at most message_size bytes, cut where it does not
 *   fit, always ending in NUL. `message` may be NULL when message_size is 0. Nothing is written on
 *   success, and no exception leaves the library.
 * - There is no global state. Handles are opaque; a scorer serves any number of threads at a time.
 * - Structs begin with their size, as the caller's header has it; zero is the default of all else:
 *     ff_request request = {.struct_size = sizeof request, .num_candidates = 3, ...};
 *   Later versions append members, whose zero means what was before. One that a newer header has
 *   and an older library has not is refused unless it is zero.
 * - ff_abi_version() of the library is the number that this header was made for, FF_ABI_VERSION,
 *   as long as programs built with one run with the other.
 */
#ifndef FEEDFAST_FEEDFAST_H_
#define FEEDFAST_FEEDFAST_H_

#include <stddef.h>
#include <stdint.h>

#define FF_ABI_VERSION 1

#if defined(__GNUC__)
#define FF_API __attribute__((visibility("default")))
#else
#define FF_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t ff_status;
enum {
  FF_OK = 0,
  FF_INVALID_ARGUMENT = 1,    /* an argument breaks the contract */
  FF_OUT_OF_RANGE = 2,        /* an index lies outside its range */
  FF_NOT_FOUND = 3,           /* no such store, model or version */
  FF_DATA_LOSS = 4,           /* stored bytes are truncated, altered or of an unknown version */
  FF_FAILED_PRECONDITION = 5, /* FEEDFAST_CPU_TARGET names what this machine has not */
  FF_RESOURCE_EXHAUSTED = 6,  /* memory, address space or threads ran out */
  FF_INTERNAL = 7             /* a defect of feedfast */
};

/* "FF_OK" and so on; "unknown" for other numbers. */
FF_API const char* ff_status_name(ff_status status);

/* Of the library that runs; compare with FF_ABI_VERSION. */
FF_API int32_t ff_abi_version(void);
/* Of the release, such as "0.1.0". */
FF_API const char* ff_version(void);

/* Bytes that somebody else owns; `data` may be NULL when `size` is 0. What the library returns also
 * ends in NUL and lives as long as the object that it was asked of. */
typedef struct ff_string {
  const char* data;
  size_t size;
} ff_string;

/* ---- A ranker that is open for scoring. ---- */

typedef struct ff_scorer ff_scorer;

enum {
  FF_VERIFY_HEADER = 0, /* manifest, sizes, headers: quick, and memory-safe on any content */
  FF_VERIFY_FULL = 1    /* every byte besides, against its digest */
};

typedef struct ff_scorer_options {
  size_t struct_size;  /* sizeof(ff_scorer_options) */
  const char* path;    /* folder of the model store */
  const char* model;   /* its name; NULL: "feed" */
  const char* version; /* its number, such as "1" or "000001"; NULL: the largest one */
  int32_t verify;      /* FF_VERIFY_ */
  int32_t threads;     /* that share the candidates of a request; 0: 1 */
  int64_t mini_batch;  /* candidates that go through the towers together, at most, up to 4096;
                          decides speed alone; 0: chosen by candidates and threads */
} ff_scorer_options;

/* Opens a version: maps its tables read-only, which all processes that open them share, and packs
 * its layers. *scorer is to be closed; NULL on failure. FF_NOT_FOUND: no such model or version, the
 * message lists those there are. FF_DATA_LOSS: the model is damaged, of an unknown format version,
 * or no ranker; the message names section and blob. */
FF_API ff_status ff_scorer_open(const ff_scorer_options* options, ff_scorer** scorer, char* message,
                                size_t message_size);

/* Frees it, and lets the store's garbage collection have the version. No other call may be using
 * it. NULL: nothing is done. */
FF_API void ff_scorer_close(ff_scorer* scorer);

/* What is open. Indexes run from 0; a string of another one has data NULL and size 0. */
FF_API ff_string ff_scorer_model(const ff_scorer* scorer);
FF_API ff_string ff_scorer_version(const ff_scorer* scorer);
FF_API int64_t ff_scorer_num_objectives(const ff_scorer* scorer);
FF_API ff_string ff_scorer_objective(const ff_scorer* scorer, int64_t k);
/* "passive", "active" or "other". */
FF_API ff_string ff_scorer_objective_group(const ff_scorer* scorer, int64_t k);
/* Float features of a request, and of a candidate, in the order of ff_request. */
FF_API int64_t ff_scorer_num_shared(const ff_scorer* scorer);
FF_API ff_string ff_scorer_shared(const ff_scorer* scorer, int64_t i);
FF_API int64_t ff_scorer_num_dense(const ff_scorer* scorer);
FF_API ff_string ff_scorer_dense(const ff_scorer* scorer, int64_t i);
/* Longest histories that the ranker was trained on; requests should be no different. */
FF_API int64_t ff_scorer_max_history_members(const ff_scorer* scorer);
FF_API int64_t ff_scorer_max_history_hashtags(const ff_scorer* scorer);
/* Of the model's own trade-off: alpha, lambda, and the weight of an objective (0 for other k). */
FF_API double ff_scorer_alpha(const ff_scorer* scorer);
FF_API double ff_scorer_lambda(const ff_scorer* scorer);
FF_API double ff_scorer_weight(const ff_scorer* scorer, int64_t k);

/* ---- Requests. ---- */

/* A viewer and the candidates to be ranked for them, as columns of the caller. Keys are any bytes;
 * those that the model has never seen are looked up as unknown. Features are NaN where missing. */
typedef struct ff_request {
  size_t struct_size; /* sizeof(ff_request) */

  /* The viewer. */
  const ff_string* viewer;          /* one key; NULL: unknown */
  const ff_string* history_members; /* [num_history_members], newest first; NULL with 0 */
  int64_t num_history_members;
  const ff_string* history_hashtags; /* [num_history_hashtags], newest first; NULL with 0 */
  int64_t num_history_hashtags;
  const float* shared; /* [num_shared]; NULL: all missing */
  int64_t num_shared;  /* what ff_scorer_num_shared says, unless `shared` is NULL */

  /* The candidates. */
  int64_t num_candidates;
  const ff_string* item;       /* [num_candidates], for random effects; NULL: all unknown */
  const ff_string* actor;      /* [num_candidates], who brought it; NULL: all unknown */
  const ff_string* root_actor; /* [num_candidates], who made it; NULL: the actor */
  const ff_string* hashtags;   /* [hashtag_offsets[num_candidates]]; NULL when that is 0 */
  const int64_t*
      hashtag_offsets; /* [num_candidates + 1], ascending from 0: candidate c has the
                          hashtags [c] up to, not including, [c + 1]; NULL: none have any */
  const float* dense;  /* [num_candidates, num_dense], row by row; NULL: all missing */
  int64_t num_dense;   /* what ff_scorer_num_dense says, unless `dense` is NULL */

  /* The trade-off of this request; what is NULL is the model's. Members with the factors of
   *   score = alpha sum_passive(w_k p_k) + (1 - alpha) sum_active(w_k p_k)
   *           + lambda sum_other(w_k p_k) */
  const double* alpha;   /* one number in [0, 1] */
  const double* lambda;  /* one number, not negative */
  const double* weights; /* [num_weights] w_k, not negative */
  int64_t num_weights;   /* what ff_scorer_num_objectives says, unless `weights` is NULL */

  int64_t top_k; /* how many places of the order are wanted, 1 or more; 0: all */
} ff_request;

/* Where the time of a call goes, in nanoseconds of threads: those of threads that work side by side
 * add up. */
enum {
  FF_STAGE_STRINGS = 0, /* keys to rows */
  FF_STAGE_TREES = 1,   /* features to leaves */
  FF_STAGE_LOOKUPS = 2, /* rows to pooled vectors */
  FF_STAGE_DENSE = 3,   /* cross network and towers */
  FF_STAGE_REST = 4,    /* checks, normaliser, probabilities to utility, order */
  FF_NUM_STAGES = 5
};

/* Arrays of the caller that take the answer. Each may be NULL, which leaves it out; its size is how
 * many elements it has room for, at least those given here. */
typedef struct ff_result {
  size_t struct_size;   /* sizeof(ff_result) */
  float* probabilities; /* [num_candidates, objectives], row by row, calibrated */
  int64_t probabilities_size;
  float* score; /* [num_candidates], utility */
  int64_t score_size;
  int64_t* order; /* [min(top_k, num_candidates)] candidates, best first; equal scores in the
                     request's order, NaN last */
  int64_t order_size;
  int64_t* stage_nanoseconds; /* [FF_NUM_STAGES], overwritten; NULL: nothing is measured */
  int64_t stage_nanoseconds_size;
} ff_result;

/* Scores and orders the candidates of a request. The bits of a candidate depend on it, its viewer
 * and the trade-off alone, and are those of the Python scorer on the same CPU target. Any number of
 * threads may call it with one scorer at a time; it is also safe in a child that was forked after
 * the scorer was opened. FF_INVALID_ARGUMENT: a size does not fit the model or the other columns,
 * offsets fall, or a trade-off is outside its range; nothing is scored then. Arrays are trusted to
 * be as long as the request says. */
FF_API ff_status ff_scorer_score(const ff_scorer* scorer, const ff_request* request,
                                 const ff_result* result, char* message, size_t message_size);

#ifdef __cplusplus
}
#endif

#endif /* FEEDFAST_FEEDFAST_H_ */
