#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cpp/bindings/arrays.h"
#include "cpp/bindings/registers.h"
#include "cpp/bindings/status_to_python.h"
#include "cpp/bindings/string_keys.h"
#include "cpp/mph/external_builder.h"
#include "cpp/mph/key_codes.h"
#include "cpp/mph/key_hash.h"
#include "cpp/mph/vocabulary.h"

namespace py = pybind11;

namespace feedfast::bindings {
namespace {

mph::Preset ParsePreset(const std::string& name) {
  if (name == "compact") return mph::Preset::kCompact;
  if (name == "fast") return mph::Preset::kFast;
  throw py::value_error("preset '" + name + "' is unknown; allowed: compact, fast");
}

mph::Verify ParseVerify(const std::string& name) {
  if (name == "header") return mph::Verify::kHeader;
  if (name == "full") return mph::Verify::kFull;
  throw py::value_error("verify '" + name + "' is unknown; allowed: header, full");
}

// Turns a build's progress into calls of a Python function and takes its exception, or that of a
// signal such as Ctrl-C, as the wish to stop.
class ProgressCaller {
 public:
  explicit ProgressCaller(py::object function) : function_(std::move(function)) {}

  mph::ProgressFunction function() {
    return [this](const mph::BuildProgress& progress) { return Call(progress); };
  }
  // With the GIL, once the build is over.
  void Rethrow() const {
    if (raised_ != nullptr) std::rethrow_exception(raised_);
  }

 private:
  bool Call(const mph::BuildProgress& progress) {
    static constexpr const char* kPhases[] = {"read", "hash", "sort", "place", "write"};
    const py::gil_scoped_acquire gil;
    try {
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
      if (!function_.is_none())
        function_(kPhases[static_cast<int>(progress.phase)], progress.done,
                  progress.total < 0 ? py::object(py::none()) : py::int_(progress.total));
    } catch (const std::exception&) {
      raised_ = std::current_exception();
    }
    return raised_ == nullptr;
  }

  py::object function_;
  std::exception_ptr raised_;
};

mph::Vocabulary Build(const py::object& keys, int fingerprint_bits, const std::string& preset,
                      const std::optional<CArray<std::int64_t>>& rows, int threads,
                      std::uint64_t seed, const py::object& progress) {
  ProgressCaller caller(progress);
  mph::BuildOptions options;
  options.progress = caller.function();
  options.fingerprint_bits = fingerprint_bits;
  options.preset = ParsePreset(preset);
  options.threads = threads;
  options.seed = seed;
  if (rows.has_value()) {
    RequireRank("rows", *rows, 1);
    options.rows = AsSpan("rows", *rows);
  }
  const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
  auto result = [&] {
    py::gil_scoped_release nogil;
    return mph::Vocabulary::Build(*source, options);
  }();
  caller.Rethrow();
  return ValueOrThrow(std::move(result));
}

mph::Vocabulary BuildOfCodes(const CArray<std::uint64_t>& codes, int fingerprint_bits,
                             const std::string& preset, int threads, std::uint64_t seed) {
  RequireRank("codes", codes, 1);
  ProgressCaller caller{py::none()};
  mph::BuildOptions options;
  options.progress = caller.function();
  options.fingerprint_bits = fingerprint_bits;
  options.preset = ParsePreset(preset);
  options.threads = threads;
  options.seed = seed;
  const Span<const std::uint64_t> given = AsSpan("codes", codes);
  auto result = [&] {
    py::gil_scoped_release nogil;
    return mph::BuildOfCodes(given, options);
  }();
  caller.Rethrow();
  return ValueOrThrow(std::move(result));
}

// A full disk is no lack of memory to Python.
void ThrowIfExternalError(const Status& status) {
  if (status.code() == StatusCode::kResourceExhausted) ThrowAs(PyExc_OSError, status.message());
  ThrowIfError(status);
}

class ExternalBuild {
 public:
  ExternalBuild(int fingerprint_bits, const std::string& preset, bool with_rows, bool of_codes,
                int threads, std::uint64_t seed, std::int64_t buffer_bytes,
                const std::string& spill_folder, const py::object& progress)
      : caller_(progress), of_codes_(of_codes) {
    mph::ExternalOptions options;
    options.build.fingerprint_bits = fingerprint_bits;
    options.build.preset = ParsePreset(preset);
    options.build.threads = threads;
    options.build.seed = seed;
    options.build.progress = caller_.function();
    options.with_rows = with_rows;
    options.buffer_bytes = buffer_bytes;
    options.spill_folder = spill_folder;
    auto builder =
        mph::ExternalBuilder::Create(options, of_codes ? &mph::ReadCodes : &mph::HashKeys);
    caller_.Rethrow();
    ThrowIfExternalError(builder.status());
    builder_ = std::move(builder).value();
  }

