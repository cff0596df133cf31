#include "tests/bench/plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace iob::bench {
namespace {

constexpr double kWidth = 960;
constexpr double kTop = 48;
constexpr double kRowHeight = 20;

// Mid tones, which stand out from white and from near-black alike.
constexpr const char* kColors[] = {"#3b82c4", "#d9752b", "#2f9e6e", "#c2528b",
                                   "#8a6fd1", "#b08a1e", "#2a9fb0", "#cf4f4f"};
constexpr size_t kColorCount = std::size(kColors);

std::string Head(double height, const std::string& title) {
  return absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n"
      "<style>\n"
      "  text { font: 12px system-ui, sans-serif; fill: #333 }\n"
      "  .title { font-size: 15px; font-weight: 600 }\n"
      "  .grid { stroke: #888; stroke-opacity: .25 }\n"
      "  @media (prefers-color-scheme: dark) { text { fill: #ddd } }\n"
      "</style>\n"
      "<text class=\"title\" x=\"16\" y=\"24\">%s</text>\n",
      kWidth, height, title);
}

std::string Escaped(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '<') {
      escaped += "&lt;";
    } else if (c == '&') {
      escaped += "&amp;";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string Tick(double value) {
  if (value >= 1e9) return absl::StrFormat("%gG", value / 1e9);
  if (value >= 1e6) return absl::StrFormat("%gM", value / 1e6);
  if (value >= 1e3) return absl::StrFormat("%gk", value / 1e3);
  return absl::StrFormat("%g", value);
}

// Maps [low, high] logarithmically to [from, to].
class LogScale {
 public:
  LogScale(double low, double high, double from, double to)
      : low_(std::log10(low)), high_(std::log10(high)), from_(from), to_(to) {
    if (high_ - low_ < 0.1) high_ = low_ + 0.1;
  }
  double At(double value) const {
    return from_ + (std::log10(value) - low_) / (high_ - low_) * (to_ - from_);
  }
  std::vector<double> Decades() const {
    std::vector<double> ticks;
    for (double power = std::ceil(low_ - 1e-9); power <= high_ + 1e-9; ++power)
      ticks.push_back(std::pow(10, power));
    return ticks;
  }

 private:
  double low_;
  double high_;
  double from_;
  double to_;
};

double DecadeBelow(double value) { return std::pow(10, std::floor(std::log10(value))); }
double DecadeAbove(double value) { return std::pow(10, std::ceil(std::log10(value))); }

struct Ink {
  std::string color;
  double width = 1;
};

Ink InkOf(Family family, size_t number) {
  if (family == Family::kBare) return {.color = "#888", .width = 1.5};
  return {.color = kColors[number % kColorCount], .width = family == Family::kOurs ? 3.0 : 1.5};
}

// Where the names go: at the height of their lines, but never less than a row apart.
std::vector<double> SpreadApart(std::vector<double> wanted, double step, double bottom) {
  std::vector<size_t> order(wanted.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  for (size_t i = 1; i < order.size(); ++i)
    wanted[order[i]] = std::max(wanted[order[i]], wanted[order[i - 1]] + step);
  double limit = bottom;
  for (size_t i = order.size(); i-- > 0; limit -= step)
    wanted[order[i]] = std::min(wanted[order[i]], limit);
  return wanted;
}

}  // namespace

std::string DrawLines(const std::string& title, const std::string& x_label,
                      const std::string& y_label, const std::vector<Line>& lines) {
  constexpr double kLeft = 64;
  constexpr double kRight = 680;
  const double bottom = std::max(480.0, kTop + 15.0 * static_cast<double>(lines.size()));
  double x_low = 1e18;
  double x_high = 1;
  double y_low = 1e18;
  double y_high = 1;
  for (const Line& line : lines) {
    for (const auto& [x, y] : line.points) {
      x_low = std::min(x_low, x);
      x_high = std::max(x_high, x);
      y_low = std::min(y_low, y);
      y_high = std::max(y_high, y);
    }
  }
  std::string svg = Head(bottom + 56, title);
  if (lines.empty()) return absl::StrCat(svg, "</svg>\n");
  const LogScale xs(x_low, x_high, kLeft, kRight);
  const LogScale ys(DecadeBelow(y_low), DecadeAbove(y_high), bottom, kTop);
  for (const double y : ys.Decades()) {
    absl::StrAppendFormat(&svg,
                          "<line class=\"grid\" x1=\"%.0f\" x2=\"%.0f\" y1=\"%.1f\" y2=\"%.1f\"/>"
                          "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                          kLeft, kRight, ys.At(y), ys.At(y), kLeft - 6, ys.At(y) + 4, Tick(y));
  }
  for (const auto& [x, unused] : lines.front().points) {
    absl::StrAppendFormat(&svg, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%g</text>\n",
                          xs.At(x), bottom + 18, x);
  }
  absl::StrAppendFormat(&svg,
                        "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">%s</text>"
                        "<text x=\"16\" y=\"40\">%s</text>\n",
                        (kLeft + kRight) / 2, bottom + 40, x_label, y_label);
  std::vector<double> heights;
  heights.reserve(lines.size());
  for (const Line& line : lines) heights.push_back(ys.At(line.points.back().second));
  heights = SpreadApart(std::move(heights), 15, bottom);
  for (size_t i = 0; i < lines.size(); ++i) {
    const Line& line = lines[i];
    const Ink ink = InkOf(line.family, i);
    absl::StrAppendFormat(&svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%g\"%s",
                          ink.color, ink.width,
                          line.family == Family::kBare ? " stroke-dasharray=\"5 3\"" : "");
    absl::StrAppend(&svg, " points=\"");
    for (const auto& [x, y] : line.points)
      absl::StrAppendFormat(&svg, "%.1f,%.1f ", xs.At(x), ys.At(y));
    absl::StrAppendFormat(&svg, "\"/><path stroke=\"%s\" stroke-opacity=\".5\" fill=\"none\" ",
                          ink.color);
    absl::StrAppendFormat(&svg, "d=\"M%.1f %.1f L%.0f %.1f\"/>", xs.At(line.points.back().first),
                          ys.At(line.points.back().second), kRight + 22, heights[i]);
    absl::StrAppendFormat(
        &svg, "<text x=\"%.0f\" y=\"%.1f\"%s>%s</text>\n", kRight + 26, heights[i] + 4,
        line.family == Family::kOurs ? " font-weight=\"600\"" : "", Escaped(line.name));
  }
  return absl::StrCat(svg, "</svg>\n");
}

std::string DrawBars(const std::string& title, const std::string& x_label,
                     const std::vector<Bar>& bars) {
  constexpr double kLeft = 300;
  constexpr double kRight = kWidth - 24;
  const double bottom = kTop + kRowHeight * static_cast<double>(bars.size()) + 8;
  std::string svg = Head(bottom + 48, title);
  if (bars.empty()) return absl::StrCat(svg, "</svg>\n");
  double low = 1e18;
  double high = 1;
  for (const Bar& bar : bars) {
    low = std::min(low, std::max(bar.p50, 1.0));
    high = std::max(high, bar.p999);
  }
  const LogScale xs(DecadeBelow(low), DecadeAbove(high), kLeft, kRight);
  for (const double x : xs.Decades()) {
    absl::StrAppendFormat(&svg,
                          "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.0f\" y2=\"%.1f\"/>"
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n",
                          xs.At(x), xs.At(x), kTop - 8, bottom, xs.At(x), bottom + 16, Tick(x));
  }
  absl::StrAppendFormat(&svg, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\">%s</text>\n",
                        (kLeft + kRight) / 2, bottom + 36, x_label);
  for (size_t i = 0; i < bars.size(); ++i) {
    const Bar& bar = bars[i];
    const Ink ink = InkOf(bar.family, i);
    const double y = kTop + kRowHeight * (static_cast<double>(i) + 0.5);
    const double p50 = xs.At(std::max(bar.p50, 1.0));
    const double p99 = xs.At(std::max(bar.p99, 1.0));
    const double p999 = xs.At(std::max(bar.p999, 1.0));
    absl::StrAppendFormat(&svg,
                          "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\"%s>%s</text>"
                          "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%g\" ",
                          kLeft - 10, y + 4,
                          bar.family == Family::kOurs ? " font-weight=\"600\"" : "",
                          Escaped(bar.name), ink.color, ink.width);
    absl::StrAppendFormat(&svg, "d=\"M%.1f %.1fH%.1fM%.1f %.1fv10\"/>", p50, y, p99, p999, y - 5);
    absl::StrAppendFormat(&svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", p50, y,
                          ink.color);
  }
  return absl::StrCat(svg, "</svg>\n");
}

}  // namespace iob::bench
