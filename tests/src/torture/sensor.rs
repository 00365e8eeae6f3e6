//! A sensor that sends without a pause, whoever is there to listen.

use std::io;
use std::time::Duration;

use lamppost_models::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::mqtt::{BrokerAddr, ClientError, Sensor};

/// Readings a second.
pub const RATE: u64 = 150;
/// The first reading, on 2000-01-01: no reading may be of the future, and there are hours enough until then.
const FIRST_MS: i64 = 946_684_800_000;
const HOUR_MS: i64 = 3_600_000;

/// The sensor's task.
pub struct Sending {
    stop: CancellationToken,
    task: JoinHandle<Result<u32, ClientError>>,
}

impl Sending {
    /// Sends to a broker that may come and go.
    pub fn start(broker: &BrokerAddr, topic: &'static str) -> Self {
        let stop = CancellationToken::new();
        let sensor = Sensor::connect(broker, "sensor");
        let task = tokio::spawn(run(sensor, topic, stop.clone()));
        Self { stop, task }
    }

    /// Stops; how many readings were sent.
    ///
    /// # Errors
    /// When the sensor's client failed.
    pub async fn stop(self) -> anyhow::Result<u32> {
        self.stop.cancel();
        Ok(self.task.await.map_err(io::Error::other)??)
    }
}

async fn run(
    mut sensor: Sensor,
    topic: &'static str,
    stop: CancellationToken,
) -> Result<u32, ClientError> {
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // It waits while nobody is there.
        match stop
            .run_until_cancelled(sensor.publish(topic, reading(next)))
            .await
        {
            Some(sent) => sent?,
            None => break,
        }
        next += 1;
    }
    Ok(next)
}

/// Reading number `index`: one an hour, and volumes as on a road.
fn reading(index: u32) -> String {
    let at = i64::from(index) * HOUR_MS;
    let at = Timestamp::from_ms(FIRST_MS).map_or(Timestamp::EPOCH, |first| first.offset_ms(at));
    let hour = index % 24;
    let volume = 400 + hour * (24 - hour) * 36 + (index % 168) * 3;
    format!(
        r#"{{"ts":"{at}","volume":{volume}.0,"temp":{}.5}}"#,
        index % 30
    )
}
