// Built for AVX-512 VBMI alone; see ranked_forest.h for the form.
#include "cpp/tree_encoder/ranked_leaves_kernel.h"

#include <immintrin.h>

namespace feedfast::tree_encoder::avx512_vbmi {
namespace {

// Rows whose codes are made before their trees are read: the thresholds, then the trees stay in the
// first-level cache.
constexpr std::int64_t kBlockRows = 32;
// Trees whose outcomes wait in memory between comparing and walking, so that a load of eight does
// not wait for the stores before it.
constexpr std::int64_t kGroupTrees = 32;
constexpr std::int64_t kWordNodes = 64;

// codes[i * code_stride] = code of row i in a column of up to two blocks: how many of their values
// are no greater.
void RankInTwoBlocks(const RankedLeavesArgs& args, const RankedColumn& column, const float* x,
                     std::int64_t num_rows, std::int64_t code_stride, std::uint8_t* codes) {
  const float* const blocks = args.thresholds + column.first;
  const __m512 low = _mm512_load_ps(blocks);
  const __m512 high = _mm512_load_ps(blocks + kThresholdLanes);
  x += column.feature;
  for (std::int64_t i = 0; i < num_rows; ++i) {
    const __m512 value = _mm512_set1_ps(x[i * args.x_stride]);
    const __mmask32 reached = _mm512_kunpackw(_mm512_cmp_ps_mask(low, value, _CMP_LE_OQ),
                                              _mm512_cmp_ps_mask(high, value, _CMP_LE_OQ));
    codes[i * code_stride] = static_cast<std::uint8_t>(__builtin_popcount(reached));
  }
}

// The same with more blocks: the full ones below the value, then the one that it lies in.
void RankInBlocks(const RankedLeavesArgs& args, const RankedColumn& column, const float* x,
                  std::int64_t num_rows, std::int64_t code_stride, std::uint8_t* codes) {
  const float* const blocks = args.thresholds + column.first + kThresholdLanes;
  const __m512 lasts = _mm512_load_ps(args.thresholds + column.first);
  x += column.feature;
  for (std::int64_t i = 0; i < num_rows; ++i) {
    const __m512 value = _mm512_set1_ps(x[i * args.x_stride]);
    const int block = __builtin_popcount(_mm512_cmp_ps_mask(lasts, value, _CMP_LE_OQ));
    const __m512 thresholds = _mm512_load_ps(blocks + std::int64_t{kThresholdLanes} * block);
    const int rest = __builtin_popcount(_mm512_cmp_ps_mask(thresholds, value, _CMP_LE_OQ));
    codes[i * code_stride] = static_cast<std::uint8_t>(kThresholdLanes * block + rest);
  }
}

// codes[i * code_stride + c] = code of row i in column c.
void RankRows(const RankedLeavesArgs& args, const float* x, std::int64_t num_rows,
              std::int64_t code_stride, std::uint8_t* codes) {
  for (std::int64_t c = 0; c < args.num_columns; ++c) {
    const RankedColumn& column = args.columns[c];
    if (column.searched)
      RankInBlocks(args, column, x, num_rows, code_stride, codes + c);
    else
      RankInTwoBlocks(args, column, x, num_rows, code_stride, codes + c);
  }
}

// What the categorical splits make of one row, per feature: [2^depth / 64, padded trees].
class RowCategories {
 public:
  RowCategories(const RankedLeavesArgs& args, const float* x, std::int64_t words)
      : num_(args.num_categoricals) {
    for (std::int64_t i = 0; i < num_; ++i) {
      const RankedCategorical& categorical = args.categoricals[i];
      const float value = x[categorical.feature];
      std::int64_t row = categorical.num_categories + (value != value ? 1 : 0);
      if (value >= 0.0F && value < static_cast<float>(categorical.num_categories))
        row = static_cast<std::int64_t>(value);
      outcomes_[i] = args.category_outcomes + categorical.first + row * words;
    }
  }

  // `outcomes` of eight trees, and those of the categorical splits: word `at` and the seven behind.
  __m512i With(__m512i outcomes, std::int64_t at) const {
    for (std::int64_t i = 0; i < num_; ++i)
      outcomes = _mm512_or_si512(outcomes, _mm512_load_si512(outcomes_[i] + at));
    return outcomes;
  }

 private:
  std::int64_t num_;
  const std::uint64_t* outcomes_[kMaxRankedCategoricals];
};

// The codes of one row, ready to be looked up by node.
template <bool kWide>
struct RowCodes {
  __m512i table[kWide ? 4 : 2];

  explicit RowCodes(const std::uint8_t* codes) {
    table[0] = _mm512_load_si512(codes);
    if constexpr (kWide) {
      for (std::int64_t i = 1; i < 4; ++i) table[i] = _mm512_load_si512(codes + 64 * i);
    } else {
      table[1] = _mm512_sub_epi8(table[0], _mm512_set1_epi8(1));
    }
  }

