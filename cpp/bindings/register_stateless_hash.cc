#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/bindings/string_keys.h"
#include "cpp/mph/stateless_hash.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

bool AreIntegers(const py::object& keys) { return py::isinstance<CArray<std::int64_t>>(keys); }

Span<const std::int64_t> Integers(const CArray<std::int64_t>& keys) {
  RequireRank("keys", keys, 1);
  return AsSpan("keys", keys);
}

// int64 arrays are integer keys, everything else is as MakeKeySource takes it. The source refers to
// `keys`.
std::unique_ptr<mph::KeySource> MakeStringOrIntegerSource(const py::object& keys) {
  if (AreIntegers(keys))
    return std::make_unique<mph::IntegerKeys>(Integers(py::cast<CArray<std::int64_t>>(keys)));
  return MakeKeySource(keys, "keys");
}

CArray<std::int64_t> HashRows(const py::object& keys, const CArray<std::uint64_t>& seeds,
                              std::int64_t num_rows) {
  ThrowIfError(mph::ValidateHashedRows(num_rows));
  const std::unique_ptr<mph::KeySource> source = MakeStringOrIntegerSource(keys);
  const Span<const std::uint64_t> seed_span = AsSpan("seeds", seeds);
  CArray<std::int64_t> rows({source->size(), seed_span.size()});
  const Span<std::int64_t> out = AsMutableSpan(rows);
  {
    py::gil_scoped_release nogil;
    mph::HashRows(*source, 0, seed_span, num_rows, out);
  }
  return rows;
}

CArray<std::int64_t> QuotientRemainderRows(const py::object& keys, std::uint64_t seed,
                                           std::int64_t num_quotients,
                                           std::int64_t num_remainders) {
  ThrowIfError(mph::ValidateQuotientRemainder(num_quotients, num_remainders));
  if (AreIntegers(keys)) {
    const auto array = py::cast<CArray<std::int64_t>>(keys);
    const Span<const std::int64_t> ids = Integers(array);
    ThrowIfError(mph::ValidateIds(ids, num_quotients * num_remainders));
    CArray<std::int64_t> rows({ids.size(), std::int64_t{2}});
    mph::SplitIds(ids, num_remainders, AsMutableSpan(rows));
    return rows;
  }
  const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
  CArray<std::int64_t> rows({source->size(), std::int64_t{2}});
  const Span<std::int64_t> out = AsMutableSpan(rows);
  {
    py::gil_scoped_release nogil;
    mph::QuotientRemainderRows(*source, 0, seed, num_quotients, num_remainders, out);
  }
  return rows;
}

}  // namespace

void RegisterStatelessHash(py::module_& m) {
  m.def("hash_rows", &HashRows, py::arg("keys"), py::kw_only(), py::arg("seeds").noconvert(),
        py::arg("num_rows"));
  m.def("quotient_remainder_rows", &QuotientRemainderRows, py::arg("keys"), py::kw_only(),
        py::arg("seed"), py::arg("num_quotients"), py::arg("num_remainders"));
}

}  // namespace feedfast::bindings
