#include "decoder.h"

#include <cstring>
#include <thread>

#include "kernels/cached_attention.h"
#include "tests/check.h"
#include "work_queue.h"

using namespace ironcliw;
using namespace ironcliw::test;

namespace {

int thread_count = 1;

// Each participant a thread of its own; the last ones start late, or when all is done.
const Threads plain_threads{
    [](int64_t count, int64_t, Threads::Body body, void* context) {
      std::vector<std::thread> threads;
      for (int64_t i = 0; i < count; ++i) threads.emplace_back([=] { body(context, i, i + 1); });
      for (auto& thread : threads) thread.join();
    },
    [] { return thread_count; }};

// A random model of the Llama family, and the numbers that describe it.
struct Model {
  static constexpr int64_t kWidth = 64, kHeads = 4, kKvHeads = 2, kHeadWidth = 16, kInner = 96, kLayers = 2, kVocabulary = 50, kContext = 200, kSlots = 3;
  std::vector<int64_t> numbers;
  std::vector<uint64_t> words;  // aligned for floats
  int64_t bytes = 0, slot = 0;
  unsigned seed = 1;

  explicit Model(Format format, int planes) {
    slot = kLayers * kKvHeads * cached_head_elements(kContext, kHeadWidth);
    const float epsilon = 1e-5f, scale = 0.25f;
    numbers = {kPlanVersion, 0, 0, 1, kWidth, kHeads, kKvHeads, kHeadWidth, kInner, kLayers, kVocabulary, kContext, kSlots, bits(epsilon), bits(scale), slot};
    const int64_t query = kHeads * kHeadWidth, key = kKvHeads * kHeadWidth;
    matrix(format, planes, kVocabulary, kWidth);
    matrix(format, planes, kVocabulary, kWidth);
    absent(1);
    vector(kWidth);
    absent(1, false);
    vector(kContext * kHeadWidth / 2);
    vector(kContext * kHeadWidth / 2);
    for (int64_t i = 0; i < kLayers; ++i) {
      for (const int64_t rows : {query, key, key}) matrix(format, planes, rows, kWidth);
      matrix(format, planes, kWidth, query);
      for (int k = 0; k < 2; ++k) matrix(format, planes, kInner, kWidth);
      matrix(format, planes, kWidth, kInner);
      vector(kWidth);
      absent(1, false);
      for (const int64_t size : {query, key, key}) vector(size);
      absent(3, false);
      vector(kWidth);
      absent(4, false);
    }
  }

  std::string read(DecoderPlan& plan) const { return read_plan(numbers.data(), int64_t(numbers.size()), reinterpret_cast<const uint8_t*>(words.data()), bytes, kSlots * slot, plan); }

 private:
  static int64_t bits(float x) {
    uint32_t value;
    std::memcpy(&value, &x, 4);
    return value;
  }
  uint8_t* add(int64_t size) {
    numbers.push_back(bytes);
    const int64_t at = bytes;
    bytes += (size + 63) / 64 * 64;
    words.resize(size_t(bytes / 8));
    return reinterpret_cast<uint8_t*>(words.data()) + at;
  }
  void absent(int count, bool is_matrix = true) {
    for (int i = 0; i < count; ++i) numbers.insert(numbers.end(), {-1});
    if (is_matrix) numbers.insert(numbers.end(), {0, 1});
  }
  void vector(int64_t size) {
    const auto values = normals(size_t(size), ++seed);
    std::memcpy(add(4 * size), values.data(), size_t(4 * size));
  }
  void matrix(Format format, int planes, int64_t rows, int64_t columns) {
    std::vector<uint8_t> source(size_t(rows * source_row_bytes(format, columns)));
    if (format == Format::f32) {
      const auto values = normals(size_t(rows * columns), ++seed);
      for (size_t i = 0; i < values.size(); ++i) {
        const float value = values[i] / 8;
        std::memcpy(&source[4 * i], &value, 4);
      }
    } else {  // q4_1: scale, offset, nibbles
      std::mt19937 draw(++seed);
      for (auto& byte : source) byte = uint8_t(draw());
      for (size_t i = 0; i < source.size(); i += 20) std::memcpy(&source[i], "\x00\x24\x00\xa8", 4);  // 1/64, -1/32
    }
    pack(format, source.data(), rows, columns, add(packed_bytes(format, rows, columns)));
    numbers.insert(numbers.end(), {int64_t(format), planes});
  }
};

struct Tokens {
  std::vector<int32_t> ids, positions, slots, rows;
  void add(int32_t id, int32_t position, int32_t slot) {
    rows.push_back(int32_t(ids.size()));
    ids.push_back(id);
    positions.push_back(position);
    slots.push_back(slot);
  }
};

// A random adapter of every matrix, in float32 or the bits of bfloat16, and its numbers.
struct Adapter {
  std::vector<int64_t> numbers;
  std::vector<uint64_t> words;

