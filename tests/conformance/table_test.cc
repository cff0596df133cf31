// README.md of this folder is a contract: its table leaves no rule out, every row has a verdict,
// and names tests that exist; every test of this folder is named. Each of these checks is seen to
// fire.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace iob::test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Row {
  std::string rule;
  std::vector<std::string> sources;
  std::vector<std::string> tests;
  std::string verdict;
};

struct Table {
  std::vector<Row> rows;
  std::vector<std::string> problems;
};

std::string Trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

std::vector<std::string> WordsOf(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::vector<std::string> CellsOf(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream stream(line);
  std::string cell;
  // What is before the first bar is no cell.
  std::getline(stream, cell, '|');
  while (std::getline(stream, cell, '|')) cells.push_back(Trimmed(cell));
  return cells;
}

// "holds", or why not.
bool IsVerdict(const std::string& verdict) {
  if (verdict == "holds") return true;
  for (const std::string prefix : {"differs on purpose: ", "impossible: "}) {
    if (verdict.starts_with(prefix) && !Trimmed(verdict.substr(prefix.size())).empty()) return true;
  }
  return false;
}

Table ParseTable(const std::string& text) {
  Table table;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.starts_with('|') || line.starts_with("|-") || line.starts_with("| rule |")) continue;
    const std::vector<std::string> cells = CellsOf(line);
    if (cells.size() != 4) {
      table.problems.push_back("not four cells: " + line);
      continue;
    }
    Row row{.rule = cells[0], .sources = WordsOf(cells[1]), .tests = {}, .verdict = cells[3]};
    for (const std::string& name : WordsOf(cells[2])) {
      if (name == "-") continue;
      if (name.size() < 3 || name.front() != '`' || name.back() != '`') {
        table.problems.push_back("not the name of a test: " + name);
      } else {
        row.tests.push_back(name.substr(1, name.size() - 2));
      }
    }
    if (row.rule.empty() || row.sources.empty())
      table.problems.push_back("no rule or no source: " + line);
    if (!IsVerdict(row.verdict)) table.problems.push_back("no verdict: " + line);
    if (row.tests.empty() && !row.verdict.starts_with("impossible"))
      table.problems.push_back("no test: " + line);
    table.rows.push_back(std::move(row));
  }
  return table;
}

// "Suite.Name" of every test in a source.
std::set<std::string> TestsIn(const std::string& source) {
  static const std::regex kTest(R"(\bTEST(?:_F|_P)?\(\s*(\w+),\s*(\w+)\s*\))");
  std::set<std::string> names;
  for (std::sregex_iterator it(source.begin(), source.end(), kTest), end; it != end; ++it) {
    names.insert((*it)[1].str() + "." + (*it)[2].str());
  }
  return names;
}

std::vector<std::string> Unknown(const Table& table, const std::set<std::string>& known) {
  std::vector<std::string> unknown;
  for (const Row& row : table.rows) {
    for (const std::string& name : row.tests) {
      if (!known.contains(name)) unknown.push_back(name + ", named by: " + row.rule);
    }
  }
  return unknown;
}

std::vector<std::string> Unnamed(const Table& table, const std::set<std::string>& known) {
  std::set<std::string> named;
  for (const Row& row : table.rows) named.insert(row.tests.begin(), row.tests.end());
  std::vector<std::string> unnamed;
  for (const std::string& name : known) {
    if (!named.contains(name)) unnamed.push_back(name);
  }
  return unnamed;
}

// Every numbered rule, and every section whose rules have no numbers.
std::vector<std::string> AllSources() {
  std::vector<std::string> sources = {"2.0", "2.2", "3.1", "3.2", "3.3", "4.1", "4.2", "4.3", "5.1",
                                      "5.2", "5.3", "7.1", "7.3", "A7",  "A8",  "A9",  "A10"};
  const auto add = [&](const std::string& prefix, int first, int last) {
    for (int i = first; i <= last; ++i) sources.push_back(prefix + std::to_string(i));
  };
  add("1.", 1, 12);
  add("2.1/", 1, 18);
  add("2.3/", 1, 19);
  add("2.4/", 1, 10);
  add("2.", 5, 10);
  add("5.4/P", 1, 18);
  return sources;
}

