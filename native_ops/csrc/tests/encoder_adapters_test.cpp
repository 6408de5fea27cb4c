#include <algorithm>
#include <cstring>

#include "kernels/encoder.h"
#include "tests/check.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

constexpr int64_t kLayers = 2, kWidth = 40, kHeads = 4, kInner = 70, kWords = 50, kPlaces = 80;

using Values = std::vector<float>;

Values scaled(size_t count, unsigned seed, float scale, float shift = 0) {
  auto values = normals(count, seed);
  for (auto& value : values) value = value * scale + shift;
  return values;
}

EncoderNumber side_of(EncoderNumber number) { return number == EncoderNumber::int8 ? EncoderNumber::bf16 : number; }

std::vector<uint8_t> packed_of(EncoderNumber number, const Values& weight, int64_t outputs, int64_t inputs) {
  std::vector<uint8_t> packed(static_cast<size_t>(encoder_packed_bytes(number, outputs, inputs)));
  encoder_pack(number, weight.data(), outputs, inputs, packed.data());
  return packed;
}

struct Shape { int64_t outputs, inputs; };
Shape shape_of(int64_t part) { return {part == 4 ? kInner : kWidth, part == 5 ? kInner : kWidth}; }

// Of one part: A [ranks, inputs] and B [outputs, ranks].
struct Change {
  int64_t ranks = 0;
  Values a, b;
};

struct Adapter {
  Adapter(EncoderNumber number, std::vector<int64_t> ranks_of_part, unsigned seed) {
    for (int64_t i = 0; i < kLayers * kEncoderParts; ++i) {
      const auto part = i % kEncoderParts, ranks = ranks_of_part[static_cast<size_t>(part)];
      const auto [outputs, inputs] = shape_of(part);
      Change change{ranks, scaled(static_cast<size_t>(ranks * inputs), seed + 2 * i, 1 / std::sqrt(float(inputs))), scaled(static_cast<size_t>(outputs * ranks), seed + 2 * i + 1, 0.5f / std::sqrt(float(ranks + 1)))};
      EncoderLowRank packed{nullptr, nullptr, ranks};
      if (ranks > 0) {
        const int64_t lead = encoder_lead(part, kWidth);
        Values filled(static_cast<size_t>((lead + outputs) * ranks));
        std::copy(change.b.begin(), change.b.end(), filled.begin() + lead * ranks);
        bytes.push_back(packed_of(side_of(number), change.a, ranks, inputs));
        packed.a = bytes.back().data();
        bytes.push_back(packed_of(side_of(number), filled, lead + outputs, ranks));
        packed.b = bytes.back().data();
      }
      changes.push_back(std::move(change));
      low_ranks.push_back(packed);
    }
  }
  std::vector<Change> changes;
  std::vector<EncoderLowRank> low_ranks;
  std::vector<std::vector<uint8_t>> bytes;
};

// Of random weights, to which those of an adapter are added where one is given.
struct Model {
  explicit Model(EncoderNumber number, const Adapter* merged = nullptr) {
    Shape shapes[] = {{3 * kWidth, kWidth}, {kWidth, kWidth}, {kInner, kWidth}, {kWidth, kInner}};
    bytes.reserve(4 * kLayers), vectors.reserve(8 * kLayers + 4);
    for (int64_t i = 0; i < kLayers; ++i) {
      EncoderLayer layer{};
      EncoderLinear* const linears[] = {&layer.qkv, &layer.attention_out, &layer.up, &layer.down};
      for (int64_t j = 0; j < 4; ++j) {
        const auto [outputs, inputs] = shapes[j];
        auto weight = scaled(static_cast<size_t>(outputs * inputs), unsigned(100 + 10 * i + j), 1 / std::sqrt(float(inputs)));
        for (int64_t part = j == 0 ? 0 : j + 2; merged && part < (j == 0 ? 3 : j + 3); ++part) add(merged->changes[static_cast<size_t>(i * kEncoderParts + part)], weight.data() + (j == 0 ? part * kWidth * kWidth : 0), shape_of(part));
        bytes.push_back(packed_of(j == 0 ? side_of(number) : number, weight, outputs, inputs));
        *linears[j] = {bytes.back().data(), vector(outputs, 0.1f, 0), outputs, inputs};
      }
      layer.attention_norm = {vector(kWidth, 0.1f, 1), vector(kWidth, 0.1f, 0)};
      layer.norm = {vector(kWidth, 0.1f, 1), vector(kWidth, 0.1f, 0)};
      layers.push_back(layer);
    }
    view = {layers.data(), kLayers, kWidth, kHeads, kInner, 1e-6f, EncoderActivation::gelu, number, {vector(kWidth, 0.1f, 1), vector(kWidth, 0.1f, 0)}, vector(kPlaces * kWidth, 1, 0), vector(kWords * kWidth, 1, 0), false};
  }

  EncoderModel view;