  Adapter(const DecoderPlan& plan, int64_t ranks, bool brief) : numbers{kAdapterVersion, brief ? 30 : 0, int64_t(plan.layers.size())} {
    const int64_t size = brief ? 2 : 4;
    const float scale = 0.5f;
    for (const auto& layer : plan.layers)
      for (int target = 0; target < kTargets; ++target) {
        const DecoderMatrix& matrix = target_matrix(layer, target);
        uint32_t bits;
        std::memcpy(&bits, &scale, 4);
        numbers.insert(numbers.end(), {ranks, int64_t(bits)});
        for (const int64_t count : {ranks * matrix.columns, ranks * matrix.groups() * kGroup}) {
          numbers.push_back(int64_t(8 * words.size()));
          const auto values = normals(size_t(count), unsigned(words.size() + 1));
          const size_t at = words.size();
          words.resize(at + size_t((size * count + 63) / 64 * 8));
          auto* out = reinterpret_cast<uint8_t*>(&words[at]);
          for (size_t i = 0; i < values.size(); ++i) {
            const float value = values[i] / 8;
            std::memcpy(out + size_t(size) * i, reinterpret_cast<const uint8_t*>(&value) + 4 - size, size_t(size));
          }
        }
      }
  }
  std::string read(const DecoderPlan& plan, DecoderAdapter& adapter) const {
    return read_adapter(numbers.data(), int64_t(numbers.size()), reinterpret_cast<const uint8_t*>(words.data()), int64_t(8 * words.size()), plan, adapter);
  }
};

// With adapters: slot 0 under the first, slot 2 under the second, slot 1 under none.
std::vector<float> run(Level level, const DecoderPlan& plan, std::vector<uint16_t>& cache, const Tokens& tokens, const std::vector<DecoderAdapter>* adapters = nullptr) {
  std::vector<float> logits(tokens.rows.size() * size_t(plan.vocabulary));
  std::vector<int32_t> owners;
  for (const int32_t slot : tokens.slots) owners.push_back(slot == 1 ? -1 : slot / 2);
  const DecoderStep step{tokens.ids.data(), tokens.positions.data(), tokens.slots.data(), int64_t(tokens.ids.size()), tokens.rows.data(), int64_t(tokens.rows.size()), adapters, owners.data()};
  run_decoder(plan, cache.data(), step, logits.data(), plain_threads, level);
  return logits;
}

int32_t token_at(int32_t slot, int32_t position) { return (slot * 31 + position * 7) % int32_t(Model::kVocabulary); }

}  // namespace