  // Which of the 64 nodes that begin at `node` send the row right.
  __mmask64 Right(const RankedLeavesArgs& args, std::int64_t node) const {
    const __m512i column = _mm512_load_si512(args.node_columns + node);
    const __m512i rank = _mm512_load_si512(args.node_ranks + node);
    __m512i code = _mm512_permutex2var_epi8(table[0], column, table[1]);
    if constexpr (kWide) {
      const __m512i upper = _mm512_permutex2var_epi8(table[2], column, table[3]);
      code = _mm512_mask_mov_epi8(code, _mm512_movepi8_mask(column), upper);
      code = _mm512_mask_sub_epi8(code, args.missing_right[node / kWordNodes], code,
                                  _mm512_set1_epi8(1));
    }
    return _mm512_cmpgt_epu8_mask(code, rank);
  }
};

// h = 2 h + the bit `at` of `outcomes`.
inline __m512i Descend(__m512i h, __m512i outcomes, __m512i at) {
  constexpr int kOrAnd = 0xEA;  // c | (a & b)
  return _mm512_ternarylogic_epi64(_mm512_srlv_epi64(outcomes, at), _mm512_set1_epi64(1),
                                   _mm512_add_epi64(h, h), kOrAnd);
}

inline void Store(std::int32_t* out, __mmask8 lanes, __m256i rows, const std::int32_t*) {
  _mm256_mask_storeu_epi32(out, lanes, rows);
}
inline void Store(std::uint8_t* out, __mmask8 lanes, __m256i rows, const std::int32_t* offsets) {
  const __m256i ordinals = _mm256_sub_epi32(rows, _mm256_maskz_loadu_epi32(lanes, offsets));
  _mm256_mask_cvtepi32_storeu_epi8(out, lanes, ordinals);
}

template <int kDepth, bool kWide, typename Out>
void EncodeRow(const RankedLeavesArgs& args, const float* x, const std::uint8_t* codes, Out* out) {
  constexpr std::int64_t kNodes = std::int64_t{1} << kDepth;
  constexpr std::int64_t kWords = kNodes / kWordNodes;
  alignas(64) std::uint64_t outcomes[kWords * kGroupTrees];
  const RowCodes<kWide> row(codes);
  // The place of a leaf is kNodes above its index in `leaves`.
  const __m512i tree_of_lane = _mm512_slli_epi64(
      _mm512_sub_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(1)), kDepth);
  const std::int64_t padded_trees =
      (args.num_trees + kRankedTreeLanes - 1) / kRankedTreeLanes * kRankedTreeLanes;
  const RowCategories categories(args, x, kWords * padded_trees);
  for (std::int64_t group = 0; group < padded_trees; group += kGroupTrees) {
    const std::int64_t left = padded_trees - group;
    const std::int64_t num_trees = left < kGroupTrees ? left : kGroupTrees;
    for (std::int64_t i = 0; i < num_trees; ++i)
      for (std::int64_t word = 0; word < kWords; ++word)
        outcomes[word * kGroupTrees + i] =
            row.Right(args, (group + i) * kNodes + word * kWordNodes);
    for (std::int64_t i = 0; i < num_trees; i += kRankedTreeLanes) {
      const auto word = [&](std::int64_t index) {
        return categories.With(_mm512_load_si512(outcomes + index * kGroupTrees + i),
                               index * padded_trees + group + i);
      };
      const __m512i upper_levels = word(0);
      __m512i h = _mm512_set1_epi64(1);
      for (int level = 0; level < kMinRankedDepth; ++level) h = Descend(h, upper_levels, h);
      if constexpr (kDepth > 6) {  // h is 64..127: the bits of word 1
        h = Descend(h, word(1), _mm512_and_si512(h, _mm512_set1_epi64(63)));
      }
      if constexpr (kDepth > 7) {  // h is 128..255: the bits of words 2 and 3
        const __mmask8 in_upper = _mm512_test_epi64_mask(h, _mm512_set1_epi64(64));
        h = Descend(h, _mm512_mask_blend_epi64(in_upper, word(2), word(3)),
                    _mm512_and_si512(h, _mm512_set1_epi64(63)));
      }
      const std::int64_t tree = group + i;
      const __m256i rows =
          _mm512_i64gather_epi32(_mm512_add_epi64(h, tree_of_lane), args.leaves + tree * kNodes, 4);
      const std::int64_t lanes = args.num_trees - tree;
      const auto mask = static_cast<__mmask8>(lanes < 8 ? (1U << lanes) - 1U : 0xFFU);
      Store(out + tree, mask, rows, args.leaf_offsets + tree);
    }
  }
}

template <int kDepth, bool kWide, typename Out>
void EncodeRows(const RankedLeavesArgs& args, Out* out) {
  constexpr std::int64_t kCodeStride = kWide ? kMaxRankedColumns : kNarrowColumns;
  alignas(64) std::uint8_t codes[kBlockRows * kCodeStride] = {};  // unused columns stay 0
  for (std::int64_t block = 0; block < args.num_rows; block += kBlockRows) {
    const std::int64_t left = args.num_rows - block;
    const std::int64_t num_rows = left < kBlockRows ? left : kBlockRows;
    const float* const x = args.x + block * args.x_stride;
    RankRows(args, x, num_rows, kCodeStride, codes);
    for (std::int64_t i = 0; i < num_rows; ++i)
      EncodeRow<kDepth, kWide>(args, x + i * args.x_stride, codes + i * kCodeStride,
                               out + (block + i) * args.num_trees);
  }
}

template <typename Out>
void Encode(const RankedLeavesArgs& args, Out* out) {
  const bool wide = args.num_columns > kNarrowColumns;
  switch (args.depth) {
    case 6:
      return wide ? EncodeRows<6, true>(args, out) : EncodeRows<6, false>(args, out);
    case 7:
      return wide ? EncodeRows<7, true>(args, out) : EncodeRows<7, false>(args, out);
    default:
      return wide ? EncodeRows<8, true>(args, out) : EncodeRows<8, false>(args, out);
  }
}

}  // namespace

void EncodeRankedLeaves(const RankedLeavesArgs& args, std::int32_t* out) noexcept {
  Encode(args, out);
}

void EncodeRankedOrdinals(const RankedLeavesArgs& args, std::uint8_t* out) noexcept {
  Encode(args, out);
}

}  // namespace feedfast::tree_encoder::avx512_vbmi
