#include "kernels/search.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>

#include "bind/bind.h"

namespace ironcliw {
namespace {

constexpr auto kSearch = "cosine_top_k";

SearchType type_of(const Tensor& matrix) {
  switch (matrix.scalar_type()) {
    case ScalarType::Float: return SearchType::float32;
    case ScalarType::BFloat16: return SearchType::bfloat16;
    case ScalarType::Half: return SearchType::float16;
    case ScalarType::Char: return SearchType::int8;
    default: break;
  }
  IRONCLIW_CHECK(false, kSearch, "matrix must be float32, bfloat16, float16 or int8; it is ", dtype_name(matrix.scalar_type()));
  return SearchType::float32;
}

std::optional<Tensor> checked(const char* name, const std::optional<Tensor>& t, int64_t rows) {
  if (!t) return std::nullopt;
  check_dtype(kSearch, name, *t, ScalarType::Float);
  check_dim(kSearch, name, *t, 1);
  check_size(kSearch, name, *t, 0, rows);
  return dense(*t);
}

// NaN is let through: it makes the row's score NaN, as the row's own NaN would.
void check_norms(const float* norms, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) IRONCLIW_CHECK(!(norms[i] < 0), kSearch, "norms must not be negative; row ", i, " has ", norms[i]);
}

std::tuple<Tensor, Tensor> cosine_top_k(const Tensor& queries, const Tensor& matrix, int64_t k, std::optional<Tensor> scales, std::optional<Tensor> norms) {
  check_dtype(kSearch, "queries", queries, ScalarType::Float);
  check_dim(kSearch, "queries", queries, 2);
  check_dim(kSearch, "matrix", matrix, 2);
  const SearchType type = type_of(matrix);
  const int64_t count = queries.size(0), rows = matrix.size(0), width = matrix.size(1);
  IRONCLIW_CHECK(rows > 0 && rows < (int64_t{1} << 32) && width > 0, kSearch, "matrix must have rows (below 2^32) and columns; its shape is ", shape_text(matrix));
  check_size(kSearch, "queries", queries, 1, width);
  IRONCLIW_CHECK(k >= 1 && k <= rows, kSearch, "k must be from 1 to the matrix's ", rows, " rows; it is ", k);
  IRONCLIW_CHECK((type == SearchType::int8) == scales.has_value(), kSearch, "scales must be given with an int8 matrix, and with no other");
  Tensor asked = dense(queries);
  const Tensor values = dense(matrix);
  const std::optional<Tensor> factors = checked("scales", scales, rows), lengths = checked("norms", norms, rows);
  if (lengths) check_norms(data<float>(*lengths), rows);
  const auto& kernels = search();
  Tensor inverse = torch::stable::new_empty(asked, {count});
  if (!kernels.inverse_norms(data<float>(asked), count, width, mutable_data<float>(inverse))) {
    const Tensor given = asked;  // perhaps the caller's own
    asked = torch::stable::new_empty(given, {count, width});
    std::copy_n(data<float>(given), count * width, mutable_data<float>(asked));
    kernels.even_out(mutable_data<float>(asked), count, width);
    kernels.inverse_norms(data<float>(asked), count, width, mutable_data<float>(inverse));
  }

  const SearchQueries sought = {data<float>(asked), data<float>(inverse), count};
  const SearchRows among = {values.const_data_ptr(), type, factors ? data<float>(*factors) : nullptr, lengths ? data<float>(*lengths) : nullptr, width};
  // a heap of its own for each piece of the matrix, of at least a quarter million values
  const int64_t piece_rows = 1 + (1 << 18) / width, most = (rows + piece_rows - 1) / piece_rows;
  const int64_t threads = aten_threads().count(), pieces = threads < most ? threads : most;
  const auto heap_size = static_cast<size_t>(count * k);
  const std::unique_ptr<uint64_t[]> results(new uint64_t[static_cast<size_t>(pieces) * heap_size]);
  const std::unique_ptr<int64_t[]> sizes(new int64_t[static_cast<size_t>(pieces * count)]());
  const auto heaps = [&](int64_t piece) { return SearchHeaps{results.get() + piece * count * k, sizes.get() + piece * count, k}; };
  aten_threads().parallel(pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) kernels.scan(sought, among, rows * piece / pieces, rows * (piece + 1) / pieces, heaps(piece));
  });
  Tensor scores = torch::stable::new_empty(asked, {count, k});
  Tensor indices = torch::stable::new_empty(asked, {count, k}, ScalarType::Long);
  for (int64_t query = 0; query < count; ++query) {
    for (int64_t piece = 1; piece < pieces; ++piece) kernels.merge(heaps(piece), query, heaps(0));
    kernels.finish(heaps(0), query, mutable_data<float>(scores) + query * k, mutable_data<int64_t>(indices) + query * k);
  }
  return {scores, indices};
}

const Binding binding([](Implementations& m) { m.impl("cosine_top_k", TORCH_BOX(&cosine_top_k)); });

}  // namespace
}  // namespace ironcliw
