// The rows of a matrix nearest to queries by cosine: Q queries, N rows of width D, k results.
//
// A cosine does not depend on how long a row is: rows of any finite numbers have theirs, also where
// float holds neither their squares nor their products. These few are computed a second time.
#pragma once

#include <cstdint>

#include "cpu_level.h"

namespace ironcliw {

enum class SearchType : int { float32, bfloat16, float16, int8 };

struct SearchRows {
  const void* values;   // [N, D]
  SearchType type;
  const float* scales;  // [N], which the rows are multiplied with; null: 1
  const float* norms;   // [N], of the multiplied rows; null: computed
  int64_t width;
};

struct SearchQueries {
  const float* values;   // [Q, D]
  const float* inverse;  // [Q], 1 over the norm of each; 0 where that is 0
  int64_t count;
};

// The best of the rows seen so far, for each query: a heap with the worst on top. A result is one
// number: the score in the high half, so that NaN comes last of all, the complement of the row's index
// in the low half, so that of equal scores the first row is the better one. The k best are one set,
// however the rows were divided, and so is their order.
struct SearchHeaps {
  uint64_t* results;  // [Q, k]
  int64_t* sizes;     // [Q]
  int64_t k;
};

struct SearchKernels {
  // Of queries; false where float cannot hold the squares of some, which `even_out` is for.
  bool (*inverse_norms)(const float* rows, int64_t count, int64_t width, float* out);
  // Divides such rows by their largest magnitude, which leaves their cosines as they are.
  void (*even_out)(float* rows, int64_t count, int64_t width);
  // Adds rows [begin, end) to the heaps. Below 2^32 rows.
  void (*scan)(const SearchQueries& queries, const SearchRows& rows, int64_t begin, int64_t end, const SearchHeaps& heaps);
  void (*merge)(const SearchHeaps& from, int64_t query, const SearchHeaps& to);
  // The heap's results, best first; empties it.
  void (*finish)(const SearchHeaps& heaps, int64_t query, float* scores, int64_t* indices);
};
IRONCLIW_TABLES(SearchKernels, search)

}  // namespace ironcliw
