#include "kernels/search.h"

#include <cmath>

#include "simd/simd.h"

IRONCLIW_BEGIN

namespace {

// Types of rows behind one name; `count` below 16 only at a row's end.
struct Float32 {
  using Value = float;
  static Floats get(const float* p) { return load(p); }
};
struct Bfloat16 {
  using Value = uint16_t;
  static Floats get(const uint16_t* p) { return load_bf16(p); }
};
struct Float16 {
  using Value = uint16_t;
  static Floats get(const uint16_t* p) { return load_half(p); }
};
struct Int8 {
  using Value = int8_t;
  static Floats get(const int8_t* p) { return to_floats(load_int8(p)); }
};
template <class Row> Floats get_first(const typename Row::Value* p, int64_t count) {
  if (count >= 16) return Row::get(p);
  typename Row::Value lanes[16] = {};
  std::memcpy(lanes, p, sizeof(lanes[0]) * static_cast<size_t>(count));
  return Row::get(lanes);
}

#if defined(IRONCLIW_USE_AVX512)
constexpr int kRows = 4, kQueries = 4;
#else
constexpr int kRows = 2, kQueries = 2;  // 16 lanes are several registers here
#endif

// The rows after a tile, while it is computed: several streams at once are too many for the processor
// to foresee. An address behind the matrix is harmless, since nothing is read.
template <class Value> void prefetch_next(const Value* p, int64_t distance) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(p) + sizeof(Value) * static_cast<size_t>(distance)));
}

// Products of `rows` rows with `queries` queries, and of the rows with themselves. Each sum runs over
// the lanes in one order, whatever the tile. `fetch`: the rows come from memory.
template <class Row, int rows, int queries, bool squares, bool fetch>
void products(const typename Row::Value* matrix, const float* query, int64_t width, float* out, float* norms) {
  Floats sums[rows][queries], square[rows];
  for (int r = 0; r < rows; ++r) {
    square[r] = zero();
    for (int q = 0; q < queries; ++q) sums[r][q] = zero();
  }
  const auto step = [&](auto get_row, auto get_query) {
    Floats x[queries];
    for (int q = 0; q < queries; ++q) x[q] = get_query(query + q * width);
    for (int r = 0; r < rows; ++r) {
      const Floats y = get_row(matrix + r * width);
      if (squares) square[r] = fma(y, y, square[r]);
      for (int q = 0; q < queries; ++q) sums[r][q] = fma(x[q], y, sums[r][q]);
    }
  };
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    for (int r = 0; fetch && r < rows; ++r) prefetch_next(matrix + r * width + i, rows * width);
    step([&](const typename Row::Value* p) { return Row::get(p + i); }, [&](const float* p) { return load(p + i); });
  }
  if (i < width) {
    const int64_t count = width - i;
    step([&](const typename Row::Value* p) { return get_first<Row>(p + i, count); }, [&](const float* p) { return load_first(p + i, static_cast<int>(count)); });
  }
  for (int r = 0; r < rows; ++r) {
    if (squares) norms[r] = std::sqrt(sum(square[r]));
    for (int q = 0; q < queries; ++q) out[r * queries + q] = sum(sums[r][q]);
  }
}

// Whether a row's squares or its products with another row are lost at an end of float's range: from
// 1.8e19 on the sum of squares is infinite, below 1e-15 its terms near the subnormals. Not so for NaN.
bool extreme(float norm) { return norm < 1e-15f || norm > 1e19f; }

// The largest magnitude of an extreme row, which it can be divided by; 0 where there is none.
template <class Row> float largest_of(const typename Row::Value* row, int64_t width) {
  Floats most = zero();
  for (int64_t i = 0; i < width; i += 16) most = larger(abs(get_first<Row>(row + i, width - i)), most);
  const float found = largest(most);
  return std::isfinite(found) ? found : 0.0f;
}

