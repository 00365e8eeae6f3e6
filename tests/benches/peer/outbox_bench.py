"""The peer's outbox by itself: appends, reopens, drains, and prints the figures of tests/benches/outbox as JSON."""

import json
import os
import resource
import sys
import time

from outbox import Outbox


def written() -> int:
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes:"))


def main(directory: str, commit: int, records_path: str) -> None:
    with open(records_path, "rb") as file:
        records = file.read().split(b"\n")
    path = os.path.join(directory, "peer.db")
    outbox = Outbox(path)
    before, start = written(), time.perf_counter()
    for at in range(0, len(records), commit):
        for record in records[at : at + commit]:
            outbox.store("lamppost/v1/nodes/site/node/pred/i94-volume", record)
        outbox.flush()
    appending = time.perf_counter() - start
    bytes_written = written() - before
    disk = sum(os.stat(path + end).st_blocks * 512 for end in ("", "-wal") if os.path.exists(path + end))
    outbox.database.close()
    start = time.perf_counter()
    outbox = Outbox(path)
    reopening = time.perf_counter() - start
    start, drained, mid = time.perf_counter(), 0, 0
    while rows := outbox.oldest(1024):
        for key, topic, payload in rows:
            outbox.sent(mid, topic, payload, key)
            outbox.acknowledged(mid)
            mid += 1
        drained += len(rows)
        outbox.flush()
    draining = time.perf_counter() - start
    if drained != len(records) or outbox.stored != 0:
        sys.exit(f"{drained} of {len(records)} records came back, {outbox.stored} are left")
    count = len(records)
    print(json.dumps({
        "append_per_s": count / appending,
        "append_mb_per_s": sum(map(len, records)) / 1e6 / appending,
        "drain_per_s": count / draining,
        "disk_bytes_a_record": disk / count,
        "written_bytes_a_record": bytes_written / count,
        "reopen_ms": reopening * 1e3,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
