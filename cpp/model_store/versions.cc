#include "cpp/model_store/versions.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <thread>
#include <vector>

#include "cpp/common/mapped_file.h"

namespace feedfast::model_store {
namespace {

namespace fs = std::filesystem;

constexpr auto kPoll = std::chrono::milliseconds(10);

fs::path ModelsFolder(const std::string& root) { return fs::path(root) / "models"; }

bool IsNumber(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Without leading zeros; "" is zero.
std::string_view Digits(std::string_view number) {
  return number.substr(std::min(number.find_first_not_of('0'), number.size()));
}

bool IsBelow(std::string_view a, std::string_view b) {
  const std::string_view x = Digits(a);
  const std::string_view y = Digits(b);
  return std::pair(x.size(), x) < std::pair(y.size(), y);
}

// Names in a folder; none where it cannot be read.
std::vector<std::string> NamesIn(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  return names;
}

// Published versions, ascending.
std::vector<std::string> VersionsOf(const std::string& root, std::string_view model) {
  const fs::path folder = ModelsFolder(root) / model;
  std::vector<std::string> versions;
  for (std::string& name : NamesIn(folder)) {
    std::error_code error;
    if (IsNumber(name) && fs::is_regular_file(folder / name / "manifest.json", error))
      versions.push_back(std::move(name));
  }
  std::sort(versions.begin(), versions.end(), IsBelow);
  return versions;
}

template <typename Names>
std::string Joined(const Names& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

std::string ModelsOf(const std::string& root) {
  std::set<std::string> models;
  for (std::string& name : NamesIn(ModelsFolder(root)))
    if (!VersionsOf(root, name).empty()) models.insert(std::move(name));
  return Joined(models);
}

// Whether the file of this name is the open one.
bool IsAt(const std::string& file, int fd) {
  struct stat named = {};
  struct stat opened = {};
  return ::stat(file.c_str(), &named) == 0 && ::fstat(fd, &opened) == 0 &&
         named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

// Locks the open file shared. NotFound: the version was removed between open and lock.
Status Hold(const std::string& file, int fd) {
  while (::flock(fd, LOCK_SH | LOCK_NB) != 0) {
    // A file system without locks: there the age of files is what protects them.
    if (errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS) return OkStatus();
    if (errno != EWOULDBLOCK && errno != EINTR)
      return InvalidArgument("cannot lock '", file, "': ", std::strerror(errno));
    if (!IsAt(file, fd)) break;
    std::this_thread::sleep_for(kPoll);
  }
  if (!IsAt(file, fd)) return NotFound("'", file, "' was removed");
  return OkStatus();
}

}  // namespace

StatusOr<std::string> FindVersion(const std::string& root, std::string_view model,
                                  std::optional<std::string_view> version) {
  if (!IsName(model))
    return InvalidArgument("model '", model,
                           "' is not a name; allowed: 1 to 128 letters, digits, '.', '_' and '-', "
                           "the first a letter or digit");
  if (version.has_value() && !IsNumber(*version))
    return InvalidArgument("version must be a number such as 1 or 000001; got '", *version, "'");
  const std::vector<std::string> versions = VersionsOf(root, model);
  if (versions.empty()) return NotFound(root, ": no model '", model, "'; models: ", ModelsOf(root));
  if (!version.has_value()) return versions.back();
  const std::string_view digits = Digits(*version);
  std::string wanted(6 - std::min<std::size_t>(6, digits.size()), '0');
  wanted += digits;
  if (std::find(versions.begin(), versions.end(), wanted) == versions.end())
    return NotFound(root, ": no version ", wanted, " of model '", model,
                    "'; versions: ", Joined(versions));
  return wanted;
}

StatusOr<HeldManifest> OpenManifest(const std::string& root, const std::string& model,
                                    const std::string& version) {
  const std::string file = (ModelsFolder(root) / model / version / "manifest.json").string();
  // O_NONBLOCK: a FIFO without a writer is refused below instead of waited for.
  Descriptor lock(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (lock.fd() < 0) {
    if (errno == ENOENT) return NotFound("'", file, "' does not exist");
    return InvalidArgument("cannot open '", file, "': ", std::strerror(errno));
  }
  FEEDFAST_RETURN_IF_ERROR(Hold(file, lock.fd()));
  const StatusOr<MappedFile> mapped = MappedFile::Open(file);
  if (!mapped.ok()) return mapped.status();
  const Span<const std::uint8_t> text = mapped->bytes();
  if (text.size() > kMaxManifestBytes)
    return DataLoss(file, ": ", text.size(), " bytes; a manifest has at most ", kMaxManifestBytes);
  StatusOr<Manifest> manifest = ParseManifest(text);
  if (!manifest.ok()) return DataLoss(file, ": ", manifest.status().message());
  if (manifest->model != model || manifest->version != version)
    return DataLoss(file, ": is the manifest of '", manifest->model, "' version ",
                    manifest->version);
  return HeldManifest{std::move(manifest).value(), std::move(lock)};
}

}  // namespace feedfast::model_store
