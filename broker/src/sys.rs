//! The `$SYS` topics: what the broker counts, as retained messages under the names that mosquitto uses (its manual page
//! mosquitto(8), section "Broker status").
//!
//! A subscription to `#` does not select them, `$SYS/#` does. Who may read them is decided as for any topic: a rule that
//! denies subscriptions to `$SYS/#` hides them. Nobody but the broker can publish there.
//!
//! `clients/refused` and `retained messages/unsaved` are our own. Not there: `timestamp` (a build has no date of its own), `heap` (the allocator does not tell), and mosquitto's
//! deprecated names. Links of this process count in `publish/`, which has messages, and not in `messages/` and `bytes/`,
//! which have packets of the network.

use crate::{
    auth::Access,
    hub::Hub,
    message::{Draft, QoS},
    publisher::Publisher,
    router::RouterLink,
    stats::{Figure, Stats},
};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

/// Takes a number out of the statistics.
type Pick = fn(&Stats) -> u64;

/// Topics below `$SYS/broker/` that show a number as it is.
const NUMBERS: [(&str, Pick); 20] = [
    ("clients/total", |s| s.sessions),
    ("clients/disconnected", |s| s.absent_sessions),
    ("clients/expired", |s| s.sessions_expired),
    ("clients/connected", |s| s.clients),
    ("messages/received", |s| s.packets_in),
    ("messages/sent", |s| s.packets_out),
    ("messages/stored", stored),
    ("publish/messages/received", |s| s.messages_in),
    ("publish/messages/sent", |s| s.messages_out),
    ("publish/messages/dropped", dropped),
    ("publish/bytes/received", |s| s.payload_bytes_in),
    ("publish/bytes/sent", |s| s.payload_bytes_out),
    ("bytes/received", |s| s.bytes_in),
    ("bytes/sent", |s| s.bytes_out),
    ("subscriptions/count", |s| s.subscriptions),
    ("retained messages/count", |s| s.retained_count),
    ("retained messages/unsaved", |s| s.retained_unsaved),
    ("store/messages/count", stored),
    ("store/messages/bytes", |s| {
        s.retained_bytes + s.queued_bytes
    }),
    ("clients/refused", refused),
];

/// Topics below `$SYS/broker/load/` that show how fast a number grows, in units a minute.
const LOADS: [(&str, Pick); 9] = [
    ("messages/received", |s| s.packets_in),
    ("messages/sent", |s| s.packets_out),
    ("publish/received", |s| s.messages_in),
    ("publish/sent", |s| s.messages_out),
    ("publish/dropped", dropped),
    ("bytes/received", |s| s.bytes_in),
    ("bytes/sent", |s| s.bytes_out),
    ("sockets", |s| s.accepted),
    ("connections", |s| s.connected),
];

/// The spans over which loads are averaged.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

fn stored(stats: &Stats) -> u64 {
    stats.retained_count + stats.queued_messages
}

fn dropped(stats: &Stats) -> u64 {
    sum(stats, |figure| figure.drop_reason().is_some())
}

fn refused(stats: &Stats) -> u64 {
    sum(stats, |figure| figure.refusal_reason().is_some())
}

fn sum(stats: &Stats, wanted: impl Fn(&Figure) -> bool) -> u64 {
    let figures = stats.figures();
    figures.iter().filter(|f| wanted(f)).map(|f| f.value).sum()
}

