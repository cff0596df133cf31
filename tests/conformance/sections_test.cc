// What A7 of README.md adds to Zircon's rules about memory: sections, seals, modes, levels of
// enforcement. Checked on the descriptors that an attachment receives, by every means a holder has.

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "tests/conformance/agent.h"
#include "tests/conformance/contract.h"

namespace iob::test {
namespace {

class Sections_A7 : public Contract {
 protected:
  struct Section {
    std::string name;
    int fd = -1;
    bool writable = false;
    uint64_t size_bytes = 0;
  };
  static std::vector<Section> SectionsOf(const RawClient& client) {
    std::vector<Section> sections;
    const auto add = [&](const std::string& name, const v1::SectionGrant& grant) {
      sections.push_back({.name = name + v1::SectionKind_Name(grant.kind()),
                          .fd = client.fds()[grant.fd_index()].get(),
                          .writable = grant.writable(),
                          .size_bytes = grant.size_bytes()});
    };
    for (const v1::RegionGrant& region : client.grants().regions()) {
      for (const v1::SectionGrant& section : region.sections())
        add("region " + std::to_string(region.index()) + " ", section);
    }
    add("", client.grants().signal());
    return sections;
  }
  static NewBuffer MakeOneOfEach() {
    return Make({PlainRegion(), PlainRegion(kPage, kEp0MapRead | kEp1Map), RingRegion(), IdRegion(),
                 IdRegion(kPage, kBothMap)});
  }
  // The daemon of these tests and the test itself are root, or one user.
  static uint32_t OwnUid() { return ::geteuid(); }
};

TEST_F(Sections_A7, EverySectionIsOwnedUnreadableByOthersAndOfFixedSize) {
  const NewBuffer made = MakeOneOfEach();
  for (const std::string& handle : {made.ep0, made.ep1}) {
    const auto client = AttachRaw(Dup(handle));
    for (const Section& section : SectionsOf(*client)) {
      SCOPED_TRACE(section.name);
      struct stat status = {};
      ASSERT_EQ(::fstat(section.fd, &status), 0);
      EXPECT_EQ(status.st_mode & 07777, 0600u);
      EXPECT_EQ(static_cast<uint64_t>(status.st_size), section.size_bytes);
      const int seals = ::fcntl(section.fd, F_GET_SEALS);
      EXPECT_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
                F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
      EXPECT_NE(::ftruncate(section.fd, 0), 0);
      EXPECT_NE(::ftruncate(section.fd, 1 << 30), 0);
      EXPECT_NE(::fcntl(section.fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
      EXPECT_EQ(::fcntl(section.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
      const int mode = ::fcntl(section.fd, F_GETFL) & O_ACCMODE;
      EXPECT_EQ(mode, section.writable ? O_RDWR : O_RDONLY);
    }
  }
}

TEST_F(Sections_A7, WhatOnlyTheBrokerWritesIsSealedAgainstEverybodyRootIncluded) {
  const NewBuffer made = MakeOneOfEach();
  ASSERT_EQ(control().Write(made.ep1, 2, {"record"}), zx::kOk);
  const auto client = AttachRaw(Dup(made.ep0));
  int sealed = 0;
  for (const Section& section : SectionsOf(*client)) {
    if (section.writable || (::fcntl(section.fd, F_GET_SEALS) & F_SEAL_FUTURE_WRITE) == 0) continue;
    ++sealed;
    SCOPED_TRACE(section.name);
    const std::string path = "/proc/self/fd/" + std::to_string(section.fd);
    const shm::UniqueFd reopened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_EQ(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, reopened.get(), 0),
              MAP_FAILED);
    EXPECT_LT(::pwrite(reopened.get(), "x", 1, 0), 0);
    EXPECT_NE(::fallocate(reopened.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), 0);
  }
  EXPECT_EQ(sealed, 3) << "records, ids of the broker alone, and the signal page";
}

TEST_F(Sections_A7, EachAttachmentHasDescriptionsOfItsOwn) {
  const NewBuffer made = Make({PlainRegion()});
  const auto one = AttachRaw(Dup(made.ep0));
  const auto two = AttachRaw(Dup(made.ep0));
  // A file offset belongs to a description.
  ASSERT_EQ(::lseek(one->fds()[0].get(), 100, SEEK_SET), 100);
  EXPECT_EQ(::lseek(two->fds()[0].get(), 0, SEEK_CUR), 0);
}

TEST_F(Sections_A7, LevelsAreReportedAsTheyAre) {
  const NewBuffer made = MakeOneOfEach();
  // Before anybody is attached: what a stranger would get.
  const v1::BufferInfo info = Look(made.koid());
  EXPECT_EQ(info.regions(0).ep0_enforcement(), v1::ENFORCEMENT_SEALED) << "nothing is withheld";
  EXPECT_EQ(info.regions(1).ep0_enforcement(), v1::ENFORCEMENT_DAC);
  EXPECT_EQ(info.regions(2).ep0_enforcement(), v1::ENFORCEMENT_SEALED);
  EXPECT_EQ(info.regions(2).ep1_enforcement(), v1::ENFORCEMENT_MEDIATED);
  EXPECT_EQ(info.regions(3).ep0_enforcement(), v1::ENFORCEMENT_SEALED);
  // The broker runs as the same uid: file modes bind nobody.
  const auto client = AttachRaw(Dup(made.ep0));
  EXPECT_EQ(client->grants().regions(1).enforcement(), v1::ENFORCEMENT_ADVISORY);
  EXPECT_EQ(Look(made.koid()).regions(1).ep0_enforcement(), v1::ENFORCEMENT_ADVISORY);
}

TEST_F(Sections_A7, MoreThanCanBeHeldIsRefused) {
  v1::RegionSpec region = PlainRegion(kPage, kEp0MapRead | kEp1Map);
  region.set_required_enforcement(v1::ENFORCEMENT_DAC);
  const NewBuffer made = Make({region});
  NewTicket ticket;
  ASSERT_EQ(control().Attach(Dup(made.ep0), &ticket), zx::kOk);
  RawClient client(daemon().attach_path());
  ASSERT_EQ(client.SendRedeem(ticket.bytes), 0);
  const auto error = client.ReadToEnd();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(OutcomeOfAnswer(*error), kEnforcement);
}

// --- Another uid ---------------------------------------------------------------------------------

class OtherUid_A7 : public Sections_A7 {
 protected:
  void SetUp() override {
    Sections_A7::SetUp();
    if (::geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  }
  static std::string TicketForNobody(const std::string& handle) {
    NewTicket ticket;
    EXPECT_EQ(control().Attach(handle, &ticket, kNobodyUid), zx::kOk);
    return ticket.bytes;
  }
};

TEST_F(OtherUid_A7, ReadingIsHeldByFileModes) {
  v1::RegionSpec region = PlainRegion(kPage, kEp0MapRead | kEp1Map);
  region.set_required_enforcement(v1::ENFORCEMENT_DAC);
  const NewBuffer made = Make({region});
  Agent nobody(daemon(), kNobodyUid);
  std::string bytes;
  ASSERT_EQ(nobody.Do("attach 1", TicketForNobody(Dup(made.ep0)), &bytes), "");
  v1::GrantSet grants;
  ASSERT_TRUE(grants.ParseFromString(bytes));
  EXPECT_EQ(grants.regions(0).enforcement(), v1::ENFORCEMENT_DAC);
  ASSERT_EQ(nobody.Do("map 1 1 0 1"), "");
  EXPECT_EQ(nobody.Do("reopen 1 0 1"), "Permission denied");
  EXPECT_EQ(Look(made.koid()).regions(0).ep0_enforcement(), v1::ENFORCEMENT_DAC);
}

TEST_F(OtherUid_A7, ATicketIsGoodForItsUidAndOnlyOnce) {
  const NewBuffer made = Make({PlainRegion()});
  const std::string ticket = TicketForNobody(Dup(made.ep0));
  RawClient ours(daemon().attach_path());
  ASSERT_EQ(ours.SendRedeem(ticket), 0);
  const auto error = ours.ReadToEnd();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(OutcomeOfAnswer(*error), zx::kBadHandle);
  Agent nobody(daemon(), kNobodyUid);
  EXPECT_EQ(nobody.Do("attach 1", ticket), "") << "a wrong uid spends nothing";
  EXPECT_NE(nobody.Do("attach 2", ticket), "");
}

TEST_F(OtherUid_A7, AHandleMadeForItIsGoodThereAndNowhereElse) {
  const NewBuffer made = Make({RingRegion()});
  std::string handle;
  ASSERT_EQ(control().Duplicate(made.ep1, Rights::kWrite, &handle, kNobodyUid), zx::kOk);
  Agent nobody(daemon(), kNobodyUid);
  v1::WriteRequest write;
  write.set_handle(handle);
  write.add_parts("by nobody");
  v1::WriteResponse written;
  EXPECT_EQ(nobody.Call("Write", write, &written), zx::kOk);
  EXPECT_EQ(control().Write(handle, 0, {"by us"}), zx::kBadHandle);
  write.set_handle(made.ep1);
  EXPECT_EQ(nobody.Call("Write", write, &written), zx::kBadHandle) << "and ours not there";
}

TEST_F(OtherUid_A7, ABufferOfAnotherIsNotToBeFound) {
  const NewBuffer made = Make({PlainRegion()});
  ASSERT_EQ(control().SetName(made.ep0, "private"), zx::kOk);
  Agent nobody(daemon(), kNobodyUid);
  v1::GetBufferRequest get;
  get.set_koid(made.koid());
  v1::GetBufferResponse got;
  EXPECT_EQ(nobody.Call("GetBuffer", get, &got), kNotFound);
  v1::OpenBufferRequest open;
  open.set_name("private");
  open.set_endpoint(v1::ENDPOINT_ID_EP0);
  v1::OpenBufferResponse opened;
  EXPECT_EQ(nobody.Call("OpenBuffer", open, &opened), kNotFound);
  v1::DeleteBufferRequest erase;
  erase.set_koid(made.koid());
  erase.set_force(true);
  v1::DeleteBufferResponse erased;
  EXPECT_EQ(nobody.Call("DeleteBuffer", erase, &erased), kNotFound);
  EXPECT_EQ(Metric("iob_buffers"), 1);
}

}  // namespace
}  // namespace iob::test
