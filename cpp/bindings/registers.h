#ifndef FEEDFAST_CPP_BINDINGS_REGISTERS_H_
#define FEEDFAST_CPP_BINDINGS_REGISTERS_H_

#include <pybind11/pybind11.h>

namespace feedfast::bindings {

// One function per core folder; each adds its part of feedfast._core.
void RegisterEmbeddingKernels(pybind11::module_& m);
void RegisterRowOptimizers(pybind11::module_& m);
void RegisterLiveVocabulary(pybind11::module_& m);
void RegisterMph(pybind11::module_& m);
void RegisterPackedKeys(pybind11::module_& m);
void RegisterStatelessHash(pybind11::module_& m);
void RegisterRuntime(pybind11::module_& m);
void RegisterStore(pybind11::module_& m);
void RegisterGatedMlp(pybind11::module_& m);
void RegisterTreeEncoder(pybind11::module_& m);
void RegisterScorer(pybind11::module_& m);
void RegisterAllreduce(pybind11::module_& m);
void RegisterSharedGroup(pybind11::module_& m);
void RegisterSparseRows(pybind11::module_& m);

}  // namespace feedfast::bindings

#endif  // FEEDFAST_CPP_BINDINGS_REGISTERS_H_
