// Random ids that make a retried call safe.
#pragma once

#include <string>

namespace iob {

// 32 hexadecimal digits of 128 random bits. Thread-safe.
std::string NewRequestId();

}  // namespace iob
