#ifndef FEEDFAST_CPP_TREE_ENCODER_XGBOOST_MODEL_H_
#define FEEDFAST_CPP_TREE_ENCODER_XGBOOST_MODEL_H_

#include <cstdint>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/tree_encoder/forest.h"

namespace feedfast::tree_encoder {

// Boosting rounds begin..end - 1; {0, 0} is all of them, as XGBoost's iteration_range.
struct RoundRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// Reads the trees of a model that XGBoost 1.6 or newer saved as JSON or UBJSON (`save_model`,
// `save_raw`); which of the two it is shows in the first bytes. The trees of the rounds are taken,
// in the order of pred_leaf's columns: boosting round, then output, then parallel tree. Leaf
// weights, and with them dart's tree weights and vector leaves, play no part. Nodes that pruning
// deleted are left out. Thresholds are read to the float32 that XGBoost compares with; the set of a
// categorical split is that of the categories which go right.
//
// InvalidArgument: a sound model that leaf rows cannot represent (gblinear, no trees, the old
// binary format), or rounds that it has not. DataLoss: not a model, truncated or inconsistent. Safe
// on any bytes; time and memory are linear in their number, but for at most kMaxSetWords of sets.
StatusOr<Forest> ReadXgboostModel(Span<const std::uint8_t> model, RoundRange rounds = {});

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_XGBOOST_MODEL_H_
