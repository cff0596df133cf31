// iobctl ls: the buffers that the caller may see.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iobctl/buffer_report.h"
#include "client/iobctl/command.h"
#include "client/iobctl/text.h"
#include "client/iobctl/units.h"
#include "shm/result.h"

namespace iob::ctl {
namespace {

std::string DescribeList(const std::vector<BufferInfo>& buffers) {
  Table table({"KOID", "NAME", "REGIONS", "MEMORY", "EP0", "EP1", "OWNER", "CREATED"});
  for (const BufferInfo& buffer : buffers) {
    const bool both = buffer.endpoints.size() == 2;
    table.AddRow({absl::StrCat(buffer.koid), DisplayName(buffer),
                  absl::StrCat(buffer.regions.size()), FormatBytes(buffer.memory_bytes),
                  both ? DisplayState(buffer.endpoints[0]) : "?",
                  both ? DisplayState(buffer.endpoints[1]) : "?",
                  absl::StrCat("uid ", buffer.owner.uid), FormatTime(buffer.create_time)});
  }
  return table.Render();
}

absl::StatusOr<int> List(const Globals& globals, const std::string& prefix) {
  IOB_ASSIGN_OR_RETURN(Broker broker, ConnectTo(globals));
  IOB_ASSIGN_OR_RETURN(const std::vector<BufferInfo> buffers, broker.ListBuffers(prefix));
  if (globals.json) {
    JsonWriter json;
    json.BeginArray();
    for (const BufferInfo& buffer : buffers) {
      json.BeginObject();
      AddBuffer(buffer, &json);
      json.EndObject();
    }
    json.EndArray();
    PrintLine(json.text());
  } else {
    std::string text = DescribeList(buffers);
    text.pop_back();
    PrintLine(text);
  }
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
