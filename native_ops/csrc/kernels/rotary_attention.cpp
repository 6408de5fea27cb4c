#include "kernels/rotary_attention.h"

#include <cmath>
#include <cstring>

#include "kernels/rotary_attention_products.h"

IRONCLIW_BEGIN

namespace {

constexpr int64_t kQueries = 32;  // whose weights over all keys are held at once

constexpr int64_t up_to(int64_t size, int64_t multiple) { return (size + multiple - 1) / multiple * multiple; }

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

void clear(float* at, int64_t count) { std::memset(at, 0, sizeof(float) * static_cast<size_t>(count)); }

// One head of one token, rotated, as floats, zeros behind it: x cos + (-x_2, x_1) sin, x_1 and x_2 its halves.
template <class Value> void read_token(const Value* x, const Value* cos, const Value* sin, int64_t width, int64_t padded, float* out) {
  for (int64_t i = width; i < padded; ++i) out[i] = 0.0f;
  if (!cos) {
    for (int64_t i = 0; i < width; i += 16) put(out + i, get(x + i, lanes(width, i)), lanes(width, i));
    return;
  }
  const int64_t half = width / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int n = lanes(half, i);
    const int64_t j = half + i;
    const Floats a = get(x + i, n), b = get(x + j, n);
    put(out + i, a * get(cos + i, n) - b * get(sin + i, n), n);
    put(out + j, fma(b, get(cos + j, n), a * get(sin + j, n)), n);
  }
}

// The gradient before the rotation, from that behind it: the transposed of `read_token`.
template <class Value> void write_token(const float* g, const Value* cos, const Value* sin, int64_t width, Value* out) {
  if (!cos) {
    for (int64_t i = 0; i < width; i += 16) put(out + i, get(g + i, lanes(width, i)), lanes(width, i));
    return;
  }
  const int64_t half = width / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int n = lanes(half, i);
    const int64_t j = half + i;
    const Floats a = get(g + i, n), b = get(g + j, n);
    put(out + i, fma(a, get(cos + i, n), b * get(sin + j, n)), n);
    put(out + j, b * get(cos + j, n) - a * get(sin + i, n), n);
  }
}

// What all blocks of a row use, and where its parts lie in the working memory.
template <class Value> struct Row {
  using Kind = typename KindOf<Value>::type;
  static constexpr int64_t unit = Kind::unit;

  Row(const RotaryAttentionInputs<Value>& in, int64_t first, int64_t end, float* memory)
      : in(in), first(first), length(end - first), padded(up_to(in.width, 16)), stride(up_to(length, 16) + 16), at(memory) {}

  float* take(int64_t floats) {
    float* taken = at;
    at += floats;
    return taken;
  }
  int64_t elements(int64_t numbers) const { return (numbers + unit - 1) / unit; }

  // tokens [from, from + count) of the row, of one head of x, which has `columns` in all
  void read(const Value* x, int64_t columns, int64_t head, int64_t from, int64_t count, bool rotate, float* out) const {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = first + from + i;
      const bool turn = rotate && in.cos;
      read_token(x + token * columns + head * in.width, turn ? in.cos + token * in.width : nullptr, turn ? in.sin + token * in.width : nullptr, in.width, padded, out + i * padded);
    }
  }
  void write(const float* g, int64_t from, bool rotate, int64_t columns, int64_t head, Value* out) const {
    const int64_t token = first + from;
    const bool turn = rotate && in.cos;
    write_token(g, turn ? in.cos + token * in.width : nullptr, turn ? in.sin + token * in.width : nullptr, in.width, out + token * columns + head * in.width);
  }

  const RotaryAttentionInputs<Value>& in;
  int64_t first, length;
  int64_t padded;  // width up to whole vectors
  int64_t stride;  // of what has a column for each token; not a power of two
  float* at;
};

// Keys or values of a row: for products that sum over a head's width, and over tokens.
template <class Value> struct Tokens {
  using Kind = typename KindOf<Value>::type;
  Tokens(Row<Value>& row, const Value* x, int64_t head, bool rotate, float* scratch, bool transposed, bool by_row) {
    float* kept = row.take(row.length * row.padded);
    float* plain = Row<Value>::unit == 1 ? kept : scratch;
    row.read(x, row.in.key_heads * row.in.width, head, 0, row.length, rotate, plain);
    if (transposed) {
      by_width = row.take(row.padded * row.stride);
      transpose(along_columns(Kind{}, plain, row.length, row.padded, kept), row.length, row.padded / Row<Value>::unit, by_width, row.stride);
    }
    if (by_row) by_token = along_rows(Kind{}, plain, row.length, row.padded, kept);
  }
  float* by_width = nullptr;        // [width / unit, stride]
  const float* by_token = nullptr;  // [ceil(length / unit), padded]
};

