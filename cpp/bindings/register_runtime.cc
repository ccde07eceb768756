#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/common/cpu_target.h"

namespace py = pybind11;

namespace feedfast::bindings {

void RegisterRuntime(py::module_& m) {
  m.attr("__version__") = FEEDFAST_VERSION;
  m.def("cpu_target", [] { return std::string(CpuTargetName(ActiveCpuTarget())); });
  m.def("supported_cpu_targets", [] {
    std::vector<std::string> names;
    for (const CpuTarget target : SupportedCpuTargets()) names.emplace_back(CpuTargetName(target));
    return names;
  });
  m.def(
      "force_cpu_target",
      [](const std::string& name) {
        ThrowIfError(ForceCpuTarget(ValueOrThrow(ParseCpuTarget(name))));
      },
      py::arg("name"));
  m.def("build_info", [] {
    py::dict info;
    info["version"] = FEEDFAST_VERSION;
    info["compiler"] = __VERSION__;
    info["cuda"] = py::bool_(FEEDFAST_CUDA);
    info["tensorflow"] = py::none();
    if (const std::string tensorflow = FEEDFAST_TENSORFLOW; !tensorflow.empty())
      info["tensorflow"] = tensorflow;
    return info;
  });
}

}  // namespace feedfast::bindings