TEST(decoder_step_by_step_has_the_bits_of_the_whole) {
  for (const Format format : {Format::f32, Format::q4_1}) {
    const Model model(format, 2);
    DecoderPlan plan;
    CHECK(model.read(plan).empty());
    const int32_t lengths[] = {140, 20, 33};
    Tokens all;
    for (int32_t slot = 0; slot < 3; ++slot)
      for (int32_t t = 0; t < lengths[slot]; ++t) all.add(token_at(slot, t), t, slot);
    thread_count = 3;
    std::vector<uint16_t> cache(size_t(Model::kSlots * model.slot)), other = cache;
    const auto whole = run(level, plan, cache, all);
    thread_count = 1;
    size_t begin = 0;
    for (int32_t slot = 0; slot < 3; ++slot) {
      for (int32_t t = 0; t < lengths[slot];) {
        Tokens part;
        const int32_t end = std::min(lengths[slot], t + (t % 3 ? 1 : 12));
        for (; t < end; ++t) part.add(token_at(slot, t), t, slot);
        const auto logits = run(level, plan, other, part);
        CHECK(std::memcmp(logits.data(), &whole[begin], 4 * logits.size()) == 0, "format %d, slot %d, before %d", int(format), int(slot), int(t));
        begin += logits.size();
      }
    }
    CHECK(cache == other);
  }
}

TEST(decoder_step_under_adapters_has_the_bits_of_the_whole) {
  for (const Format format : {Format::f32, Format::q4_1}) {
    const Model model(format, 2);
    DecoderPlan plan;
    CHECK(model.read(plan).empty());
    std::vector<DecoderAdapter> adapters(2);
    const Adapter first(plan, 5, false), second(plan, 20, true);
    CHECK(first.read(plan, adapters[0]).empty() && second.read(plan, adapters[1]).empty());
    Tokens all;
    for (int32_t slot = 0; slot < 3; ++slot)
      for (int32_t t = 0; t < 40; ++t) all.add(token_at(slot, t), t, slot);
    thread_count = 3;
    std::vector<uint16_t> cache(size_t(Model::kSlots * model.slot)), other = cache, plain = cache;
    const auto whole = run(level, plan, cache, all, &adapters), base = run(level, plan, plain, all);
    const size_t slot_logits = 40 * size_t(Model::kVocabulary);
    for (size_t slot = 0; slot < 3; ++slot)
      CHECK((std::memcmp(&whole[slot * slot_logits], &base[slot * slot_logits], 4 * slot_logits) == 0) == (slot == 1), "slot %d", int(slot));
    for (int32_t t = 0; t < 40;) {  // all slots at once, in chunks of one token and of several
      Tokens part;
      const int32_t end = std::min(40, t + (t % 3 ? 1 : 12));
      for (int32_t slot = 0; slot < 3; ++slot)
        for (int32_t at = t; at < end; ++at) part.add(token_at(slot, at), at, slot);
      thread_count = 1 + t % 3;
      const auto logits = run(level, plan, other, part, &adapters);
      for (size_t i = 0; i < part.ids.size(); ++i) {
        const size_t row = size_t(part.slots[i] * 40 + part.positions[i]);
        CHECK(std::memcmp(&logits[i * Model::kVocabulary], &whole[row * Model::kVocabulary], 4 * Model::kVocabulary) == 0, "format %d, row %d", int(format), int(row));
      }
      t = end;
    }
    thread_count = 1;
    CHECK(cache == other);
  }
}

TEST(decoder_adapter_with_any_number_exchanged_is_refused_or_runs) {
  const Model model(Format::q4_1, 1);
  DecoderPlan plan;
  CHECK(model.read(plan).empty());
  const Adapter good(plan, 3, false);
  Tokens tokens;
  for (int32_t t = 0; t < 3; ++t) tokens.add(t, t, 0);
  int refused = 0, ran = 0;
  for (size_t place = 0; place < good.numbers.size(); ++place) {
    for (const int64_t value : {int64_t{-64}, int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{64}, int64_t{1024}, int64_t{1} << 31, int64_t{1} << 62}) {
      Adapter adapter = good;
      adapter.numbers[place] = value;
      std::vector<DecoderAdapter> read(1);
      const std::string wrong = adapter.read(plan, read[0]);
      refused += !wrong.empty();
      if (!wrong.empty()) continue;
      ++ran;
      std::vector<uint16_t> cache(size_t(Model::kSlots * model.slot));
      run(level, plan, cache, tokens, &read);
    }
  }
  CHECK(refused > 150 && ran > 50, "%d refused, %d ran", refused, ran);
}

