// UniqueFd: one owner, closed once.
#include "shm/unique_fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <type_traits>
#include <utility>

#include "tests/support/shm_process.h"

namespace iob::shm {
namespace {

static_assert(!std::is_copy_constructible_v<UniqueFd> && !std::is_copy_assignable_v<UniqueFd>);
static_assert(std::is_nothrow_move_constructible_v<UniqueFd>);
static_assert(!std::is_convertible_v<int, UniqueFd>, "a raw int never owns by accident");

UniqueFd OpenNull() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }
bool IsOpen(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFd, IsEmptyByDefault) {
  UniqueFd empty;
  EXPECT_FALSE(empty.valid());
  EXPECT_EQ(empty.get(), -1);
  empty.Close();
}

TEST(UniqueFd, ClosesWhenItDies) {
  int number = -1;
  {
    const UniqueFd owner = OpenNull();
    number = owner.get();
    EXPECT_TRUE(IsOpen(number));
  }
  EXPECT_FALSE(IsOpen(number));
}

TEST(UniqueFd, MovesOwnershipAndClosesWhatItHeld) {
  const int before = test::OpenFds();
  UniqueFd first = OpenNull();
  UniqueFd second = OpenNull();
  const int kept = first.get();
  const int dropped = second.get();
  second = std::move(first);
  EXPECT_EQ(second.get(), kept);
  EXPECT_FALSE(IsOpen(dropped));
  EXPECT_EQ(test::OpenFds(), before + 1);
}

TEST(UniqueFd, SurvivesAMoveIntoItself) {
  UniqueFd owner = OpenNull();
  UniqueFd& same = owner;
  owner = std::move(same);
  EXPECT_TRUE(IsOpen(owner.get()));
}

TEST(UniqueFd, ReleasesWithoutClosing) {
  UniqueFd owner = OpenNull();
  const UniqueFd heir(owner.Release());
  EXPECT_FALSE(owner.valid());
  EXPECT_TRUE(IsOpen(heir.get()));
}

TEST(UniqueFdDeathTest, AbortsWhenSomebodyClosedItsNumber) {
  EXPECT_DEATH(
      {
        UniqueFd owner = OpenNull();
        ::close(owner.get());
        owner.Close();
      },
      "iob: .*unique_fd.h.*broken");
}

}  // namespace
}  // namespace iob::shm