 private:
  const float* vector(int64_t size, float scale, float shift) {
    vectors.push_back(scaled(static_cast<size_t>(size), unsigned(1000 + vectors.size()), scale, shift));
    return vectors.back().data();
  }
  static void add(const Change& change, float* weight, Shape shape) {
    for (int64_t n = 0; n < shape.outputs; ++n)
      for (int64_t k = 0; k < shape.inputs; ++k) {
        double sum = 0;
        for (int64_t r = 0; r < change.ranks; ++r) sum += double(change.b[n * change.ranks + r]) * change.a[r * shape.inputs + k];
        weight[n * shape.inputs + k] += static_cast<float>(sum);
      }
  }
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<Values> vectors;
  std::vector<EncoderLayer> layers;
};

// Texts of these lengths, each under the adapter of its number; -1: none.
Values run(Level level, const Model& model, const std::vector<int64_t>& lengths, int64_t first_token, const std::vector<const Adapter*>& adapters, const std::vector<int32_t>& under, int64_t parts = 1) {
  std::vector<int32_t> starts{0}, tokens;
  for (const auto length : lengths) starts.push_back(starts.back() + static_cast<int32_t>(length));
  for (int64_t i = 0; i < starts.back(); ++i) tokens.push_back(static_cast<int32_t>((first_token + i) * 7 % kWords));
  std::vector<EncoderLowRank> changes;
  EncoderAdapters given{nullptr, 0, under.empty() ? nullptr : under.data()};
  for (const auto* adapter : adapters) {
    given.columns = std::max(given.columns, encoder_columns(adapter->low_ranks.data(), kLayers));
    changes.insert(changes.end(), adapter->low_ranks.begin(), adapter->low_ranks.end());
  }
  given.changes = changes.data();
  const EncoderTexts texts{starts.data(), static_cast<int64_t>(lengths.size())};
  const auto& kernels = encoder(level);
  const auto bytes = static_cast<size_t>(kernels.forward_bytes(model.view, texts, given, parts));
  // what is read before it is written shows as NaN
  std::vector<uint8_t> work(bytes + 64, 0xff);
  uint8_t* aligned = work.data() + (64 - reinterpret_cast<uintptr_t>(work.data()) % 64) % 64;
  Values out(static_cast<size_t>(starts.back() * kWidth));
  const auto one_by_one = [](void*, int64_t count, void (*body)(void*, int64_t), void* context) {
    for (int64_t part = 0; part < count; ++part) body(context, part);
  };
  kernels.forward(model.view, tokens.data(), texts, given, out.data(), aligned, {parts, one_by_one, nullptr});
  return out;
}

constexpr EncoderNumber kNumbers[] = {EncoderNumber::f32, EncoderNumber::bf16, EncoderNumber::int8};

bool same(const Values& a, const float* b) { return std::memcmp(a.data(), b, a.size() * 4) == 0; }

}  // namespace

TEST(encoder_adapters_are_as_merged_weights) {
  for (const bool tiles : {true, false}) {
    encoder_use_tiles(tiles);
    for (const auto number : kNumbers) {
      const double tolerance = number == EncoderNumber::f32 ? 1e-4 : number == EncoderNumber::bf16 ? 0.05 : 0.2;
      for (const auto& ranks : {std::vector<int64_t>{16, 16, 16, 16, 16, 16}, {1, 0, 33, 0, 70, 3}, {0, 5, 0, 17, 0, 32}}) {
        const Adapter adapter(number, ranks, 11);
        const Model model(number), merged(number, &adapter);
        const auto found = run(level, model, {3, 40, 1, 60}, 0, {&adapter}, {0, 0, 0, 0}), expected = run(level, merged, {3, 40, 1, 60}, 0, {}, {});
        for (size_t i = 0; i < found.size(); ++i) CHECK(close(found[i], expected[i], tolerance), "number %d, row %d: %g for %g", int(number), int(i / kWidth), found[i], expected[i]);
      }
    }
  }
  encoder_use_tiles(true);
}

TEST(encoder_adapters_leave_each_text_its_own_bits) {
  const std::vector<int64_t> lengths{5, 70, 1, 33, 16, 2, 9, 31};
  const std::vector<int32_t> under{1, 0, -1, 2, -1, 1, 1, 0};
  for (const bool tiles : {true, false}) {
    encoder_use_tiles(tiles);
    for (const auto number : kNumbers) {
      const Model model(number);
      const Adapter one(number, {16, 16, 16, 16, 16, 16}, 21), two(number, {40, 3, 0, 0, 1, 64}, 22), three(number, {0, 0, 7, 0, 0, 0}, 23);
      const std::vector<const Adapter*> all{&one, &two, &three};
      const auto together = run(level, model, lengths, 0, all, under);
      CHECK(same(together, run(level, model, lengths, 0, all, under, 3).data()), "in three parts");
      int64_t first = 0;
      for (size_t i = 0; i < lengths.size(); first += lengths[i++]) {
        const auto plain = run(level, model, {lengths[i]}, first, {}, {});
        const auto alone = under[i] < 0 ? plain : run(level, model, {lengths[i]}, first, {all[static_cast<size_t>(under[i])]}, {0});
        CHECK(same(alone, together.data() + first * kWidth), "number %d, text %d", int(number), int(i));
        CHECK(under[i] < 0 || !same(plain, together.data() + first * kWidth), "number %d, text %d", int(number), int(i));
      }
    }
  }
  encoder_use_tiles(true);
}
