/* Ranks items for a viewer with a model of a store:
 *   score STORE MODEL VIEWER ITEM=ACTOR...
 * prints the items best first, with their scores and probabilities. A real feed would also give
 * histories, hashtags and features; what is left out counts as missing. */
#include <feedfast/feedfast.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The arrays of a request and its result. */
typedef struct columns {
  ff_string* item;
  ff_string* actor;
  float* probabilities;
  float* score;
  int64_t* order;
} columns;

static int failed(ff_status status, const char* message) {
  fprintf(stderr, "%s: %s\n", ff_status_name(status), message);
  return EXIT_FAILURE;
}

static int rank(const ff_scorer* scorer, const char* viewer, char** candidates, int64_t n,
                const columns* arrays) {
  const int64_t objectives = ff_scorer_num_objectives(scorer);
  const ff_string member = {viewer, strlen(viewer)};
  for (int64_t c = 0; c < n; ++c) {
    const size_t length = strcspn(candidates[c], "=");
    const char* actor = candidates[c] + length + (candidates[c][length] == '=');
    arrays->item[c] = (ff_string){candidates[c], length};
    arrays->actor[c] = (ff_string){actor, strlen(actor)};
  }
  const ff_request request = {
      .struct_size = sizeof request,
      .viewer = &member,
      .num_candidates = n,
      .item = arrays->item,
      .actor = arrays->actor,
  };
  const ff_result result = {
      .struct_size = sizeof result,
      .probabilities = arrays->probabilities,
      .probabilities_size = n * objectives,
      .score = arrays->score,
      .score_size = n,
      .order = arrays->order,
      .order_size = n,
  };
  char message[512];
  const ff_status status = ff_scorer_score(scorer, &request, &result, message, sizeof message);
  if (status != FF_OK) return failed(status, message);
  for (int64_t place = 0; place < n; ++place) {
    const int64_t c = arrays->order[place];
    printf("%.*s\tscore=%.9g", (int)arrays->item[c].size, arrays->item[c].data, arrays->score[c]);
    for (int64_t k = 0; k < objectives; ++k)
      printf("\t%s=%.9g", ff_scorer_objective(scorer, k).data,
             arrays->probabilities[c * objectives + k]);
    printf("\n");
  }
  return EXIT_SUCCESS;
}

int main(int argc, char** argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: %s STORE MODEL VIEWER ITEM=ACTOR...\n", argv[0]);
    return EXIT_FAILURE;
  }
  const ff_scorer_options options = {
      .struct_size = sizeof options, .path = argv[1], .model = argv[2]};
  ff_scorer* scorer = NULL;
  char message[512];
  const ff_status status = ff_scorer_open(&options, &scorer, message, sizeof message);
  if (status != FF_OK) return failed(status, message);

  const size_t n = (size_t)argc - 4;
  const columns arrays = {
      .item = malloc(n * sizeof *arrays.item),
      .actor = malloc(n * sizeof *arrays.actor),
      .probabilities =
          malloc(n * (size_t)ff_scorer_num_objectives(scorer) * sizeof *arrays.probabilities),
      .score = malloc(n * sizeof *arrays.score),
      .order = malloc(n * sizeof *arrays.order),
  };
  int code = EXIT_FAILURE;
  if (arrays.item && arrays.actor && arrays.probabilities && arrays.score && arrays.order)
    code = rank(scorer, argv[3], argv + 4, (int64_t)n, &arrays);
  free(arrays.order);
  free(arrays.score);
  free(arrays.probabilities);
  free(arrays.actor);
  free(arrays.item);
  ff_scorer_close(scorer);
  return code;
}
