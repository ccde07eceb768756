#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/common/mapped_blocks.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

// A read-only array of the blocks' bytes; the mapping lives as long as the array or a view of it.
py::array_t<std::uint8_t> MapBlocks(
    const std::vector<std::tuple<std::string, std::int64_t, std::int64_t>>& blocks) {
  std::vector<FileBlock> files;
  files.reserve(blocks.size());
  for (const auto& [path, offset, size] : blocks) files.push_back({path, offset, size});
  StatusOr<MappedBlocks> result = [&] {
    py::gil_scoped_release nogil;
    return MappedBlocks::Open(files);
  }();
  auto mapped = std::make_unique<MappedBlocks>(ValueOrThrow(std::move(result)));
  const Span<const std::uint8_t> bytes = mapped->bytes();
  py::capsule owner(mapped.get(), [](void* p) { delete static_cast<MappedBlocks*>(p); });
  mapped.release();
  py::array_t<std::uint8_t> array(bytes.size(), bytes.data(), owner);
  array.attr("flags").attr("writeable") = false;
  return array;
}

}  // namespace

void RegisterStore(py::module_& m) { m.def("map_blocks", &MapBlocks, py::arg("blocks")); }

}  // namespace feedfast::bindings
