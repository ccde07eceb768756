#include "cpp/model_store/json.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

namespace feedfast::model_store {
namespace {

// Builds the document while nlohmann's parser, which does not recurse, runs over the text.
// Returning false ends the parse; error() then says why.
class DocumentBuilder : public nlohmann::json_sax<Json> {
 public:
  explicit DocumentBuilder(RepeatedNames repeated) : repeated_(repeated) {}

  Json& document() { return document_; }
  const std::string& error() const { return error_; }

  bool null() override { return Add(Json()) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t& text) override {
    // The parser turns integers that fit nowhere else into floats.
    if (text.find_first_of(".eE") == std::string::npos)
      return Fail("an integer of " + std::to_string(text.size()) + " digits is beyond 64 bits");
    return Add(value) != nullptr;
  }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t& /*value*/) override { return Fail("a binary value"); }

  bool start_object(std::size_t /*size*/) override { return Open(Json::object()); }
  bool key(string_t& name) override {
    if (repeated_ == RepeatedNames::kRefused && open_.back()->contains(name))
      return Fail("a name occurs twice");
    name_ = std::move(name);
    return true;
  }
  bool end_object() override { return Close(); }
  bool start_array(std::size_t /*size*/) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }

  bool parse_error(std::size_t position, const std::string& /*last_token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    return Fail("syntax error at byte " + std::to_string(position));
  }

 private:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  // Where the value lies now; nullptr: there are too many.
  Json* Add(Json value) {
    if (++num_values_ > kMaxJsonValues) {
      Fail("more than " + std::to_string(kMaxJsonValues) + " values");
      return nullptr;
    }
    Json* place = &document_;
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(Json());
      place = &open_.back()->back();
    } else if (!open_.empty()) {
      place = &(*open_.back())[std::move(name_)];
    }
    *place = std::move(value);
    return place;
  }
  // Only the innermost open container grows, so the places of the others stay.
  bool Open(Json container) {
    if (open_.size() >= kMaxJsonDepth)
      return Fail("deeper than " + std::to_string(kMaxJsonDepth) + " levels");
    Json* place = Add(std::move(container));
    if (place == nullptr) return false;
    open_.push_back(place);
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  const RepeatedNames repeated_;
  Json document_;
  std::vector<Json*> open_;
  std::string name_;  // of the next value of an object
  std::int64_t num_values_ = 0;
  std::string error_;
};

void AppendEscape(unsigned unit, std::string& out) {
  constexpr char kDigits[] = "0123456789abcdef";
  out += "\\u";
  for (int shift = 12; shift >= 0; shift -= 4) out += kDigits[(unit >> shift) & 15U];
}

// The code point at text[i], and i behind it. Requires UTF-8, which the parser has checked.
unsigned NextCodePoint(std::string_view text, std::size_t& i) {
  const auto byte = [&text](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned lead = byte(i++);
  if (lead < 0x80) return lead;
  const int rest = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  unsigned point = lead & (0x3FU >> rest);
  for (int k = 0; k < rest; ++k) point = point << 6 | (byte(i++) & 0x3FU);
  return point;
}

void AppendString(std::string_view text, std::string& out) {
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const unsigned point = NextCodePoint(text, i);
    constexpr std::string_view kShort = "\"\\\b\f\n\r\t";
    constexpr std::string_view kLetters = "\"\\bfnrt";
    const std::size_t found =
        point < 0x80 ? kShort.find(static_cast<char>(point)) : std::string_view::npos;
    if (found != std::string_view::npos) {
      out += '\\';
      out += kLetters[found];
    } else if (point >= 0x20 && point < 0x7F) {
      out += static_cast<char>(point);
    } else if (point < 0x10000) {
      AppendEscape(point, out);
    } else {
      AppendEscape(0xD800 + ((point - 0x10000) >> 10), out);
      AppendEscape(0xDC00 + ((point - 0x10000) & 0x3FF), out);
    }
  }
  out += '"';
}

void AppendFloat(double value, std::string& out) {
  std::array<char, 32> buffer{};
  const auto written = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                     std::chars_format::scientific);
  std::string_view text(buffer.data(), static_cast<std::size_t>(written.ptr - buffer.data()));
  if (text.front() == '-') {
    out += '-';
    text.remove_prefix(1);
  }
  const std::size_t e = text.find('e');
  const int exponent = std::atoi(text.data() + e + 1);  // zeros follow the text
  std::string digits(text.substr(0, 1));
  if (e > 2) digits += text.substr(2, e - 2);
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out.append(".").append(digits, 1);
    out += exponent < 0 ? "e-" : "e+";
    const int magnitude = std::abs(exponent);
    if (magnitude < 10) out += '0';
    out += std::to_string(magnitude);
  } else if (exponent < 0) {
    out.append("0.").append(static_cast<std::size_t>(-exponent - 1), '0').append(digits);
  } else {
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() <= whole) digits.append(whole + 1 - digits.size(), '0');
    out.append(digits, 0, whole).append(".").append(digits, whole);
  }
}

// As deep as kMaxJsonDepth.
void AppendValue(const Json& value, std::string& out) {  // NOLINT(misc-no-recursion)
  if (value.is_object()) {
    char before = '{';
    for (const auto& [name, member] : value.get_ref<const Json::object_t&>()) {
      out += std::exchange(before, ',');
      AppendString(name, out);
      out += ':';
      AppendValue(member, out);
    }
    out += before == '{' ? "{}" : "}";
  } else if (value.is_array()) {
    char before = '[';
    for (const Json& element : value) {
      out += std::exchange(before, ',');
      AppendValue(element, out);
    }
    out += before == '[' ? "[]" : "]";
  } else if (value.is_string()) {
    AppendString(value.get_ref<const std::string&>(), out);
  } else if (value.is_number_float()) {
    AppendFloat(value.get<double>(), out);
  } else if (value.is_number_unsigned()) {
    out += std::to_string(value.get<std::uint64_t>());
  } else if (value.is_number_integer()) {
    out += std::to_string(value.get<std::int64_t>());
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? "true" : "false";
  } else {
    out += "null";
  }
}

}  // namespace

StatusOr<Json> ParseJson(Span<const std::uint8_t> text, RepeatedNames repeated) {
  // The parser takes a NUL for the end of the text, and skips a byte order mark.
  if (text.empty() || text[0] == 0xEF ||
      std::memchr(text.data(), 0, static_cast<std::size_t>(text.size())) != nullptr)
    return DataLoss("not JSON: empty, or with a NUL or a byte order mark");
  DocumentBuilder builder(repeated);
  if (!Json::sax_parse(text.begin(), text.end(), &builder))
    return DataLoss("not JSON: ", builder.error());
  return std::move(builder.document());
}

std::string CanonicalJson(const Json& value) {
  std::string out;
  AppendValue(value, out);
  return out;
}

}  // namespace feedfast::model_store
