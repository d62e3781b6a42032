// A client on MQTT.js: one request, its one terminal reply on standard output.
// usage: node mqtt_js_client.mjs MODULES PORT PROTOCOL(4|5) REQUEST_TOPIC REPLY_TOPIC INPUT
import { createRequire } from "node:module";

const [modules, port, protocol, requestTopic, replyTopic, input] = process.argv.slice(2);
const mqtt = createRequire(`${modules}/`)("mqtt");
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, { protocolVersion: Number(protocol) });
setTimeout(() => process.exit(1), 30000).unref();

client.on("connect", () =>
  client.subscribe(replyTopic, { qos: 1 }, () => {
    if (protocol === "5") {
      const properties = { responseTopic: replyTopic, correlationData: Buffer.from("js-5") };
      client.publish(requestTopic, input, { qos: 1, properties });
    } else {
      client.publish(requestTopic, JSON.stringify({ id: "js-4", reply_to: replyTopic, input }), { qos: 1 });
    }
  }),
);
client.on("message", (_topic, payload, packet) => {
  const correlation = packet.properties?.correlationData?.toString() ?? null;
  console.log(JSON.stringify({ correlation, reply: JSON.parse(payload.toString()) }));
  client.end();
});
