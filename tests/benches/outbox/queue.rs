//! The contestants: durable queues of JSON records.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lamppost_agent::outbox::{Outbox, OutboxConfig};
use lamppost_agent_core::outbox::Class;
use lamppost_models::message::BatchRange;
use lamppost_models::{Epoch, StreamName, Timestamp};
use rusqlite::Connection;

/// Records that a contestant without batches of its own drains at once.
const DRAIN: i64 = 1_024;
/// Batches that the agent has in flight.
const WINDOW: usize = 8;

/// Which contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Ours.
    Outbox,
    /// A file that is appended to: the limit of the disk.
    Log,
    /// sqlite, WAL, synchronous=FULL.
    SqliteFull,
    /// sqlite, WAL, synchronous=NORMAL: the last commits may be gone after a power cut.
    SqliteNormal,
    /// The Python peer's.
    Python,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Log => "plain log, fdatasync a commit",
            Self::SqliteFull => "sqlite, WAL, FULL",
            Self::SqliteNormal => "sqlite, WAL, NORMAL (not durable)",
            Self::Python => "Python peer, sqlite NORMAL (not durable)",
        }
    }

    pub(crate) const fn argument(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Log => "log",
            Self::SqliteFull => "sqlite-full",
            Self::SqliteNormal => "sqlite-normal",
            Self::Python => "python",
        }
    }

    pub(crate) fn open(self, dir: &Path) -> anyhow::Result<Box<dyn Queue>> {
        Ok(match self {
            Self::Outbox => Box::new(Ours::open(&dir.join("outbox"), 1 << 30)?),
            Self::Log => Box::new(Log::open(&dir.join("log"))?),
            Self::SqliteFull => Box::new(Sqlite::open(&dir.join("queue.db"), "FULL")?),
            Self::SqliteNormal => Box::new(Sqlite::open(&dir.join("queue.db"), "NORMAL")?),
            Self::Python => bail!("it runs in a process of its own"),
        })
    }
}

/// A queue on the disk.
pub(crate) trait Queue {
    /// Appends records in one commit.
    fn append(&mut self, records: &[String]) -> anyhow::Result<()>;

    /// Reads and removes everything, in the pieces that suit the contestant, and says how many records came.
    fn drain(&mut self) -> anyhow::Result<u64>;
}

/// The agent's outbox.
pub(crate) struct Ours {
    outbox: Outbox,
    stream: StreamName,
}

impl Ours {
    pub(crate) fn open(dir: &Path, cap_bytes: u64) -> anyhow::Result<Self> {
        let config = OutboxConfig::new(cap_bytes, Duration::from_hours(48), 0);
        Ok(Self {
            outbox: Outbox::open(dir, config, Epoch::from_u64(1), now()?)?,
            stream: StreamName::new("i94-volume")?,
        })
    }
}

fn now() -> anyhow::Result<Timestamp> {
    Ok(Timestamp::from_ms(1_800_000_000_000)?)
}

impl Queue for Ours {
    fn append(&mut self, records: &[String]) -> anyhow::Result<()> {
        let appended = self
            .outbox
            .append(Class::Prediction, &self.stream, records, now()?)?;
        ensure!(
            appended.refused == 0,
            "{} records refused",
            appended.refused
        );
        Ok(())
    }

    fn drain(&mut self) -> anyhow::Result<u64> {
        let mut drained = 0;
        loop {
            let batches = self.outbox.peek(None, WINDOW)?;
            let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
                return Ok(drained);
            };
            drained += batches
                .iter()
                .map(|batch| u64::from(batch.records))
                .sum::<u64>();
            let (epoch, from, to) = (self.outbox.epoch(), first.number, last.number);
            self.outbox
                .acknowledge(&[BatchRange { epoch, from, to }], now()?)?;
        }
    }
}

/// Length, CRC32 and bytes of each record, one after the other.
struct Log {
    file: File,
}

impl Log {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(path)?;
        // What a crash may have torn is found as any log finds it.
        read_all(&mut file)?;
        Ok(Self { file })
    }
}

impl Queue for Log {
    fn append(&mut self, records: &[String]) -> anyhow::Result<()> {
        let mut bytes = Vec::with_capacity(records.iter().map(|record| record.len() + 8).sum());
        for record in records {
            bytes.extend_from_slice(&u32::try_from(record.len())?.to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(record.as_bytes()).to_le_bytes());
            bytes.extend_from_slice(record.as_bytes());
        }
        self.file.write_all(&bytes)?;
        Ok(self.file.sync_data()?)
    }

    fn drain(&mut self) -> anyhow::Result<u64> {
        let drained = read_all(&mut self.file)?;
        self.file.set_len(0)?;
        self.file.sync_data()?;
        Ok(drained)
    }
}

fn read_all(file: &mut File) -> anyhow::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, file);
    let (mut head, mut record, mut count) = ([0; 8], Vec::new(), 0);
    while reader.read_exact(&mut head).is_ok() {
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        record.resize(u32::from_le_bytes([l0, l1, l2, l3]) as usize, 0);
        reader.read_exact(&mut record)?;
        let crc = u32::from_le_bytes([c0, c1, c2, c3]);
        ensure!(crc32fast::hash(&record) == crc, "record {count} is damaged");
        count += 1;
    }
    Ok(count)
}

/// A table with a row a record.
struct Sqlite {
    database: Connection,
}

impl Sqlite {
    fn open(path: &Path, synchronous: &str) -> anyhow::Result<Self> {
        let database = Connection::open(path).context("open sqlite")?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", synchronous)?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS outbox (key INTEGER PRIMARY KEY AUTOINCREMENT, record BLOB NOT NULL)",
        )?;
        Ok(Self { database })
    }
}

impl Queue for Sqlite {
    fn append(&mut self, records: &[String]) -> anyhow::Result<()> {
        let transaction = self.database.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO outbox (record) VALUES (?1)")?;
            for record in records {
                insert.execute([record.as_bytes()])?;
            }
        }
        Ok(transaction.commit()?)
    }

    fn drain(&mut self) -> anyhow::Result<u64> {
        let mut drained = 0;
        loop {
            let transaction = self.database.transaction()?;
            let last = {
                let mut oldest = transaction
                    .prepare_cached("SELECT key, record FROM outbox ORDER BY key LIMIT ?1")?;
                let mut rows = oldest.query([DRAIN])?;
                let mut last = None;
                while let Some(row) = rows.next()? {
                    let record: Vec<u8> = row.get(1)?;
                    ensure!(!record.is_empty(), "an empty record");
                    last = Some(row.get::<_, i64>(0)?);
                    drained += 1;
                }
                last
            };
            let Some(last) = last else {
                return Ok(drained);
            };
            transaction.execute("DELETE FROM outbox WHERE key <= ?1", [last])?;
            transaction.commit()?;
        }
    }
}
