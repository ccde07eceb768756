#include "cpp/ranker/description.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

namespace feedfast::ranker {
namespace {

using model_store::CanonicalJson;
using model_store::Json;

// Of columns and layers: sums of a few stay far below 2^63.
constexpr std::int64_t kMaxCount = std::int64_t{1} << 30;
// Of what nothing is computed from.
constexpr std::int64_t kMaxAny = std::numeric_limits<std::int64_t>::max();

// Reads members of one object. The first error stays; values after it are empty.
class Reader {
 public:
  // All members are named, but for those that may be left out.
  Reader(const Json& value, std::string where, std::initializer_list<std::string_view> names,
         Status& status)
      : value_(value), where_(std::move(where)), status_(status) {
    if (!value.is_object()) {
      Fail(" is not an object");
      return;
    }
    for (const auto& [name, member] : value.get_ref<const Json::object_t&>())
      if (std::find(names.begin(), names.end(), name) == names.end())
        Fail(": '" + name + "' is unknown");
  }

  // What of this name there is, or null.
  const Json& Get(const char* key) {
    static const Json null;
    const auto found = value_.is_object() ? value_.find(key) : value_.end();
    if (value_.is_object() && found != value_.end()) return *found;
    Fail(std::string(": '") + key + "' is missing");
    return null;
  }
  std::string Text(const char* key) {
    const Json& found = Get(key);
    if (found.is_string()) return found.get<std::string>();
    Fail(std::string(": '") + key + "' is not a string");
    return {};
  }
  double Number(const char* key) {
    const Json& found = Get(key);
    if (found.is_number()) return found.get<double>();
    Fail(std::string(": '") + key + "' is not a number");
    return 0;
  }
  std::int64_t Count(const char* key, std::int64_t largest = kMaxCount) {
    const Json& found = Get(key);
    if (found.is_number_unsigned() &&
        found.get<std::uint64_t>() <= static_cast<std::uint64_t>(largest))
      return found.get<std::int64_t>();
    Fail(std::string(": '") + key + "' is not an integer from 0 to " + std::to_string(largest));
    return 0;
  }
  const Json& Array(const char* key) {
    static const Json empty = Json::array();
    const Json& found = Get(key);
    if (found.is_array()) return found;
    Fail(std::string(": '") + key + "' is not a list");
    return empty;
  }
  std::vector<std::string> Texts(const char* key) {
    std::vector<std::string> texts;
    for (const Json& text : Array(key)) {
      if (!text.is_string()) {
        Fail(std::string(": '") + key + "' has what is not a string");
        break;
      }
      texts.push_back(text.get<std::string>());
    }
    return texts;
  }
  // The value of a name that one of the parsers of scorer and gated_mlp knows.
  template <typename T>
  T Named(const char* key, StatusOr<T> (*parse)(std::string_view)) {
    const std::string name = Text(key);
    if (!status_.ok()) return T{};
    const StatusOr<T> parsed = parse(name);
    if (parsed.ok()) return parsed.value();
    Fail(": " + parsed.status().message());
    return T{};
  }
  Reader Child(const char* key, std::initializer_list<std::string_view> names) {
    return {Get(key), where_ + "." + key, names, status_};
  }
  void Fail(const std::string& what) {
    if (status_.ok()) status_ = DataLoss(where_, what);
  }