/// Publishes the topics every `interval` until the broker stops: all at first, then those whose value has changed.
pub(crate) async fn run(hub: Arc<Hub>, interval: Duration) {
    let router = Arc::clone(&hub.router);
    let Ok(Ok(mut link)) = tokio::task::spawn_blocking(move || router.link()).await else {
        warn!("the router has no room for the $SYS topics, which are not published");
        return;
    };
    let origin = hub.next_origin();
    let mut publisher = Publisher::new(Arc::clone(&hub), Access::trusted(), origin);
    let mut tree = Tree::default();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Instant::now();
    loop {
        tokio::select! {
            () = hub.stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let changed = tree.step(&hub.stats(), now - before);
        before = now;
        let published = tokio::select! {
            () = hub.stop.cancelled() => break,
            published = publish(&mut publisher, &mut link, changed) => published,
        };
        if !published {
            warn!("the router has stopped; the $SYS topics are not published any more");
            return;
        }
    }
    hub.router.release(link);
}

/// Publishes values; false if the router is gone. Like any publisher it waits, within limits, for subscribers that lag.
async fn publish(
    publisher: &mut Publisher,
    link: &mut RouterLink,
    values: Vec<(String, String)>,
) -> bool {
    while publisher.is_held(link) {
        publisher.wait().await;
    }
    for (topic, value) in values {
        let draft = Draft {
            qos: QoS::AtMostOnce,
            retain: true,
            properties: b"",
            deadline: None,
            payload: value.as_bytes(),
        };
        let published = publisher.publish(link, &topic, &draft);
        debug!(topic, value, ?published, "status");
    }
    link.flush().is_ok()
}

/// The values as they were published last.
#[derive(Debug, Default)]
struct Tree {
    clients_max: u64,
    loads: [Load; LOADS.len()],
    shown: HashMap<String, String>,
}

/// How fast a number grows.
#[derive(Debug, Default)]
struct Load {
    before: u64,
    averages: [f64; SPANS.len()],
}

impl Tree {
    /// The topics whose values differ from those of the last step, which was so long ago.
    fn step(&mut self, stats: &Stats, since: Duration) -> Vec<(String, String)> {
        // As in mosquitto: as seen at the intervals.
        self.clients_max = self.clients_max.max(stats.clients);
        let mut values = vec![
            (
                "version".to_owned(),
                concat!("lamppost-broker version ", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
            (
                "uptime".to_owned(),
                format!("{} seconds", stats.uptime_seconds),
            ),
            ("clients/maximum".to_owned(), self.clients_max.to_string()),
        ];
        for (name, pick) in NUMBERS {
            values.push((name.to_owned(), pick(stats).to_string()));
        }
        for ((name, pick), load) in LOADS.iter().zip(&mut self.loads) {
            load.step(pick(stats), since);
            for ((span, _), average) in SPANS.iter().zip(load.averages) {
                values.push((format!("load/{name}/{span}"), format!("{average:.2}")));
            }
        }
        let mut changed = Vec::new();
        for (name, value) in values {
            let topic = format!("$SYS/broker/{name}");
            if self.shown.get(&topic) != Some(&value) {
                self.shown.insert(topic.clone(), value.clone());
                changed.push((topic, value));
            }
        }
        changed
    }
}

impl Load {
    /// An exponentially weighted moving average, as of a Unix system's load: an old rate fades to 1/e within its span.
    fn step(&mut self, number: u64, since: Duration) {
        let grown = number.saturating_sub(std::mem::replace(&mut self.before, number));
        let seconds = since.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let rate = grown as f64 * 60.0 / seconds;
        for ((_, span), average) in SPANS.iter().zip(&mut self.averages) {
            *average = rate + (*average - rate) * (-seconds / span).exp();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LOADS, Load, NUMBERS, SPANS, Tree};
    use crate::stats::Stats;
    use std::{collections::HashSet, time::Duration};

    const TEN_S: Duration = Duration::from_secs(10);

    #[test]
    fn only_changed_values_are_shown() {
        let mut tree = Tree::default();
        let mut stats = Stats::default();
        let first = tree.step(&stats, Duration::ZERO);
        assert_eq!(first.len(), 3 + NUMBERS.len() + LOADS.len() * SPANS.len());
        let topics: HashSet<_> = first.iter().map(|(topic, _)| topic).collect();
        assert_eq!(topics.len(), first.len(), "no topic twice");
        assert!(tree.step(&stats, TEN_S).is_empty());

        (stats.clients, stats.sessions) = (3, 3);
        stats.uptime_seconds = 20;
        let mut second = tree.step(&stats, TEN_S);
        second.sort();
        let wanted = [
            ("$SYS/broker/clients/connected", "3"),
            ("$SYS/broker/clients/maximum", "3"),
            ("$SYS/broker/clients/total", "3"),
            ("$SYS/broker/uptime", "20 seconds"),
        ];
        assert_eq!(second, wanted.map(|(t, v)| (t.to_owned(), v.to_owned())));
        stats.clients = 1;
        let third = tree.step(&stats, TEN_S);
        assert!(!third.iter().any(|(topic, _)| topic.ends_with("maximum")));
    }

    #[test]
    fn a_steady_load_is_approached_and_fades() {
        let mut load = Load::default();
        load.step(100, Duration::ZERO);
        assert!(
            load.averages.iter().all(|average| average.abs() < 1e-9),
            "nothing is known yet"
        );
        // 5 in 10 s are 30 a minute; after one minute the one-minute average has come to 1 - 1/e of it.
        for n in 1..=6 {
            load.step(100 + 5 * n, TEN_S);
        }
        let wanted = |spans: f64| 30.0 * (1.0 - (-spans).exp());
        for (average, wanted) in
            load.averages
                .iter()
                .zip([wanted(1.0), wanted(0.2), wanted(1.0 / 15.0)])
        {
            assert!((average - wanted).abs() < 1e-9, "{average} {wanted}");
        }
        for _ in 0..60 {
            load.step(130, TEN_S);
        }
        assert!(
            load.averages[0] < 0.01 && load.averages[2] > 0.5,
            "{load:?}"
        );
    }

    #[test]
    fn drops_and_refusals_are_sums() {
        let stats = Stats {
            lost_slow_subscriber: 1,
            expired: 2,
            dropped_oversize: 4,
            refused_password: 8,
            refused_sockets: 16,
            malformed: 32,
            ..Stats::default()
        };
        assert_eq!((super::dropped(&stats), super::refused(&stats)), (7, 24));
    }
}
