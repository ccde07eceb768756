#include "cpp/tf_ops/status_to_tf.h"

namespace feedfast::tf_ops {
namespace {

absl::StatusCode CodeOf(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return absl::StatusCode::kOk;
    case StatusCode::kInvalidArgument:
      return absl::StatusCode::kInvalidArgument;
    case StatusCode::kOutOfRange:
      // Not absl's kOutOfRange: tf.data takes that as the end of a dataset.
      return absl::StatusCode::kInvalidArgument;
    case StatusCode::kNotFound:
      return absl::StatusCode::kNotFound;
    case StatusCode::kDataLoss:
      return absl::StatusCode::kDataLoss;
    case StatusCode::kFailedPrecondition:
      return absl::StatusCode::kFailedPrecondition;
    case StatusCode::kResourceExhausted:
      return absl::StatusCode::kResourceExhausted;
    case StatusCode::kInternal:
      return absl::StatusCode::kInternal;
  }
  return absl::StatusCode::kUnknown;
}

}  // namespace

absl::Status ToTensorFlow(const Status& status) {
  return absl::Status(CodeOf(status.code()), status.message());
}

}  // namespace feedfast::tf_ops
