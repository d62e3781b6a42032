// A pump's sensor on an ESP32: publishes a reading and hears the label, MQTT 3.1.1, QoS 0.
// Libraries: WiFi of the ESP32 core, PubSubClient 2.8. The board runs examples/pump-triage.toml, so the answer is the
// label alone and fits PubSubClient's buffer of 256 bytes.
#include <WiFi.h>
#include <PubSubClient.h>

const char *NETWORK = "plant";
const char *PASSWORD = "secret";
const char *BROKER = "192.0.2.10";
const char *READING_TOPIC = "plant/pump-1/reading";
const char *ANSWER_TOPIC = "plant/pump-1/triage";
const unsigned long INTERVAL_MS = 10000;

WiFiClient network;
PubSubClient client(network);
unsigned long lastReading = 0;

void onAnswer(char *topic, byte *payload, unsigned int length) {
  Serial.write(payload, length);
  Serial.println();
}

void connectBroker() {
  while (!client.connected()) {
    if (client.connect("pump-1")) {
      network.setNoDelay(true);  // otherwise small packets can be held back for 40 ms and more
      client.subscribe(ANSWER_TOPIC);
    } else {
      delay(2000);
    }
  }
}

float readVibration() { return 7.9; }  // put your sensor here

void setup() {
  Serial.begin(115200);
  WiFi.begin(NETWORK, PASSWORD);
  while (WiFi.status() != WL_CONNECTED) {
    delay(250);
  }
  client.setServer(BROKER, 1883);
  client.setCallback(onAnswer);
}

void loop() {
  connectBroker();
  client.loop();
  if (millis() - lastReading >= INTERVAL_MS) {
    lastReading = millis();
    char reading[96];
    snprintf(reading, sizeof reading, "{\"vibration_mm_s\":%.1f,\"temperature_c\":%.1f}", readVibration(), 81.5);
    client.publish(READING_TOPIC, reading);
  }
}
