#ifndef FEEDFAST_CPP_TREE_ENCODER_XGBOOST_MODEL_H_
#define FEEDFAST_CPP_TREE_ENCODER_XGBOOST_MODEL_H_

#include <cstdint>

#include "cpp/common/span.h"
#include "cpp/common/status.h"
#include "cpp/tree_encoder/forest.h"

namespace feedfast::tree_encoder {

// Reads the trees of a model that XGBoost 1.6 or newer saved as JSON or UBJSON (`save_model`,
// `save_raw`); which of the two it is shows in the first bytes. All trees are taken, in the order
// of pred_leaf's columns: boosting round, then output, then parallel tree. Leaf weights, and with
// them dart's tree weights and vector leaves, play no part. Nodes that pruning deleted are left
// out. Thresholds are read to the float32 that XGBoost compares with.
//
// InvalidArgument: a sound model that leaf rows cannot represent (gblinear, categorical splits, no
// trees, the old binary format). DataLoss: not a model, truncated or inconsistent. Safe on any
// bytes; time and memory are linear in their number.
StatusOr<Forest> ReadXgboostModel(Span<const std::uint8_t> model);

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_CPP_TREE_ENCODER_XGBOOST_MODEL_H_