template <class Row> float divided_norm(const typename Row::Value* row, float divisor, int64_t width) {
  Floats squares = zero();
  for (int64_t i = 0; i < width; i += 16) {
    const Floats y = get_first<Row>(row + i, width - i) / broadcast(divisor);
    squares = fma(y, y, squares);
  }
  return std::sqrt(sum(squares));
}

template <class Row> float divided_product(const typename Row::Value* row, float divisor, const float* query, int64_t width) {
  Floats total = zero();
  for (int64_t i = 0; i < width; i += 16)
    total = fma(get_first<Float32>(query + i, width - i), get_first<Row>(row + i, width - i) / broadcast(divisor), total);
  return sum(total);
}

uint64_t result_of(float score, int64_t index) {
  score += 0.0f;  // one zero
  uint32_t bits;
  std::memcpy(&bits, &score, 4);
  const uint32_t rising = score != score ? 0 : bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(rising) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}
float score_of(uint64_t result) {
  const uint32_t rising = static_cast<uint32_t>(result >> 32);
  if (rising == 0) return __builtin_nanf("");
  const uint32_t bits = rising ^ (rising >> 31 ? 0x80000000u : 0xffffffffu);
  float score;
  std::memcpy(&score, &bits, 4);
  return score;
}

// Moves the heap's top down to where it belongs.
void sink(uint64_t* heap, int64_t size) {
  const uint64_t moved = heap[0];
  int64_t at = 0;
  for (int64_t child; (child = 2 * at + 1) < size; at = child) {
    if (child + 1 < size && heap[child + 1] < heap[child]) ++child;
    if (heap[child] >= moved) break;
    heap[at] = heap[child];
  }
  heap[at] = moved;
}

void add(const SearchHeaps& heaps, int64_t query, uint64_t result) {
  uint64_t* const heap = heaps.results + query * heaps.k;
  int64_t& size = heaps.sizes[query];
  if (size == heaps.k) {
    if (result <= heap[0]) return;
    heap[0] = result;
    return sink(heap, size);
  }
  int64_t at = size++;
  for (; at > 0 && heap[(at - 1) / 2] > result; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
  heap[at] = result;
}

struct Scan {
  const SearchQueries& queries;
  const SearchRows& rows;
  const SearchHeaps& heaps;
};

// What makes a cosine of a row's product with a query.
struct Measure {
  float factor;   // scale over norm
  float divisor;  // of an extreme row, before the product; else 0
};

// `own`: the norm of the row's values, where none is given.
template <class Row> Measure measure_of(const SearchRows& rows, int64_t row, float own) {
  const float scale = rows.scales ? rows.scales[row] : 1.0f;
  const float norm = rows.norms ? rows.norms[row] : own * std::fabs(scale);
  const Measure plain = {norm == 0 ? 0.0f : scale / norm, 0.0f};
  if (!extreme(norm) || (rows.norms && norm == 0)) return plain;
  // int8 is never extreme itself, and of its scale a cosine needs no more than the sign
  if (rows.scales) return rows.norms || own == 0 || scale == 0 ? plain : Measure{scale / std::fabs(scale) / own, 0.0f};
  const auto* values = static_cast<const typename Row::Value*>(rows.values) + row * rows.width;
  const float divisor = largest_of<Row>(values, rows.width);
  if (divisor == 0) return plain;
  return {rows.norms ? divisor / norm : 1.0f / divided_norm<Row>(values, divisor, rows.width), divisor};
}

// Some queries against `count` rows from `row` on; the first of them measures the rows.
template <class Row, int count, int queries, bool first>
void tile(const Scan& scan, int64_t row, int64_t query, Measure* measures) {
  const int64_t width = scan.rows.width;
  float out[count * queries], norms[count];
  const bool wanted = first && !scan.rows.norms;
  const auto* matrix = static_cast<const typename Row::Value*>(scan.rows.values) + row * width;
  const float* values = scan.queries.values + query * width;
  if (wanted) products<Row, count, queries, true, first>(matrix, values, width, out, norms);
  else products<Row, count, queries, false, first>(matrix, values, width, out, norms);
  for (int r = 0; r < count; ++r) {
    if (first) measures[r] = measure_of<Row>(scan.rows, row + r, wanted ? norms[r] : 0.0f);
    const auto [factor, divisor] = measures[r];
    for (int q = 0; q < queries; ++q) {
      const float product = divisor == 0 ? out[r * queries + q] : divided_product<Row>(matrix + r * width, divisor, values + q * width, width);
      const float score = product * (factor * scan.queries.inverse[query + q]);
      add(scan.heaps, query + q, result_of(score, row + r));
    }
  }
}

template <class Row, int count> void tiles(const Scan& scan, int64_t row) {
  Measure measures[count];
  const int64_t total = scan.queries.count;
  int64_t query = 0;
  if (total >= kQueries) tile<Row, count, kQueries, true>(scan, row, 0, measures), query = kQueries;
  else tile<Row, count, 1, true>(scan, row, 0, measures), query = 1;
  for (; query + kQueries <= total; query += kQueries) tile<Row, count, kQueries, false>(scan, row, query, measures);
  for (; query < total; ++query) tile<Row, count, 1, false>(scan, row, query, measures);
}

template <class Row> void scan_rows(const Scan& scan, int64_t begin, int64_t end) {
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows) tiles<Row, kRows>(scan, row);
  for (; row < end; ++row) tiles<Row, 1>(scan, row);
}

