#include "kernels/search.h"

#include <algorithm>
#include <cstring>

#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

struct Found {
  std::vector<float> scores;
  std::vector<int64_t> indices;
};

// Scans the rows in pieces of `piece`.
Found run(Level level, const std::vector<float>& queries, const SearchRows& rows, int64_t count, int64_t k, int64_t piece) {
  const auto& kernels = search(level);
  const int64_t asked = int64_t(queries.size()) / rows.width, pieces = (count + piece - 1) / piece;
  std::vector<float> inverse(static_cast<size_t>(asked));
  std::vector<float> even = queries;
  if (!kernels.inverse_norms(queries.data(), asked, rows.width, inverse.data())) {
    kernels.even_out(even.data(), asked, rows.width);
    kernels.inverse_norms(even.data(), asked, rows.width, inverse.data());
  }
  std::vector<uint64_t> results(size_t(pieces * asked * k));
  std::vector<int64_t> sizes(size_t(pieces * asked), 0);
  const auto heaps = [&](int64_t p) { return SearchHeaps{results.data() + p * asked * k, sizes.data() + p * asked, k}; };
  for (int64_t p = 0; p < pieces; ++p) kernels.scan({even.data(), inverse.data(), asked}, rows, p * piece, std::min(count, (p + 1) * piece), heaps(p));
  Found found{std::vector<float>(size_t(asked * k)), std::vector<int64_t>(size_t(asked * k))};
  for (int64_t q = 0; q < asked; ++q) {
    for (int64_t p = 1; p < pieces; ++p) kernels.merge(heaps(p), q, heaps(0));
    kernels.finish(heaps(0), q, found.scores.data() + q * k, found.indices.data() + q * k);
  }
  return found;
}

double cosine(const float* a, const float* b, int64_t width) {
  double dot = 0, aa = 0, bb = 0;
  for (int64_t i = 0; i < width; ++i) {
    dot += double(a[i]) * b[i];
    aa += double(a[i]) * a[i];
    bb += double(b[i]) * b[i];
  }
  return dot / std::sqrt(aa * bb);
}

void check_found(Level level, const Found& found, const std::vector<float>& queries, const std::vector<float>& rows, int64_t width, int64_t k, double tolerance) {
  const int64_t count = int64_t(rows.size()) / width;
  for (size_t q = 0; q < queries.size() / size_t(width); ++q) {
    std::vector<double> all(static_cast<size_t>(count));
    for (int64_t n = 0; n < count; ++n) all[size_t(n)] = cosine(&queries[q * size_t(width)], &rows[size_t(n * width)], width);
    std::vector<double> sorted = all;
    std::sort(sorted.rbegin(), sorted.rend());
    for (size_t i = 0; i < size_t(k); ++i) {
      const float score = found.scores[q * size_t(k) + i];
      const auto index = size_t(found.indices[q * size_t(k) + i]);
      CHECK(index < all.size() && close(score, all[index], tolerance) && close(score, sorted[i], tolerance), "query %d rank %d: row %d, %g for %g", int(q), int(i), int(index), score, sorted[i]);
    }
  }
}

}  // namespace

TEST(search_finds_the_nearest_rows) {
  for (const int64_t width : {1, 15, 16, 33, 100}) {
    for (const int64_t asked : {1, 3, 4, 9}) {
      const int64_t count = 83, k = 7;
      const auto queries = normals(size_t(asked * width), 1), rows = normals(size_t(count * width), 2);
      const SearchRows matrix = {rows.data(), SearchType::float32, nullptr, nullptr, width};
      check_found(level, run(level, queries, matrix, count, k, count), queries, rows, width, k, 1e-6);
      const Found whole = run(level, queries, matrix, count, k, count);
      for (const int64_t piece : {1, 10, 40}) {
        const Found divided = run(level, queries, matrix, count, k, piece);
        CHECK(divided.scores == whole.scores && divided.indices == whole.indices, "pieces of %d", int(piece));
      }
    }
  }
}

TEST(search_reads_rows_of_every_type) {
  const int64_t width = 37, count = 50, k = 5;
  const auto queries = normals(size_t(2 * width), 3);
  auto rows = normals(size_t(count * width), 4);
  std::vector<uint16_t> brief(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &rows[i], 4);
    brief[i] = static_cast<uint16_t>(bits >> 16);
    bits &= 0xffff0000u;
    std::memcpy(&rows[i], &bits, 4);
  }
  check_found(level, run(level, queries, {brief.data(), SearchType::bfloat16, nullptr, nullptr, width}, count, k, 20), queries, rows, width, k, 1e-6);
  for (size_t i = 0; i < rows.size(); ++i) {  // halves of 1 to 2, with a sign
    brief[i] = static_cast<uint16_t>(0x3c00u | (i * 37 & 1023) | (i % 3 ? 0x8000u : 0));
    rows[i] = (1 + float(i * 37 & 1023) / 1024) * (i % 3 ? -1.0f : 1.0f);
  }
  check_found(level, run(level, queries, {brief.data(), SearchType::float16, nullptr, nullptr, width}, count, k, 20), queries, rows, width, k, 1e-6);
  std::vector<int8_t> small(rows.size());
  std::vector<float> scales(static_cast<size_t>(count));
  for (size_t n = 0; n < scales.size(); ++n) scales[n] = (n % 2 ? -0.01f : 0.5f) * float(n + 1);
  for (size_t i = 0; i < rows.size(); ++i) {
    small[i] = static_cast<int8_t>(int(i * 7919 % 255) - 127);
    rows[i] = float(small[i]) * scales[i / size_t(width)];
  }
  check_found(level, run(level, queries, {small.data(), SearchType::int8, scales.data(), nullptr, width}, count, k, 20), queries, rows, width, k, 1e-6);
}

