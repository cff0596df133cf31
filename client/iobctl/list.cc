// iobctl ls: the buffers that the caller may see.
//
// Page by page, printed as they come: the daemon never builds one answer of ten thousand buffers,
// and `iobctl ls | head` does not wait for it.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/output.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

// Buffers of 64 regions each are still far below the 4 MiB of a gRPC message.
constexpr uint32_t kPageSize = 200;

// What is printed, in parts.
class Listing {
 public:
  explicit Listing(bool json) : json_(json) {}

  std::string Begin() const { return json_ ? "[" : ""; }
  std::string End() { return json_ ? "]\n" : table_.Render(); }

  std::string Part(const std::vector<BufferInfo>& buffers) {
    if (!json_) {
      for (const BufferInfo& buffer : buffers) AddRow(buffer);
      return table_.Render();
    }
    std::string text;
    for (const BufferInfo& buffer : buffers) {
      JsonWriter json;
      json.BeginObject();
      AddBuffer(buffer, &json);
      json.EndObject();
      absl::StrAppend(&text, empty_ ? "" : ",", json.text());
      empty_ = false;
    }
    return text;
  }

 private:
  void AddRow(const BufferInfo& buffer) {
    const bool both = buffer.endpoints.size() == 2;
    table_.AddRow(
        {absl::StrCat(buffer.koid), DisplayName(buffer), absl::StrCat(buffer.regions.size()),
         FormatBytes(buffer.memory_bytes), both ? DisplayState(buffer.endpoints[0]) : "?",
         both ? DisplayState(buffer.endpoints[1]) : "?", absl::StrCat("uid ", buffer.owner.uid),
         FormatTime(buffer.create_time), DisplayDisciplines(buffer.regions)});
  }

  bool json_;
  bool empty_ = true;
  Table table_{
      {"KOID", "NAME", "REGIONS", "MEMORY", "EP0", "EP1", "OWNER", "CREATED", "DISCIPLINES"}};
};

absl::StatusOr<int> List(const Globals& globals, const std::string& prefix) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  Listing listing(globals.json);
  ListOptions options{.name_prefix = prefix, .page_size = kPageSize, .page_token = ""};
  std::string text = listing.Begin();
  do {
    IOB_ASSIGN_OR_RETURN(const BufferPage page, broker.ListBuffersPage(options));
    absl::StrAppend(&text, listing.Part(page.buffers));
    IOB_ASSIGN_OR_RETURN(const bool written, WriteOut(text));
    if (!written) return kExitOk;
    text.clear();
    options.page_token = page.next_page_token;
  } while (!options.page_token.empty());
  IOB_RETURN_IF_ERROR(WriteOut(listing.End()).status());
  return kExitOk;
}

}  // namespace

void AddList(CLI::App* app, const Globals* globals, Command* selected) {
  CLI::App* const command = app->add_subcommand("ls", "List your buffers (all of them for root)");
  auto prefix = std::make_shared<std::string>();
  command->add_option("PREFIX", *prefix, "Only names that start with this");
  command->footer("Example:\n  iobctl ls\n  iobctl ls web- --json | jq '.[].name'");
  command->callback([=] { *selected = [=] { return List(*globals, *prefix); }; });
}

}  // namespace iob::ctl
