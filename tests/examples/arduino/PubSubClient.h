// PubSubClient's interface on standard streams: a line for each message that goes out, a line for one that comes in.
#pragma once
#include <cstring>
#include <iostream>

class PubSubClient {
 public:
  explicit PubSubClient(WiFiClient &) {}
  void setServer(const char *, uint16_t) {}
  void setCallback(void (*callback)(char *, byte *, unsigned int)) { callback_ = callback; }
  bool connected() { return connected_; }
  bool connect(const char *) { return connected_ = true; }
  bool subscribe(const char *topic) { std::cout << "subscribe " << topic << std::endl; return true; }
  bool publish(const char *topic, const char *payload) {
    std::cout << "publish " << topic << " " << payload << std::endl;
    published_ = true;
    return true;
  }
  // After a reading it waits for the answer; the end of the input ends the program.
  bool loop() {
    std::string topic = "?", payload;
    if (!published_) return true;
    if (!std::getline(std::cin, payload)) std::exit(0);
    published_ = false;
    callback_(topic.data(), reinterpret_cast<byte *>(payload.data()), payload.size());
    return true;
  }

 private:
  void (*callback_)(char *, byte *, unsigned int) = nullptr;
  bool connected_ = false, published_ = false;
};
