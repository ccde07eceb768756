#ifndef FEEDFAST_CPP_MODEL_STORE_VERSIONS_H_
#define FEEDFAST_CPP_MODEL_STORE_VERSIONS_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cpp/common/descriptor.h"
#include "cpp/common/status.h"
#include "cpp/model_store/manifest.h"

namespace feedfast::model_store {

// The name of a published version's folder under models/<model>; without `version` the one of the
// largest number. InvalidArgument: the model's name cannot be one, or the version is not a number
// such as 1 or 000001. NotFound: no such model or version; the message lists those there are.
StatusOr<std::string> FindVersion(const std::string& root, std::string_view model,
                                  std::optional<std::string_view> version);

// A manifest, and the shared lock on its file that keeps the collection of garbage from removing
// the version; children of a fork hold it, too.
struct HeldManifest {
  Manifest manifest;
  Descriptor lock;
};

// Reads models/<model>/<version>/manifest.json. NotFound: there is none, or it was just removed.
// DataLoss, InvalidArgument: it cannot be trusted or read; the message names the file. Waits while
// a collection asks who has the version open. Throws std::bad_alloc.
StatusOr<HeldManifest> OpenManifest(const std::string& root, const std::string& model,
                                    const std::string& version);

}  // namespace feedfast::model_store

#endif  // FEEDFAST_CPP_MODEL_STORE_VERSIONS_H_
