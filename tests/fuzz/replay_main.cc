// Replays a corpus without libFuzzer: every file as it is, then mutations of them that are the same
// in every run. What a fuzzer once found stays found, with any compiler.
//
//   usage: NAME_replay CORPUS-DIRECTORY
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/schedule.h"

namespace {

using Bytes = std::vector<uint8_t>;

constexpr int kMutations = 400;
constexpr size_t kBytesMax = 512;

std::vector<Bytes> ReadCorpus(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.is_regular_file()) paths.push_back(entry.path());
  }
  // The order of a directory is the file system's; that of the mutations must not be.
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

// mt19937_64 is the same everywhere; the distributions of the standard library are not.
Bytes Mutate(const std::vector<Bytes>& corpus, std::mt19937_64& random) {
  const auto below = [&random](size_t count) { return static_cast<size_t>(random() % count); };
  Bytes bytes = corpus[below(corpus.size())];
  for (size_t changes = 1 + below(6); changes != 0; --changes) {
    const size_t at = bytes.empty() ? 0 : below(bytes.size());
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(4)) {
      case 0:
        bytes.insert(place, static_cast<uint8_t>(random()));
        break;
      case 1:
        if (!bytes.empty()) bytes.erase(place);
        break;
      case 2:
        if (!bytes.empty()) *place = static_cast<uint8_t>(random());
        break;
      default: {
        const Bytes& other = corpus[below(corpus.size())];
        bytes.resize(at);
        bytes.insert(bytes.end(), other.begin(), other.end());
      }
    }
  }
  bytes.resize(std::min(bytes.size(), kBytesMax));
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS-DIRECTORY\n", argv[0]);
    return 2;
  }
  const std::vector<Bytes> corpus = ReadCorpus(argv[1]);
  if (corpus.empty()) {
    std::fprintf(stderr, "no corpus in %s\n", argv[1]);
    return 1;
  }
  for (const Bytes& bytes : corpus) LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  std::mt19937_64 random(1);
  for (int i = 0; i < kMutations; ++i) {
    const Bytes bytes = Mutate(corpus, random);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu inputs and %d mutations of them\n", corpus.size(), kMutations);
  return 0;
}