void scan(const SearchQueries& queries, const SearchRows& rows, int64_t begin, int64_t end, const SearchHeaps& heaps) {
  if (queries.count == 0) return;
  const Scan all = {queries, rows, heaps};
  switch (rows.type) {
    case SearchType::float32: return scan_rows<Float32>(all, begin, end);
    case SearchType::bfloat16: return scan_rows<Bfloat16>(all, begin, end);
    case SearchType::float16: return scan_rows<Float16>(all, begin, end);
    case SearchType::int8: return scan_rows<Int8>(all, begin, end);
  }
}

bool inverse_norms(const float* rows, int64_t count, int64_t width, float* out) {
  bool ordinary = true;
  for (int64_t row = 0; row < count; ++row) {
    float product, norm;
    products<Float32, 1, 1, true, false>(rows + row * width, rows + row * width, width, &product, &norm);
    out[row] = norm == 0 ? 0.0f : 1.0f / norm;
    ordinary = ordinary && !extreme(norm);
  }
  return ordinary;
}

void even_out(float* rows, int64_t count, int64_t width) {
  for (int64_t row = 0; row < count; ++row, rows += width) {
    float product, norm;
    products<Float32, 1, 1, true, false>(rows, rows, width, &product, &norm);
    const float divisor = extreme(norm) ? largest_of<Float32>(rows, width) : 0.0f;
    for (int64_t i = 0; divisor != 0 && i < width; ++i) rows[i] /= divisor;
  }
}

void merge(const SearchHeaps& from, int64_t query, const SearchHeaps& to) {
  for (int64_t i = 0; i < from.sizes[query]; ++i) add(to, query, from.results[query * from.k + i]);
}

void finish(const SearchHeaps& heaps, int64_t query, float* scores, int64_t* indices) {
  uint64_t* const heap = heaps.results + query * heaps.k;
  int64_t& size = heaps.sizes[query];
  while (size > 0) {
    const uint64_t worst = heap[0];
    heap[0] = heap[--size];
    sink(heap, size);
    scores[size] = score_of(worst);
    indices[size] = static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(worst));
  }
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const SearchKernels IRONCLIW_TABLE(search);
const SearchKernels IRONCLIW_TABLE(search) = {IRONCLIW_LEVEL::inverse_norms, IRONCLIW_LEVEL::even_out, IRONCLIW_LEVEL::scan, IRONCLIW_LEVEL::merge, IRONCLIW_LEVEL::finish};
}  // namespace ironcliw
