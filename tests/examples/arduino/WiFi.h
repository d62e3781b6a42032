// What the sketch uses of the ESP32 core, on this machine. `delay` does not wait.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

using byte = uint8_t;
const int WL_CONNECTED = 3;

inline unsigned long millis() {
  using namespace std::chrono;
  return 100000 + duration_cast<milliseconds>(steady_clock::now().time_since_epoch()).count();
}
inline void delay(unsigned long) {}

struct {
  void begin(int) {}
  void write(const byte *data, size_t size) { std::fwrite(data, 1, size, stdout); }
  void println() { std::puts(""); std::fflush(stdout); }
} Serial;

struct {
  void begin(const char *, const char *) {}
  int status() { return WL_CONNECTED; }
} WiFi;

struct WiFiClient {
  void setNoDelay(bool) {}
};
