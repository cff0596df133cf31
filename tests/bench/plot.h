// Plots as SVG, written by hand: no library, no script, text that is text.
//
// Background is transparent and ink follows the reader's colour scheme, so that the same file reads
// in light and dark. Axes are logarithmic: what is compared spans four orders of magnitude. Lines
// carry their names at their right ends, moved apart where they would overlap; there is no legend
// to match colours with. Bare references are grey, ours thick, peers thin.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/bench/contender.h"

namespace iob::bench {

struct Line {
  std::string name;
  Family family = Family::kBare;
  std::vector<std::pair<double, double>> points;  // By x; all positive.
};

struct Bar {
  std::string name;
  Family family = Family::kBare;
  double p50 = 0;
  double p99 = 0;
  double p999 = 0;
};

std::string DrawLines(const std::string& title, const std::string& x_label,
                      const std::string& y_label, const std::vector<Line>& lines);
// One row per bar: a dot at p50, a bar to p99, a tick at p99.9.
std::string DrawBars(const std::string& title, const std::string& x_label,
                     const std::vector<Bar>& bars);

}  // namespace iob::bench
