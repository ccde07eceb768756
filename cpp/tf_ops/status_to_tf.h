#ifndef FEEDFAST_CPP_TF_OPS_STATUS_TO_TF_H_
#define FEEDFAST_CPP_TF_OPS_STATUS_TO_TF_H_

#include "absl/status/status.h"
#include "cpp/common/status.h"

namespace feedfast::tf_ops {

// The same code and message as a TensorFlow status, so that both doors report alike.
absl::Status ToTensorFlow(const Status& status);

}  // namespace feedfast::tf_ops

#endif  // FEEDFAST_CPP_TF_OPS_STATUS_TO_TF_H_
