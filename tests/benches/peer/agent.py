"""An edge agent as one would write it in Python: paho-mqtt, onnxruntime, numpy, sqlite.

It does what lamppost-agent does on one stream: JSON readings from MQTT, a window of the newest readings, the features of
the bundle's manifest, inference, a prediction with the same fields, and a store in sqlite for what the broker has not
acknowledged. paho's network thread only queues; one worker takes all that has arrived and handles it as a batch.
"""

import argparse
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from model import Model
from outbox import Outbox
from stream import Stream

# Most readings in one batch: beyond this a batch costs latency and gains nothing.
BATCH_MAX = 256
# Predictions that paho may have unacknowledged; its default of 20 would throttle it.
IN_FLIGHT_MAX = 1000


class Agent:
    def __init__(self, args: argparse.Namespace) -> None:
        self.model = Model(Path(args.bundle))
        self.stream = Stream(self.model)
        self.outbox = Outbox(args.database)
        self.args = args
        self.topic = f"lamppost/v1/nodes/{args.node}/pred/{args.stream}"
        self.boot = secrets.token_hex(8)
        self.number = 0
        self.readings: queue.SimpleQueue = queue.SimpleQueue()
        self.connected = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"peer-{args.stream}")
        self.client.max_inflight_messages_set(IN_FLIGHT_MAX)
        self.client.max_queued_messages_set(0)
        # Without it Nagle's algorithm holds small packets back for up to 40 ms.
        self.client.on_socket_open = lambda client, userdata, sock: sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = self.on_message_inline if args.inline else self.on_message
        self.client.on_publish = self.on_publish

    def run(self) -> None:
        self.client.connect(self.args.host, self.args.port, keepalive=60)
        if self.args.inline:
            self.client.loop_forever()
            return
        self.client.loop_start()
        while (first := self.readings.get()) is not None:
            batch = [first]
            try:
                while len(batch) < BATCH_MAX and (more := self.readings.get_nowait()) is not None:
                    batch.append(more)
            except queue.Empty:
                pass
            self.handle(batch)
            self.outbox.flush()
            if self.connected.is_set() and self.outbox.stored:
                self.replay()
        self.client.disconnect()
        self.client.loop_stop()

    def stop(self) -> None:
        if self.args.inline:
            self.client.disconnect()
        else:
            self.readings.put(None)

    # Called by paho's network thread.

    def on_connect(self, client, userdata, flags, reason, properties) -> None:
        client.subscribe(self.args.readings, qos=self.args.qos)
        self.connected.set()

    def on_disconnect(self, client, userdata, flags, reason, properties) -> None:
        self.connected.clear()

    def on_message(self, client, userdata, message) -> None:
        self.readings.put((time.perf_counter_ns(), message.payload))

    def on_message_inline(self, client, userdata, message) -> None:
        self.handle([(time.perf_counter_ns(), message.payload)])
        self.outbox.flush()

    def on_publish(self, client, userdata, mid, reason, properties) -> None:
        self.outbox.acknowledged(mid)

    # Called by the worker.

    def handle(self, batch: list) -> None:
        """Predicts on each reading that completes a window, and publishes."""
        arrivals, windows, newest = self.stream.push(batch)
        if not len(windows):
            return
        values = self.model.run(windows, newest)
        now = time.perf_counter_ns()
        ref = self.model.reference
        for arrival, ts, value in zip(arrivals, newest, values):
            prediction = {
                "v": 1,
                "id": f"{self.boot}-{self.number}",
                "ts": rfc3339(ts),
                "target_ts": rfc3339(ts + self.model.horizon),
                "stream": self.args.stream,
                "seq": self.number,
                "boot": self.boot,
                "model": ref,
                "value": value,
                "unit": self.model.unit,
                "latency_us": (now - arrival) // 1000,
                "replay": False,
            }
            self.send(orjson.dumps(prediction))
            self.number += 1

    def send(self, payload: bytes) -> None:
        if not self.connected.is_set():
            self.outbox.store(self.topic, payload)
            return
        sent = self.client.publish(self.topic, payload, qos=self.args.qos)
        if self.args.qos > 0:
            self.outbox.sent(sent.mid, self.topic, payload)

    def replay(self) -> None:
        """Sends what was stored during an outage, oldest first."""
        for key, topic, payload in self.outbox.oldest(BATCH_MAX):
            prediction = orjson.loads(payload)
            prediction["replay"] = True
            sent = self.client.publish(topic, orjson.dumps(prediction), qos=1)
            self.outbox.sent(sent.mid, topic, payload, key)


def rfc3339(moment) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def main() -> None:
    # Two busy threads: the default of 5 ms between switches shows in the latency.
    sys.setswitchinterval(0.001)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--bundle", required=True, help="folder with manifest.json and model.onnx")
    parser.add_argument("--database", required=True, help="sqlite file of the outbox")
    parser.add_argument("--node", default="bench/peer", help="site and node")
    parser.add_argument("--stream", default="i94")
    parser.add_argument("--readings", default="sensors/i94", help="topic of the readings")
    parser.add_argument("--qos", type=int, choices=[0, 1], default=1)
    parser.add_argument("--inline", action="store_true", help="predict in the network thread, one reading at a time")
    agent = Agent(parser.parse_args())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()


if __name__ == "__main__":
    sys.exit(main())