 private:
  const Json& value_;
  std::string where_;
  Status& status_;
};

std::string Element(const char* list, std::size_t i) {
  return std::string("description.") + list + "[" + std::to_string(i) + "]";
}

// Columns of a block of the layout; 0 with an error when there is none.
std::int64_t WidthOf(const Json& inputs, const char* part, std::string_view feature,
                     Status& status) {
  Reader reader(inputs, "description.inputs", {"viewer", "candidate"}, status);
  const Json& blocks = reader.Array(part);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    Reader block(blocks[i], "description.inputs", {"feature", "offset", "width"}, status);
    if (block.Text("feature") == feature) return block.Count("width");
  }
  reader.Fail(": '" + std::string(feature) + "' is missing");
  return 0;
}

// The tower `passive` has the objectives of group passive, `active` all others, in their order.
std::vector<std::int64_t> ObjectivesOf(const RankerDescription& description,
                                       std::string_view tower) {
  std::vector<std::int64_t> objectives;
  for (std::int64_t k = 0; k < description.num_objectives(); ++k) {
    const scorer::Group group = description.objectives[static_cast<std::size_t>(k)].group;
    if ((group == scorer::Group::kPassive) == (tower == "passive")) objectives.push_back(k);
  }
  return objectives;
}

Json Blocks(std::int64_t offset, const std::vector<std::pair<const char*, std::int64_t>>& widths) {
  Json blocks = Json::array();
  for (const auto& [feature, width] : widths) {
    blocks.push_back({{"feature", feature}, {"offset", offset}, {"width", width}});
    offset += width;
  }
  return blocks;
}

// `inputs` as the dimensions and names imply it.
Json InputsOf(const RankerDescription& d) {
  return {{"viewer", Blocks(0, {{"viewer", d.member_dim},
                                {"history_members", d.member_dim},
                                {"history_hashtags", d.hashtag_dim},
                                {"shared", d.num_shared()}})},
          {"candidate", Blocks(d.num_viewer_inputs(), {{"actor", d.member_dim},
                                                       {"root_actor", d.member_dim},
                                                       {"hashtags", d.hashtag_dim},
                                                       {"leaves", d.leaf_dim},
                                                       {"dense", d.num_dense()}})}};
}

void ReadObjectives(Reader& reader, RankerDescription& description, Status& status) {
  const Json& objectives = reader.Array("objectives");
  std::set<std::string> seen;
  for (std::size_t i = 0; i < objectives.size() && status.ok(); ++i) {
    Reader entry(objectives[i], Element("objectives", i), {"name", "group", "weight"}, status);
    Objective objective{entry.Text("name"), entry.Named("group", scorer::ParseGroup)};
    description.tradeoff.weights.push_back(entry.Number("weight"));
    if (objective.name.empty()) entry.Fail(": 'name' is empty");
    if (!seen.insert(objective.name).second) entry.Fail(": '" + objective.name + "' occurs twice");
    description.objectives.push_back(std::move(objective));
  }
  if (objectives.empty()) reader.Fail(": there is no objective");
  description.tradeoff.alpha = reader.Number("alpha");
  description.tradeoff.lambda = reader.Number("lambda");
  if (!status.ok()) return;
  if (const Status valid = scorer::ValidateTradeoff(description.tradeoff, description.groups());
      !valid.ok())
    reader.Fail(": " + valid.message());
}

void ReadTowers(Reader& reader, std::int64_t version, RankerDescription& description,
                Status& status) {
  const Json& towers = reader.Array("towers");
  std::set<std::string> seen;
  for (std::size_t t = 0; t < towers.size() && status.ok(); ++t) {
    Reader entry(towers[t], Element("towers", t), {"name", "objectives", "layers"}, status);
    TowerDescription tower;
    tower.name = entry.Text("name");
    tower.objectives = ObjectivesOf(description, tower.name);
    if ((tower.name != "passive" && tower.name != "active") || tower.objectives.empty() ||
        !seen.insert(tower.name).second)
      entry.Fail(": '" + tower.name + "' is no tower of these objectives, or occurs twice");
    std::vector<std::string> names;
    for (const std::int64_t k : tower.objectives)
      names.push_back(description.objectives[static_cast<std::size_t>(k)].name);
    if (entry.Texts("objectives") != names)
      entry.Fail(": 'objectives' are not those of the tower's groups");
    const Json& layers = entry.Array("layers");
    for (std::size_t i = 0; i < layers.size() && status.ok(); ++i) {
      LayerDescription read;
      Reader layer(layers[i], Element("towers", t) + ".layers[" + std::to_string(i) + "]",
                   {"gate", "activation", version == 1 ? "gate" : "precision"}, status);
      read.gate = layer.Named("gate", ParseGate);
      read.activation = layer.Named("activation", ParseActivation);
      if (version > 1) read.precision = layer.Named("precision", ParsePrecision);
      tower.layers.push_back(read);
    }
    description.towers.push_back(std::move(tower));
  }
  for (const char* tower : {"passive", "active"})
    if (!ObjectivesOf(description, tower).empty() && seen.count(tower) == 0)
      reader.Fail(std::string(": tower '") + tower + "' is missing");
}

void ReadCross(Reader reader, RankerDescription& description, Status& status) {
  CrossDescription cross;
  cross.num_layers = reader.Count("layers");
  cross.rank = reader.Get("rank").is_null() ? 0 : reader.Count("rank");
  cross.precision = reader.Named("precision", ParsePrecision);
  if (status.ok() && (cross.num_layers < 1 || (cross.rank < 1 && !reader.Get("rank").is_null())))
    reader.Fail(": 'layers' and 'rank' must be at least 1");
  description.cross = cross;
}

// 1 or 2, of a ranker.
std::int64_t ReadVersion(const Json& value, Status& status) {
  const auto of = [&value](const char* key) {
    return value.is_object() && value.contains(key) ? value[key] : Json();
  };
  const Json version = of("ranker_version");
  if (of("kind") != "ranker") {
    status = DataLoss("description: kind ", CanonicalJson(of("kind")), " is not \"ranker\"");
  } else if (!version.is_number_unsigned() || version < 1 || version > 2) {
    status = DataLoss("description: ranker_version ", CanonicalJson(version),
                      " is unknown; this build reads 1, 2");
  }
  return status.ok() ? version.get<std::int64_t>() : 0;
}

}  // namespace

std::vector<scorer::Group> RankerDescription::groups() const {
  std::vector<scorer::Group> groups;
  groups.reserve(objectives.size());
  for (const Objective& objective : objectives) groups.push_back(objective.group);
  return groups;
}

StatusOr<RankerDescription> ParseDescription(const Json& value) {
  Status status;
  const std::int64_t version = ReadVersion(value, status);
  if (!status.ok()) return status;
  Reader reader(
      value, "description",
      {"kind", "ranker_version", "shared_names", "dense_names", "history", "inputs", "objectives",
       "alpha", "lambda", "towers", "random_effects_version", version == 1 ? "kind" : "cross"},
      status);

  RankerDescription description;
  description.shared_names = reader.Texts("shared_names");
  description.dense_names = reader.Texts("dense_names");
  Reader history = reader.Child("history", {"max_members", "max_hashtags"});
  description.max_history_members = history.Count("max_members", kMaxAny);
  description.max_history_hashtags = history.Count("max_hashtags", kMaxAny);
  const Json& inputs = reader.Get("inputs");
  description.member_dim = WidthOf(inputs, "viewer", "viewer", status);
  description.hashtag_dim = WidthOf(inputs, "candidate", "hashtags", status);
  description.leaf_dim = WidthOf(inputs, "candidate", "leaves", status);
  ReadObjectives(reader, description, status);
  ReadTowers(reader, version, description, status);
  description.random_effects_version = reader.Count("random_effects_version", kMaxAny);
  if (value.contains("cross"))
    ReadCross(reader.Child("cross", {"layers", "rank", "precision"}), description, status);
  if (!status.ok()) return status;
  if (inputs != InputsOf(description))
    return DataLoss("description: 'inputs' are not the columns that names and widths imply");
  return description;
}

}  // namespace feedfast::ranker