  void Add(const py::object& keys, const std::optional<CArray<std::int64_t>>& rows) {
    Span<const std::int64_t> given;
    if (rows.has_value()) {
      RequireRank("rows", *rows, 1);
      given = AsSpan("rows", *rows);
    }
    if (of_codes_) {
      const auto codes = keys.cast<CArray<std::uint64_t>>();
      RequireRank("codes", codes, 1);
      const mph::CodeKeys source(AsSpan("codes", codes));
      return Run([&] { return builder_->Add(source, given); });
    }
    const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
    Run([&] { return builder_->Add(*source, given); });
  }

  void Finish(const std::string& path) {
    Run([&] { return builder_->Finish(path); });
  }

 private:
  template <typename Body>
  void Run(const Body& body) {
    const Status status = [&] {
      const py::gil_scoped_release nogil;
      return body();
    }();
    caller_.Rethrow();
    ThrowIfExternalError(status);
  }

  ProgressCaller caller_;
  bool of_codes_;
  std::unique_ptr<mph::ExternalBuilder> builder_;
};

mph::Vocabulary Open(const std::string& path, const std::string& verify) {
  const mph::Verify level = ParseVerify(verify);
  auto result = [&] {
    py::gil_scoped_release nogil;
    return mph::Vocabulary::Open(path, level);
  }();
  return ValueOrThrow(std::move(result));
}

mph::Vocabulary FromBytes(const py::buffer& image) {
  const py::buffer_info info = image.request();
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 0 && info.strides[0] != 1))
    throw py::value_error("image must be contiguous bytes");
  auto result = [&] {
    const py::gil_scoped_release nogil;
    return mph::Vocabulary::FromCopy({static_cast<const std::uint8_t*>(info.ptr), info.size},
                                     mph::Verify::kFull);
  }();
  return ValueOrThrow(std::move(result));
}

CArray<std::int64_t> Lookup(const mph::Vocabulary& vocabulary, const py::object& keys,
                            int threads) {
  if (threads < 1)
    throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
  const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
  CArray<std::int64_t> rows(source->size());
  const Span<std::int64_t> out = AsMutableSpan(rows);
  {
    py::gil_scoped_release nogil;
    vocabulary.LookupAll(*source, threads, out);
  }
  return rows;
}

CArray<std::uint64_t> HashKeys(const py::object& keys, std::uint64_t seed, int threads) {
  if (threads < 1)
    throw py::value_error("threads must be at least 1; got " + std::to_string(threads));
  const std::unique_ptr<mph::KeySource> source = MakeKeySource(keys, "keys");
  CArray<std::uint64_t> codes(source->size());
  const Span<std::uint64_t> out = AsMutableSpan(codes);
  {
    py::gil_scoped_release nogil;
    mph::HashAll(*source, seed, threads, out);
  }
  return codes;
}

CArray<std::int64_t> LookupCodes(const mph::Vocabulary& vocabulary,
                                 const CArray<std::uint64_t>& codes) {
  RequireRank("codes", codes, 1);
  const Span<const std::uint64_t> given = AsSpan("codes", codes);
  CArray<std::int64_t> rows(given.size());
  const Span<std::int64_t> out = AsMutableSpan(rows);
  {
    py::gil_scoped_release nogil;
    vocabulary.LookupCodes(given, out);
  }
  return rows;
}

