#ifndef FEEDFAST_TESTS_CPP_TREE_ENCODER_TEST_DATA_H_
#define FEEDFAST_TESTS_CPP_TREE_ENCODER_TEST_DATA_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace feedfast::tree_encoder {

using Bytes = std::vector<std::uint8_t>;

// A file of tests/data.
inline Bytes ReadTestData(const std::string& name) {
  const std::string path = std::string(FEEDFAST_TEST_DATA) + "/" + name;
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return Bytes(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

}  // namespace feedfast::tree_encoder

#endif  // FEEDFAST_TESTS_CPP_TREE_ENCODER_TEST_DATA_H_
