"""One scenario against a broker, with Eclipse paho. Arguments: port, 3 or 5, tcp or websockets. Exit code 0 if all held."""

import os
import queue
import socket
import sys

import paho.mqtt.client as mqtt

PORT, VERSION = int(sys.argv[1]), int(sys.argv[2])
TRANSPORT = sys.argv[3] if len(sys.argv) > 3 else "tcp"
PROTOCOL = mqtt.MQTTv5 if VERSION == 5 else mqtt.MQTTv311
TIMEOUT = 30


class Client:
    def __init__(self, name, user=None, will=None):
        self.messages, self.events = queue.Queue(), queue.Queue()
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=PROTOCOL, transport=TRANSPORT)
        self.mqtt.on_connect = lambda c, u, flags, reason, props: self.events.put(("connect", reason))
        self.mqtt.on_subscribe = lambda c, u, mid, reasons, props: self.events.put(("subscribe", reasons))
        self.mqtt.on_publish = lambda c, u, mid, reason, props: self.events.put(("publish", reason))
        self.mqtt.on_message = lambda c, u, message: self.messages.put(message)
        if user:
            self.mqtt.username_pw_set(*user)
        if will:
            self.mqtt.will_set(*will)
        self.mqtt.connect("127.0.0.1", PORT, keepalive=60)
        self.mqtt.loop_start()

    def event(self, kind):
        got, value = self.events.get(timeout=TIMEOUT)
        assert got == kind, (got, value)
        return value

    def connected(self):
        reason = self.event("connect")
        assert not reason.is_failure, reason
        return self

    def subscribe(self, topic, qos):
        self.mqtt.subscribe(topic, qos)
        return self.event("subscribe")[0]

    def message(self):
        return self.messages.get(timeout=TIMEOUT)

    def publish(self, *args, **kwargs):
        self.mqtt.publish(*args, **kwargs).wait_for_publish(TIMEOUT)
        return self.event("publish")


# A wrong password is told, and a right one works.
refused = Client("refused", user=("ada", "wrong"))
assert refused.event("connect").is_failure
refused.mqtt.loop_stop()

subscriber = Client("subscriber", user=("ada", "secret")).connected()
assert subscriber.subscribe("t/#", 2).value == 2
assert subscriber.subscribe("secret/#", 0).is_failure

publisher = Client("publisher", user=("ada", "secret"), will=("t/will", b"gone", 1, False)).connected()
for qos in (0, 1, 2):
    publisher.publish("t/%d" % qos, b"payload %d" % qos, qos=qos, retain=qos == 1)
for qos in (0, 1, 2):
    message = subscriber.message()
    assert message.topic == "t/%d" % qos and message.payload == b"payload %d" % qos, message.topic
    assert message.qos == qos and not message.retain

reason = publisher.publish("denied/x", b"no", qos=1)
assert reason.is_failure == (VERSION == 5), reason

late = Client("late", user=("ada", "secret")).connected()
assert late.subscribe("t/+", 1).value == 1
message = late.message()
assert message.topic == "t/1" and message.retain == 1 and message.payload == b"payload 1"

if VERSION == 5:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.UserProperty = ("key", "value")
    properties.ResponseTopic = "answers"
    publisher.publish("t/p", "rich", qos=1, properties=properties)
    got = subscriber.message().properties
    assert (got.ContentType, got.UserProperty, got.ResponseTopic) == ("text/plain", [("key", "value")], "answers")

# By its descriptor: over WebSocket it is wrapped.
socket.socket(fileno=os.dup(publisher.mqtt.socket().fileno())).shutdown(socket.SHUT_RDWR)
message = subscriber.message()
while message.topic != "t/will":
    message = subscriber.message()
assert message.payload == b"gone"
for client in (subscriber, late):
    client.mqtt.disconnect()
    client.mqtt.loop_stop()
print("ok")
