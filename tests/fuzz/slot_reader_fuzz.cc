// The reader of a slot against a writer that writes whatever it likes into SLOT and WAIT.
//
// Always: versions never go back, a value fits into the buffer and the slot, poison is for good.
// While honest: every value is the one of its version, byte by byte, and the latest there is.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "shm/slot_layout.h"
#include "shm/slot_reader.h"
#include "shm/slot_writer.h"
#include "tests/fuzz/schedule.h"

namespace iob::fuzz {
namespace {

using shm::SlotOutcome;

constexpr uint64_t kValueBytes = 100;

// The sections, made once.
struct Slot {
  Slot()
      : layout(shm::SlotLayout::ForValue(kValueBytes).value()),
        slot(layout.section_bytes()),
        wait(layout.wait_section_bytes()) {}
  Slot& Fresh() {
    slot.Clear();
    wait.Clear();
    return *this;
  }

  shm::SlotLayout layout;
  Section slot;
  Section wait;
};

class SlotReaderSchedule {
 public:
  SlotReaderSchedule(Slot& slot, Input& input)
      : slot_(slot.Fresh()),
        input_(input),
        peer_(input),
        writer_(shm::SlotWriter::Map(slot.layout, slot.slot.memfd, slot.wait.memfd).value()),
        reader_(shm::SlotReader::Map(slot.layout, slot.slot.memfd, slot.wait.memfd).value()) {
    peer_.Owns(slot.slot.mapping, {shm::kSlotLatest});
    for (uint64_t version = 0; version < shm::kSlotCells; ++version) {
      const uint64_t cell = slot.layout.CellOffset(version);
      peer_.Owns(slot.slot.mapping, {cell + shm::kSlotCellVersion, cell + shm::kSlotCellLength});
    }
    peer_.Owns(slot.wait.mapping, {shm::kWaitHintOffset});
    peer_.Knows({kValueBytes, kValueBytes + 1, slot.layout.value_bytes_max(),
                 slot.layout.value_bytes_max() + 1, shm::kSlotVersionMax});
    peer_.Acts([this] { Write(); });
  }

  void Run() {
    while (!input_.empty()) {
      switch (input_.Below(7)) {
        case 0:
          Write();
          break;
        case 1:
        case 2:
          Read(input_.UpTo(kValueBytes + 8));
          break;
        case 3:
          Read(slot_.layout.value_bytes_max());
          break;
        case 4:
          LookAround();
          break;
        case 5:
          peer_.Scribble();
          break;
        default:
          peer_.Ambush();
          break;
      }
    }
  }

 private:
  static uint64_t SizeOf(uint64_t version) { return version * 37 % (kValueBytes + 1); }

  void Write() {
    std::vector<std::byte> value(SizeOf(writer_.version() + 1));
    FillPattern(writer_.version() + 1, value);
    (void)writer_.Write(value);
  }

  void Read(uint64_t buffer_bytes) {
    std::vector<std::byte> buffer(buffer_bytes);
    shm::SlotValue value;
    const uint64_t written = writer_.version();
    const SlotOutcome outcome = peer_.Watch([&] { return reader_.Read(buffer, &value); });
    IOB_CHECK(!poisoned_ || outcome == SlotOutcome::kPoisoned);
    poisoned_ = outcome == SlotOutcome::kPoisoned;
    IOB_CHECK(poisoned_ == !reader_.status().ok());
    if (outcome == SlotOutcome::kValue) {
      IOB_CHECK(value.value_bytes <= buffer_bytes);
      IOB_CHECK(value.version >= version_);
      version_ = value.version;
    } else if (outcome == SlotOutcome::kTooSmall) {
      IOB_CHECK(value.value_bytes > buffer_bytes);
      IOB_CHECK(value.value_bytes <= slot_.layout.value_bytes_max());
    }
    if (!peer_.honest()) return;
    IOB_CHECK(!poisoned_);
    IOB_CHECK(outcome != SlotOutcome::kNone || written == 0);
    if (outcome != SlotOutcome::kValue) return;
    IOB_CHECK(value.version >= written && value.version <= writer_.version());
    IOB_CHECK(value.value_bytes == SizeOf(value.version));
    IOB_CHECK(HasPattern(value.version, std::span(buffer).first(value.value_bytes)));
  }

  void LookAround() {
    const bool sleeps = peer_.Watch([this] { return reader_.PrepareToWait(shm::kWaitingAnyhow); });
    const shm::FutexWord word = reader_.WaitWord();
    if (sleeps) LookAt({static_cast<const std::byte*>(word.address), sizeof(word.expected)});
    peer_.Watch([this] { return reader_.HasNewer(); });
  }

  Slot& slot_;
  Input& input_;
  Peer peer_;
  shm::SlotWriter writer_;
  shm::SlotReader reader_;
  uint64_t version_ = 0;
  bool poisoned_ = false;
};

}  // namespace
}  // namespace iob::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static iob::fuzz::Slot slot;
  iob::fuzz::Input input({data, size});
  iob::fuzz::SlotReaderSchedule(slot, input).Run();
  return 0;
}