// A block of queries, or of the gradients of their outputs.
template <class Value> struct Queries {
  using Kind = typename KindOf<Value>::type;
  explicit Queries(Row<Value>& row) : row(row), plain(row.take(kQueries * row.padded)), columns(row.take(kQueries * row.padded)), rows(row.take(kQueries * row.padded)) {}
  void read(const Value* x, int64_t head, int64_t from, int64_t count, bool rotate) {
    row.read(x, row.in.heads * row.in.width, head, from, count, rotate, plain);
    clear(plain + count * row.padded, (up_to(count, kTileRows) - count) * row.padded);
    by_width = {along_columns(Kind{}, plain, up_to(count, kTileRows), row.padded, columns), row.padded / Row<Value>::unit, 1};
    by_token = {along_rows(Kind{}, plain, count, row.padded, rows), 1, row.padded};
  }
  Row<Value>& row;
  float *plain, *columns, *rows;
  Operand by_width{}, by_token{};  // [queries, width / unit]; transposed, [width, queries / unit]
};

// exp(scale (s - max)) of the first `count` of a row of products, zeros up to `columns`; gives their sum.
float exponentials(float* s, int64_t count, int64_t columns, float scale, float& maximum) {
  Floats most = broadcast(-INFINITY);
  for (int64_t j = 0; j < count; j += 16) most = larger(most, choose_first(lanes(count, j), load(s + j), most));
  maximum = largest(most);
  const Floats shift = broadcast(maximum), factor = broadcast(scale);
  Floats total = zero();
  for (int64_t j = 0; j < columns; j += 16) {
    Floats e = zero();
    if (j < count) e = choose_first(lanes(count, j), exp((load(s + j) - shift) * factor), zero());
    total = total + e;
    store(s + j, e);
  }
  return sum(total);
}

// Weights from products s, and in place of their gradients d those of the products, both for one query.
void softmax_gradient(float* s, float* d, int64_t count, int64_t columns, float scale, float logarithm) {
  const Floats factor = broadcast(scale), shift = broadcast(logarithm);
  Floats total = zero();
  for (int64_t j = 0; j < columns; j += 16) {
    Floats p = zero();
    if (j < count) p = choose_first(lanes(count, j), exp(load(s + j) * factor - shift), zero());
    total = fma(p, load(d + j), total);
    store(s + j, p);
  }
  const Floats mean = broadcast(sum(total));
  for (int64_t j = 0; j < columns; j += 16) store(d + j, load(s + j) * (load(d + j) - mean) * factor);
}

// Rows of floats become elements along their columns, where they are.
IRONCLIW_INLINE void pack_columns(Single, float*, int64_t, int64_t, int64_t) {}
IRONCLIW_INLINE const float* pack_rows(Single, float* rows, int64_t, int64_t, int64_t, float*) { return rows; }
#if defined(IRONCLIW_USE_BF16) && defined(IRONCLIW_USE_AVX512)
IRONCLIW_INLINE void pack_columns(Pairs, float* rows, int64_t count, int64_t columns, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) along_columns(Pairs{}, rows + i * stride, 1, columns, rows + i * stride);
}
// ... and along the rows, in `out`, which may be `rows`
IRONCLIW_INLINE const float* pack_rows(Pairs, float* rows, int64_t count, int64_t columns, int64_t stride, float* out) {
  for (int64_t i = 0; i < count; i += 2)
    for (int64_t j = 0; j < columns; j += 16) {
      const float* at = rows + i * stride + j;
      store(out + i / 2 * stride + j, pair(load(at), i + 1 < count ? load(at + stride) : zero()));
    }
  return out;
}
#endif

