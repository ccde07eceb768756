#include <pybind11/pybind11.h>

#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/common/cpu_target.h"

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native kernels of feedfast. Use the public modules of feedfast instead.";
  // A target that was asked for and cannot be had is an error at import, not a silent fallback.
  feedfast::bindings::ThrowIfError(feedfast::SelectedCpuTarget().status());
  feedfast::bindings::RegisterEmbeddingKernels(m);
  feedfast::bindings::RegisterRowOptimizers(m);
  feedfast::bindings::RegisterMph(m);
  feedfast::bindings::RegisterPackedKeys(m);
  feedfast::bindings::RegisterStatelessHash(m);
  feedfast::bindings::RegisterLiveVocabulary(m);
  feedfast::bindings::RegisterRuntime(m);
  feedfast::bindings::RegisterStore(m);
  feedfast::bindings::RegisterGatedMlp(m);
  feedfast::bindings::RegisterTreeEncoder(m);
  feedfast::bindings::RegisterScorer(m);
  feedfast::bindings::RegisterAllreduce(m);
  feedfast::bindings::RegisterSharedGroup(m);
  feedfast::bindings::RegisterSparseRows(m);
}