TEST(search_keeps_the_first_of_equals_and_puts_nan_last) {
  const int64_t width = 20, count = 40;
  std::vector<float> rows(size_t(count * width), 1.0f);
  rows[3 * width] = NAN;
  for (int64_t i = 0; i < width; ++i) rows[size_t(30 * width + i)] = 0;
  const std::vector<float> query(width, 1.0f);
  const Found found = run(level, query, {rows.data(), SearchType::float32, nullptr, nullptr, width}, count, count, 7);
  for (int64_t i = 0, n = 0; i < count - 2; ++i, ++n) {
    while (n == 3 || n == 30) ++n;
    CHECK(found.indices[size_t(i)] == n, "rank %d: %d", int(i), int(found.indices[size_t(i)]));
  }
  CHECK(found.indices[38] == 30 && found.scores[38] == 0.0f);
  CHECK(found.indices[39] == 3 && std::isnan(found.scores[39]));
}

// Rows and queries of every size that float has, next to each other.
TEST(search_ranks_rows_of_any_size) {
  const int64_t width = 37, count = 76, asked = 10, k = 9;
  auto queries = normals(size_t(asked * width), 5), rows = normals(size_t(count * width), 6);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] *= std::pow(10.0f, float(int(i / size_t(width)) - 38));
  for (size_t i = 0; i < queries.size(); ++i) queries[i] *= std::pow(10.0f, float(8 * int(i / size_t(width)) - 37));
  const SearchRows matrix = {rows.data(), SearchType::float32, nullptr, nullptr, width};
  check_found(level, run(level, queries, matrix, count, k, 20), queries, rows, width, k, 1e-6);
  std::vector<float> norms(static_cast<size_t>(count));
  for (size_t n = 0; n < norms.size(); ++n) {
    double squares = 0;
    for (size_t i = 0; i < size_t(width); ++i) squares += double(rows[n * size_t(width) + i]) * rows[n * size_t(width) + i];
    norms[n] = float(std::sqrt(squares));
  }
  check_found(level, run(level, queries, {rows.data(), SearchType::float32, nullptr, norms.data(), width}, count, k, 20), queries, rows, width, k, 1e-6);
  // as bytes, of scales whose products with a row are infinite or subnormal
  std::vector<int8_t> small(rows.size());
  std::vector<float> scales(static_cast<size_t>(count));
  for (size_t n = 0; n < scales.size(); ++n) scales[n] = std::pow(10.0f, float(int(n) - 38)) * (n % 2 ? -1.0f : 1.0f);
  for (size_t i = 0; i < rows.size(); ++i) {
    small[i] = static_cast<int8_t>(int(i * 7919 % 255) - 127);
    rows[i] = float(small[i]) * (i / size_t(width) % 2 ? -1.0f : 1.0f);
  }
  check_found(level, run(level, queries, {small.data(), SearchType::int8, scales.data(), nullptr, width}, count, k, 20), queries, rows, width, k, 1e-6);
}

TEST(search_puts_infinite_rows_last) {
  const int64_t width = 20;
  std::vector<float> rows(3 * width, 1.0f), query(width, 1.0f);
  rows[3] = INFINITY;
  const Found found = run(level, query, {rows.data(), SearchType::float32, nullptr, nullptr, width}, 3, 3, 3);
  CHECK(found.indices == std::vector<int64_t>({1, 2, 0}) && std::isnan(found.scores[2]));
  query[3] = -INFINITY;
  for (const float score : run(level, query, {rows.data(), SearchType::float32, nullptr, nullptr, width}, 3, 3, 3).scores) CHECK(std::isnan(score), "%g", score);
}

TEST(search_takes_norms_as_given) {
  const int64_t width = 16;
  const std::vector<float> rows(2 * width, 1.0f), query(width, 1.0f), norms = {8.0f, 4.0f};
  const Found found = run(level, query, {rows.data(), SearchType::float32, nullptr, norms.data(), width}, 2, 2, 2);
  CHECK(found.indices[0] == 1 && close(found.scores[0], 1, 1e-6) && close(found.scores[1], 0.5, 1e-6));
}
