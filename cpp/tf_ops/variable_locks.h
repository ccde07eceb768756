#ifndef FEEDFAST_CPP_TF_OPS_VARIABLE_LOCKS_H_
#define FEEDFAST_CPP_TF_OPS_VARIABLE_LOCKS_H_

#include <algorithm>
#include <functional>
#include <vector>

#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/platform/mutex.h"
#include "tensorflow/core/platform/refcount.h"

namespace feedfast::tf_ops {

// Holds the locks of some variables, each once and taken in the order of their addresses, so that
// two holders of several locks never wait for each other.
class VariableLocks {
 public:
  enum Mode { kShared, kExclusive };  // for reading, for writing

  VariableLocks(const std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>>& variables,
                Mode mode)
      : mode_(mode) {
    mutexes_.reserve(variables.size());
    for (const auto& variable : variables) mutexes_.push_back(variable->mu());
    std::sort(mutexes_.begin(), mutexes_.end(), std::less<>());
    mutexes_.erase(std::unique(mutexes_.begin(), mutexes_.end()), mutexes_.end());
    for (tensorflow::mutex* mutex : mutexes_)
      mode_ == kShared ? mutex->lock_shared() : mutex->lock();
  }
  VariableLocks(const VariableLocks&) = delete;
  VariableLocks& operator=(const VariableLocks&) = delete;
  ~VariableLocks() {
    for (tensorflow::mutex* mutex : mutexes_)
      mode_ == kShared ? mutex->unlock_shared() : mutex->unlock();
  }

 private:
  const Mode mode_;
  std::vector<tensorflow::mutex*> mutexes_;
};

}  // namespace feedfast::tf_ops

#endif  // FEEDFAST_CPP_TF_OPS_VARIABLE_LOCKS_H_
