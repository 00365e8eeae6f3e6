//! Plays a recording into a node's broker at a chosen speed, as the sensor did.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mqtt::{BrokerAddr, ClientError, Sensor};
use crate::zoo::Recording;

/// How often the sensor sends what is due: at 50 readings a second, one each time.
const TICK: Duration = Duration::from_millis(20);
/// How long the broker may take to acknowledge the last readings.
const SETTLE: Duration = Duration::from_secs(5);

/// What to play, and how.
#[derive(Clone, Debug)]
pub struct Play {
    /// The broker of the node.
    pub broker: BrokerAddr,
    /// The sensor's client id.
    pub client_id: String,
    /// The sensor's topic.
    pub topic: String,
    /// What it sends.
    pub recording: Arc<Recording>,
    /// The first reading, by its place in the recording.
    pub from: usize,
    /// Readings a second, 0.1 to 1,000.
    pub speed: f64,
    /// When the first is due; players that share it stay in step.
    pub start: Instant,
}

/// A recording that is being played.
#[derive(Debug)]
pub struct Player {
    position: watch::Receiver<usize>,
    stop: CancellationToken,
    task: JoinHandle<Result<usize, ClientError>>,
    _stop_on_drop: DropGuard,
}

impl Player {
    /// Starts to play.
    pub fn start(play: Play) -> Self {
        let stop = CancellationToken::new();
        let (sent, position) = watch::channel(play.from);
        let task = tokio::spawn(run(play, sent, stop.clone()));
        Self {
            position,
            stop: stop.clone(),
            task,
            _stop_on_drop: stop.drop_guard(),
        }
    }

    /// Place of the next reading: how many of the recording have been sent.
    pub fn position(&self) -> usize {
        *self.position.borrow()
    }

    /// Stops, and gives the place of the next reading; the broker has acknowledged all before it.
    ///
    /// # Errors
    /// [`ClientError`] when the sensor's client failed or the broker did not acknowledge all within 5 s.
    pub async fn stop(self) -> Result<usize, ClientError> {
        self.stop.cancel();
        self.task.await.map_err(|_| ClientError::Closed)?
    }
}

async fn run(
    play: Play,
    position: watch::Sender<usize>,
    stop: CancellationToken,
) -> Result<usize, ClientError> {
    let mut sensor = Sensor::connect(&play.broker, &play.client_id);
    let mut tick = tokio::time::interval_at(play.start, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let speed = play.speed.clamp(0.1, 1_000.0);
    let mut next = play.from;
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let due = play.start.elapsed().as_secs_f64() * speed;
        while ((next - play.from) as f64) < due && !stop.is_cancelled() {
            let Some(message) = play.recording.messages().get(next) else {
                stop.cancelled().await;
                break;
            };
            sensor.publish(&play.topic, message.json.as_bytes()).await?;
            next += 1;
            position.send_replace(next);
        }
    }
    sensor.settle(Instant::now() + SETTLE).await?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_player_without_a_broker_stops_with_an_error_and_not_never() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let player = Player::start(Play {
            broker: BrokerAddr::open(nobody),
            client_id: "s".to_owned(),
            topic: "t".to_owned(),
            recording: Arc::new(Recording::air().unwrap()),
            from: 0,
            speed: 500.0,
            start: Instant::now(),
        });
        let mut position = player.position.clone();
        position.wait_for(|&sent| sent > 3).await.unwrap();
        assert!(player.stop().await.is_err());
    }
}