// What the last layer leaves out changes neither the logits that are wanted nor what is cached.
TEST(decoder_step_gives_wanted_rows_the_bits_that_they_have_among_all) {
  for (const Format format : {Format::f32, Format::q4_1})
    for (const int32_t length : {6, 45}) {
      const Model model(format, 2);
      DecoderPlan plan;
      CHECK(model.read(plan).empty());
      Tokens all;
      for (int32_t slot = 0; slot < 2; ++slot)
        for (int32_t t = 0; t < length; ++t) all.add(token_at(slot, t), t, slot);
      std::vector<uint16_t> cache(size_t(Model::kSlots * model.slot)), other = cache;
      const auto whole = run(level, plan, cache, all);
      for (const auto& rows : {std::vector<int32_t>{}, {2 * length - 1}, {0, 1, length, 2 * length - 2}}) {
        Tokens some = all;
        some.rows = rows;
        std::fill(other.begin(), other.end(), uint16_t{0});
        thread_count = 1 + int(rows.size());
        const auto logits = run(level, plan, other, some);
        thread_count = 1;
        CHECK(cache == other);
        for (size_t i = 0; i < rows.size(); ++i)
          CHECK(std::memcmp(&logits[i * Model::kVocabulary], &whole[size_t(rows[i]) * Model::kVocabulary], 4 * Model::kVocabulary) == 0, "format %d, %d tokens, row %d", int(format), int(length), int(rows[i]));
      }
    }
}

TEST(decoder_plan_with_any_number_exchanged_is_refused_or_runs) {
  const Model good(Format::q4_1, 1);
  Tokens tokens;
  for (int32_t t = 0; t < 3; ++t) tokens.add(t, t, 1);
  thread_count = 1;
  int refused = 0, ran = 0;
  for (size_t place = 0; place < good.numbers.size(); ++place) {
    for (const int64_t value : {int64_t{-2}, int64_t{-1}, int64_t{0}, int64_t{1}, int64_t{64}, int64_t{1} << 31, int64_t{1} << 62}) {
      Model model = good;
      model.numbers[place] = value;
      DecoderPlan plan;
      const std::string wrong = model.read(plan);
      refused += !wrong.empty();
      if (!wrong.empty() || plan.vocabulary < Model::kVocabulary || plan.context < 3 || plan.slots < 2) continue;
      ++ran;
      std::vector<uint16_t> cache(size_t(Model::kSlots * model.slot));
      run(level, plan, cache, tokens);
    }
  }
  CHECK(refused > 300 && ran > 50, "%d refused, %d ran", refused, ran);
}

TEST(work_queue_runs_every_chunk_once_and_phases_in_order) {
  for (const int participants : {1, 2, 5}) {
    constexpr int64_t kPhases = 200, kChunks = 7;
    WorkQueue queue(kPhases);
    std::atomic<int64_t> counts[kPhases] = {};
    std::atomic<int> disorder{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < participants; ++i) {
      threads.emplace_back([&, i] {
        if (i == 1) std::this_thread::yield();  // late
        WorkQueue::Participant me(queue);
        for (int64_t phase = 0; phase < kPhases; ++phase)
          me.phase(kChunks, [&](int64_t) {
            if (phase > 0 && counts[phase - 1] != kChunks) ++disorder;
            ++counts[phase];
          });
      });
    }
    for (auto& thread : threads) thread.join();
    for (const auto& count : counts) CHECK(count == kChunks);
    CHECK(disorder == 0);
  }
}