std::vector<std::string> LeftOut(const Table& table) {
  std::set<std::string> covered;
  for (const Row& row : table.rows) covered.insert(row.sources.begin(), row.sources.end());
  std::vector<std::string> left_out;
  for (const std::string& source : AllSources()) {
    if (!covered.contains(source)) left_out.push_back(source);
  }
  return left_out;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::set<std::string> TestsUnder(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() == ".cc") names.merge(TestsIn(ReadFile(entry.path())));
  }
  return names;
}

const std::filesystem::path kTests = std::filesystem::path(IOB_SOURCE_ROOT) / "tests";
const std::filesystem::path kHere = kTests / "conformance";

Table TheTable() { return ParseTable(ReadFile(kHere / "README.md")); }

TEST(ConformanceTable, EveryRowIsComplete) {
  const Table table = TheTable();
  EXPECT_GT(table.rows.size(), 150u) << "the table was not found in " << kHere;
  EXPECT_THAT(table.problems, IsEmpty());
}

TEST(ConformanceTable, NoRuleIsLeftOut) { EXPECT_THAT(LeftOut(TheTable()), IsEmpty()); }

TEST(ConformanceTable, EveryTestThatIsNamedExists) {
  EXPECT_THAT(Unknown(TheTable(), TestsUnder(kTests)), IsEmpty());
}

TEST(ConformanceTable, EveryTestIsNamed) {
  std::set<std::string> tests = TestsUnder(kHere);
  for (const std::string& own : TestsIn(ReadFile(kHere / "table_test.cc"))) tests.erase(own);
  EXPECT_GT(tests.size(), 150u);
  EXPECT_THAT(Unnamed(TheTable(), tests), IsEmpty());
}

TEST(ConformanceTable, ARowWithoutAVerdictIsAProblem) {
  for (const char* verdict :
       {"", "maybe", "differs on purpose:", "impossible: ", "holds: almost"}) {
    const Table table =
        ParseTable("| a rule | 1.1 | `Suite.Test` | " + std::string(verdict) + " |");
    ASSERT_EQ(table.problems.size(), 1u) << verdict;
    EXPECT_THAT(table.problems[0], HasSubstr("no verdict"));
  }
  EXPECT_THAT(ParseTable("| a rule | 1.1 | `Suite.Test` | holds |").problems, IsEmpty());
}

TEST(ConformanceTable, ARowWithoutATestIsAProblemUnlessItIsImpossible) {
  EXPECT_EQ(ParseTable("| a rule | 1.1 | - | holds |").problems.size(), 1u);
  EXPECT_EQ(ParseTable("| a rule | 1.1 | - | differs on purpose: so |").problems.size(), 1u);
  EXPECT_THAT(ParseTable("| a rule | 1.1 | - | impossible: so |").problems, IsEmpty());
}

TEST(ConformanceTable, ATornRowIsAProblem) {
  EXPECT_EQ(ParseTable("| a rule | `Suite.Test` | holds |").problems.size(), 1u);
  EXPECT_EQ(ParseTable("| | 1.1 | `Suite.Test` | holds |").problems.size(), 1u);
  EXPECT_EQ(ParseTable("| a rule | 1.1 | Suite.Test | impossible: so |").problems.size(), 1u);
}

TEST(ConformanceTable, NamesOfTestsAreCompared) {
  const Table table = ParseTable("| a rule | 1.1 | `Suite.One` `Suite.Two` | holds |");
  EXPECT_THAT(Unknown(table, {"Suite.One"}), ::testing::SizeIs(1));
  EXPECT_THAT(Unnamed(table, {"Suite.One", "Suite.Two", "Suite.Three"}),
              ::testing::ElementsAre("Suite.Three"));
  EXPECT_THAT(TestsIn("TEST(One, A) {}\n  TEST_F(Two,\n       B) {}\nTEST_P(Three, C) {\n"),
              ::testing::ElementsAre("One.A", "Three.C", "Two.B"));
  EXPECT_THAT(LeftOut(table), ::testing::Not(::testing::Contains("1.1")));
  EXPECT_THAT(LeftOut(table), ::testing::Contains("5.4/P9"));
}

}  // namespace
}  // namespace iob::test