mph::Vocabulary MapRows(const mph::Vocabulary& vocabulary, const CArray<std::int64_t>& row_map) {
  RequireRank("row_map", row_map, 1);
  const Span<const std::int64_t> map = AsSpan("row_map", row_map);
  auto result = [&] {
    const py::gil_scoped_release nogil;
    return vocabulary.MapRows(map);
  }();
  return ValueOrThrow(std::move(result));
}

py::dict Describe(const mph::Vocabulary& vocabulary) {
  const mph::ImageShape& shape = vocabulary.shape();
  const mph::ImageLayout layout(shape);
  py::list levels;
  for (const mph::LevelShape& level : shape.level_span())
    levels.append(py::make_tuple(level.num_slots, level.num_buckets));
  py::list sections;
  for (int i = 0; i < mph::kNumSections; ++i)
    sections.append(py::make_tuple(mph::SectionName(i),
                                   layout.sections[static_cast<std::size_t>(i)].begin,
                                   layout.sections[static_cast<std::size_t>(i)].size));
  py::dict description;
  description["version"] = shape.version;
  description["num_keys"] = shape.num_keys;
  description["num_rows"] = shape.num_rows;
  description["fingerprint_bits"] = shape.fingerprint_bits;
  description["row_bits"] = shape.row_bits;
  description["hash_seed"] = shape.hash_seed;
  description["levels"] = levels;
  description["sections"] = sections;
  return description;
}

py::buffer_info ImageBuffer(const mph::Vocabulary& vocabulary) {
  const Span<const std::uint8_t> image = vocabulary.image();
  return {const_cast<std::uint8_t*>(image.data()), image.size(), /*readonly=*/true};
}

}  // namespace

void RegisterMph(py::module_& m) {
  m.def("hash_keys", &HashKeys, py::arg("keys"), py::kw_only(), py::arg("seed"),
        py::arg("threads") = 1);
  py::class_<ExternalBuild>(m, "ExternalBuild")
      .def(py::init<int, const std::string&, bool, bool, int, std::uint64_t, std::int64_t,
                    const std::string&, const py::object&>(),
           py::kw_only(), py::arg("fingerprint_bits"), py::arg("preset"), py::arg("with_rows"),
           py::arg("of_codes") = false, py::arg("threads"), py::arg("seed"),
           py::arg("buffer_bytes"), py::arg("spill_folder"), py::arg("progress"))
      .def("add", &ExternalBuild::Add, py::arg("keys"), py::arg("rows").noconvert().none(true))
      .def("finish", &ExternalBuild::Finish, py::arg("path"));
  py::class_<mph::Vocabulary>(m, "Vocabulary", py::buffer_protocol())
      .def_static("build", &Build, py::arg("keys"), py::kw_only(), py::arg("fingerprint_bits"),
                  py::arg("preset"), py::arg("rows").noconvert().none(true), py::arg("threads"),
                  py::arg("seed"), py::arg("progress"))
      .def_static("build_of_codes", &BuildOfCodes, py::arg("codes").noconvert(), py::kw_only(),
                  py::arg("fingerprint_bits"), py::arg("preset"), py::arg("threads"),
                  py::arg("seed"))
      .def_static("open", &Open, py::arg("path"), py::arg("verify"))
      .def_static("from_bytes", &FromBytes, py::arg("image"))
      .def("lookup", &Lookup, py::arg("keys"), py::arg("threads"))
      .def("lookup_codes", &LookupCodes, py::arg("codes").noconvert())
      .def_property_readonly("size", &mph::Vocabulary::size)
      .def_property_readonly("num_rows", &mph::Vocabulary::num_rows)
      .def_property_readonly("fingerprint_bits", &mph::Vocabulary::fingerprint_bits)
      .def_property_readonly("bits_per_key", &mph::Vocabulary::bits_per_key)
      .def("map_rows", &MapRows, py::arg("row_map").noconvert())
      .def("describe", &Describe)
      .def_buffer(&ImageBuffer);
}

}  // namespace feedfast::bindings
