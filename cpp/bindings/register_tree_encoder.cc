#include <pybind11/pybind11.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/common/parallel_for.h"
#include "cpp/tree_encoder/leaf_encoder.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

using tree_encoder::LeafEncoder;
using tree_encoder::RoundRange;

// Rows that one thread takes at a time.
constexpr std::int64_t kGrainRows = 256;

Span<const std::uint8_t> AsBytes(const py::bytes& bytes) {
  const auto view = static_cast<std::string_view>(bytes);
  return {reinterpret_cast<const std::uint8_t*>(view.data()),
          static_cast<std::int64_t>(view.size())};
}

template <typename Load>
LeafEncoder LoadWithoutGil(const py::bytes& bytes, const Load& load) {
  const Span<const std::uint8_t> view = AsBytes(bytes);
  StatusOr<LeafEncoder> encoder = [&] {
    const py::gil_scoped_release nogil;
    return load(view);
  }();
  return ValueOrThrow(std::move(encoder));
}

template <typename Out, void (LeafEncoder::*encode)(const float*, std::int64_t, std::int64_t, Out*)
                            const noexcept>
CArray<Out> Encode(const LeafEncoder& encoder, const CArray<float>& x, int threads) {
  RequireRank("x", x, 2);
  if (x.shape(1) != encoder.num_features())
    throw py::value_error("x has " + std::to_string(x.shape(1)) +
                          " columns; the forest was trained on " +
                          std::to_string(encoder.num_features()) + " features");
  if (threads < 1) throw py::value_error("threads must be >= 1; got " + std::to_string(threads));
  CArray<Out> out({x.shape(0), static_cast<py::ssize_t>(encoder.num_trees())});
  const float* const rows = x.data();
  Out* const leaves = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    ParallelFor(x.shape(0), kGrainRows, threads, [&](std::int64_t begin, std::int64_t end) {
      (encoder.*encode)(rows + begin * encoder.num_features(), end - begin, encoder.num_features(),
                        leaves + begin * encoder.num_trees());
    });
  }
  return out;
}

}  // namespace

void RegisterTreeEncoder(py::module_& m) {
  py::class_<LeafEncoder>(m, "LeafEncoder")
      .def_static(
          "from_xgboost",
          [](const py::bytes& model, std::int64_t begin, std::int64_t end) {
            return LoadWithoutGil(model, [&](Span<const std::uint8_t> bytes) {
              return LeafEncoder::FromXgboost(bytes, RoundRange{begin, end});
            });
          },
          py::arg("model"), py::kw_only(), py::arg("begin") = 0, py::arg("end") = 0)
      .def_static(
          "from_image",
          [](const py::bytes& image) { return LoadWithoutGil(image, LeafEncoder::FromImage); },
          py::arg("image"))
      .def("to_image",
           [](const LeafEncoder& encoder) {
             const std::vector<std::uint8_t> image = encoder.ToImage();
             return py::bytes(reinterpret_cast<const char*>(image.data()), image.size());
           })
      .def_property_readonly("num_features", &LeafEncoder::num_features)
      .def_property_readonly("num_trees", &LeafEncoder::num_trees)
      .def_property_readonly("num_leaves", &LeafEncoder::num_leaves)
      .def_property_readonly(
          "leaf_offsets",
          [](const LeafEncoder& encoder) {
            const Span<const std::int32_t> offsets = encoder.leaf_offsets();
            return CArray<std::int64_t>(CArray<std::int32_t>(offsets.size(), offsets.data()));
          })
      .def("encode", &Encode<std::int32_t, &LeafEncoder::Encode>, py::arg("x").noconvert(),
           py::kw_only(), py::arg("threads") = 1)
      .def(
          "ordinals",
          [](const LeafEncoder& encoder, const CArray<float>& x, int threads) {
            ThrowIfError(encoder.CheckOrdinals());
            return Encode<std::uint8_t, &LeafEncoder::EncodeOrdinals>(encoder, x, threads);
          },
          py::arg("x").noconvert(), py::kw_only(), py::arg("threads") = 1);
}

}  // namespace feedfast::bindings