template <class Value>
void forward(const RotaryAttentionInputs<Value>& in, int64_t first, int64_t end, int64_t key_head, Value* out, float* sums, float* memory) {
  using Kind = typename KindOf<Value>::type;
  Row<Value> row(in, first, end, memory);
  const int64_t group = in.heads / in.key_heads, columns = in.heads * in.width;
  float* scratch = row.take(row.length * row.padded);
  const Tokens<Value> keys(row, in.k, key_head, true, scratch, true, false), values(row, in.v, key_head, false, scratch, false, true);
  Queries<Value> queries(row);
  float *weights = row.take(kQueries * row.stride), *found = row.take(kQueries * row.padded);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head)
    for (int64_t from = 0; from < row.length; from += kQueries) {
      const int64_t count = smaller(kQueries, row.length - from), tiled = up_to(count, kTileRows);
      const int64_t seen = from + count, wide = up_to(seen, 16);
      queries.read(in.q, head, from, count, true);
      product<Kind, false>(queries.by_width, keys.by_width, row.stride, row.padded / Kind::unit, tiled, wide, weights, row.stride);
      float totals[kQueries];
      for (int64_t i = 0; i < count; ++i) {
        float maximum;
        totals[i] = exponentials(weights + i * row.stride, from + i + 1, wide, in.scale, maximum);
        sums[head * in.tokens + first + from + i] = in.scale * maximum + std::log(totals[i]);
      }
      pack_columns(Kind{}, weights, count, wide, row.stride);
      product<Kind, false>({weights, row.stride, 1}, values.by_token, row.padded, row.elements(seen), tiled, row.padded, found, row.padded);
      for (int64_t i = 0; i < count; ++i) {
        float* line = found + i * row.padded;
        const Floats factor = broadcast(1.0f / totals[i]);
        for (int64_t j = 0; j < row.padded; j += 16) store(line + j, load(line + j) * factor);
        row.write(line, from + i, false, columns, head, out);
      }
    }
}

// Writes [width, stride] as rows of one head.
template <class Value> void write_transposed(const Row<Value>& row, const float* sums, bool rotate, int64_t head, float* line, Value* out) {
  for (int64_t token = 0; token < row.length; ++token) {
    for (int64_t i = 0; i < row.in.width; ++i) line[i] = sums[i * row.stride + token];
    row.write(line, token, rotate, row.in.key_heads * row.in.width, head, out);
  }
}

template <class Value>
void backward(const RotaryAttentionInputs<Value>& in, int64_t first, int64_t end, int64_t key_head, const Value* gradient, const float* sums, Value* for_q, Value* for_k, Value* for_v, float* memory) {
  using Kind = typename KindOf<Value>::type;
  Row<Value> row(in, first, end, memory);
  const int64_t group = in.heads / in.key_heads, columns = in.heads * in.width, depth = row.padded / Kind::unit;
  float* scratch = row.take(row.length * row.padded);
  const Tokens<Value> keys(row, in.k, key_head, true, scratch, true, true), values(row, in.v, key_head, false, scratch, true, false);
  Queries<Value> queries(row), gradients(row);
  float *weights = row.take(kQueries * row.stride), *products = row.take(kQueries * row.stride), *paired = row.take(kQueries * row.stride);
  float *found = row.take(kQueries * row.padded), *of_keys = row.take(row.padded * row.stride), *of_values = row.take(row.padded * row.stride);
  clear(of_keys, row.padded * row.stride);
  clear(of_values, row.padded * row.stride);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head)
    for (int64_t from = 0; from < row.length; from += kQueries) {
      const int64_t count = smaller(kQueries, row.length - from), tiled = up_to(count, kTileRows);
      const int64_t seen = from + count, wide = up_to(seen, 16), stride = row.stride;
      queries.read(in.q, head, from, count, true);
      gradients.read(gradient, head, from, count, false);
      product<Kind, false>(queries.by_width, keys.by_width, stride, depth, tiled, wide, weights, stride);
      product<Kind, false>(gradients.by_width, values.by_width, stride, depth, tiled, wide, products, stride);
      for (int64_t i = 0; i < count; ++i) softmax_gradient(weights + i * stride, products + i * stride, from + i + 1, wide, in.scale, sums[head * in.tokens + first + from + i]);
      const float* by_query = pack_rows(Kind{}, weights, count, wide, stride, weights);
      product<Kind, true>(gradients.by_token, by_query, stride, row.elements(count), row.padded, wide, of_values, stride);
      by_query = pack_rows(Kind{}, products, count, wide, stride, paired);
      product<Kind, true>(queries.by_token, by_query, stride, row.elements(count), row.padded, wide, of_keys, stride);
      pack_columns(Kind{}, products, count, wide, stride);
      product<Kind, false>({products, stride, 1}, keys.by_token, row.padded, row.elements(seen), tiled, row.padded, found, row.padded);
      for (int64_t i = 0; i < count; ++i) row.write(found + i * row.padded, from + i, true, columns, head, for_q);
    }
  write_transposed(row, of_keys, true, key_head, found, for_k);
  write_transposed(row, of_values, false, key_head, found, for_v);
}

}  // namespace

IRONCLIW_END

namespace ironcliw {
extern const RotaryAttentionKernels IRONCLIW_TABLE(rotary_attention);
const RotaryAttentionKernels IRONCLIW_TABLE(rotary_attention) = {{IRONCLIW_LEVEL::forward<float>, IRONCLIW_LEVEL::backward<float>}, {IRONCLIW_LEVEL::forward<uint16_t>, IRONCLIW_LEVEL::backward<uint16_t>}};
}  // namespace ironcliw
