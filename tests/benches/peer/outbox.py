"""What the broker has not acknowledged: in memory while the link is up, in sqlite while it is not."""

import collections
import sqlite3

# Unacknowledged predictions in memory; beyond this they go to disk although the link is up.
MEMORY_MAX = 65_536
# Records on disk; the oldest goes first.
DISK_MAX = 1_000_000


class Outbox:
    """Used by the worker alone, but for `acknowledged`, which the network thread calls."""

    def __init__(self, path: str) -> None:
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = NORMAL")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS outbox"
            " (key INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL)"
        )
        self.stored = self.database.execute("SELECT count(*) FROM outbox").fetchone()[0]
        # By paho's message id: key on disk if it is there, topic, payload.
        self.pending: dict = {}
        self.acks: collections.deque = collections.deque()
        self.inserts: list = []
        self.deletes: list = []
        self.replayed = 0
        self.evicted = 0

    def acknowledged(self, mid: int) -> None:
        self.acks.append(mid)

    def sent(self, mid: int, topic: str, payload: bytes, key: int | None = None) -> None:
        self.pending[mid] = (key, topic, payload)
        if len(self.pending) > MEMORY_MAX:
            key, topic, payload = self.pending.pop(next(iter(self.pending)))
            if key is None:
                self.store(topic, payload)

    def store(self, topic: str, payload: bytes) -> None:
        self.inserts.append((topic, payload))

    def oldest(self, limit: int) -> list:
        """The next stored records that are not on their way already."""
        rows = self.database.execute(
            "SELECT key, topic, payload FROM outbox WHERE key > ? ORDER BY key LIMIT ?", (self.replayed, limit)
        ).fetchall()
        if rows:
            self.replayed = rows[-1][0]
        return rows

    def flush(self) -> None:
        """Settles acknowledgements, and writes what must be written in one commit."""
        while self.acks:
            key, _, _ = self.pending.pop(self.acks.popleft(), (None, None, None))
            if key is not None:
                self.deletes.append((key,))
        if not self.inserts and not self.deletes:
            return
        self.database.execute("BEGIN")
        self.database.executemany("INSERT INTO outbox (topic, payload) VALUES (?, ?)", self.inserts)
        self.database.executemany("DELETE FROM outbox WHERE key = ?", self.deletes)
        self.stored += len(self.inserts) - len(self.deletes)
        excess = self.stored - DISK_MAX
        if excess > 0:
            self.database.execute(
                "DELETE FROM outbox WHERE key IN (SELECT key FROM outbox ORDER BY key LIMIT ?)", (excess,)
            )
            self.stored -= excess
            self.evicted += excess
        self.database.execute("COMMIT")
        self.inserts.clear()
        self.deletes.clear()
