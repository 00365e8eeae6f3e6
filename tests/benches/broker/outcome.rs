//! What was measured, against the goals, as tables or as JSON.

use std::collections::BTreeMap;

use lamppost_broker::Limits;
use serde_json::{Value, json};

use crate::contestant::Kind;
use crate::idle::Idle;
use crate::load::{Run, Scenario};
use crate::report::{self, Goal, median, megabytes, number, spread};

/// What the router's log takes for each byte that it accounts; see the documentation of `Limits`.
const LOG_FACTOR: f64 = 3.5;

/// All runs of one contestant in one scenario.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) kind: Kind,
    pub(crate) window: u64,
    pub(crate) runs: Vec<Run>,
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    pub(crate) idle: BTreeMap<Kind, Idle>,
    /// The most resident memory over all scenarios, in bytes.
    pub(crate) loaded: BTreeMap<Kind, u64>,
}

impl Row {
    fn per_second(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.per_second).collect()
    }

    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(&self.runs.iter().map(of).collect::<Vec<_>>())
    }

    fn lost(&self) -> u64 {
        self.runs.iter().map(|run| run.lost).sum()
    }

    fn disordered(&self) -> u64 {
        self.runs.iter().map(|run| run.disordered).sum()
    }
}

impl Outcome {
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            println!("{}", serde_json::to_string_pretty(&self.json())?);
            return Ok(());
        }
        self.print_load();
        self.print_memory();
        report::goals(&self.goals());
        Ok(())
    }

    fn print_load(&self) {
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                vec![
                    row.scenario.name.to_owned(),
                    row.kind.name().to_owned(),
                    spread(&row.per_second()),
                    number(row.median(|run| run.broker_us)),
                    format!("{:.0} %", 100.0 * row.median(|run| run.client_share)),
                    row.window.to_string(),
                    row.lost().to_string(),
                    row.disordered().to_string(),
                ]
            })
            .collect();
        let header = [
            "",
            "broker",
            "messages/s delivered",
            "CPU us a message",
            "client's CPU",
            "on their way",
            "lost",
            "disordered",
        ];
        report::table("Brokers, 200-byte payloads, MQTT 3.1.1", &header, &rows);
    }

    fn print_memory(&self) {
        let rows: Vec<Vec<String>> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let idle = self.idle.get(&kind);
                let kilobytes = |bytes: Option<f64>| {
                    bytes.map_or_else(|| "-".to_owned(), |bytes| number(bytes / 1e3))
                };
                vec![
                    kind.name().to_owned(),
                    kilobytes(idle.map(|idle| idle.connected)),
                    kilobytes(idle.map(|idle| idle.subscribed)),
                    kilobytes(idle.map(|idle| idle.used)),
                    self.loaded
                        .get(&kind)
                        .map_or_else(|| "-".to_owned(), |&bytes| number(megabytes(bytes))),
                ]
            })
            .collect();
        let header = [
            "",
            "idle connection kB",
            "subscribed kB",
            "after 400 messages kB",
            "most under load MB",
        ];
        report::table("Resident memory", &header, &rows);
    }

    /// Messages a second of `kind` in the scenario of `row`.
    fn rate(&self, kind: Kind, scenario: &str) -> Option<f64> {
        let row = self
            .rows
            .iter()
            .find(|row| row.kind == kind && row.scenario.name == scenario)?;
        Some(median(&row.per_second()))
    }

    pub(crate) fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for own in self.rows.iter().filter(|row| row.kind == Kind::Lamppost) {
            let scenario = own.scenario.name;
            for (peer, limit) in [(Kind::Mosquitto, 1.5), (Kind::Rumqttd, 0.8)] {
                if let Some(rate) = self.rate(peer, scenario) {
                    goals.push(Goal {
                        what: format!("{scenario}, against {}", peer.name()),
                        measured: median(&own.per_second()) / rate,
                        limit,
                        at_least: true,
                        unit: "x",
                    });
                }
            }
            goals.push(Goal {
                what: format!("{scenario}, messages lost or disordered"),
                measured: (own.lost() + own.disordered()) as f64,
                limit: 0.0,
                at_least: false,
                unit: "",
            });
        }
        if let Some(idle) = self.idle.get(&Kind::Lamppost) {
            goals.push(Goal {
                what: "memory of an idle connection".to_owned(),
                measured: idle.connected / 1e3,
                limit: 30.0,
                at_least: false,
                unit: "kB",
            });
        }
        if let (Some(&own), Some(&peer)) = (
            self.loaded.get(&Kind::Lamppost),
            self.loaded.get(&Kind::Mosquitto),
        ) {
            goals.push(Goal {
                what: "most memory under load, against mosquitto's and our caps".to_owned(),
                measured: megabytes(own),
                limit: megabytes(peer) + self.caps_bytes() / 1e6,
                at_least: false,
                unit: "MB",
            });
        }
        goals
    }

    /// What the configuration allows to wait inside our broker in these scenarios: one filter is busy at a time, and
    /// each of its subscribers may have a full queue.
    fn caps_bytes(&self) -> f64 {
        let limits = Limits::default();
        let subscribers = self
            .rows
            .iter()
            .map(|row| row.scenario.subscribers)
            .max()
            .unwrap_or(0);
        limits.log_bytes_per_filter as f64 * LOG_FACTOR
            + (limits.queue_bytes_max * subscribers) as f64
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "scenario": row.scenario.name,
                    "broker": row.kind.name(),
                    "on_their_way": row.window,
                    "messages_per_second": row.per_second(),
                    "messages_per_second_median": median(&row.per_second()),
                    "broker_cpu_us_per_message": row.median(|run| run.broker_us),
                    "client_cpu_share": row.median(|run| run.client_share),
                    "lost": row.lost(),
                    "disordered": row.disordered(),
                })
            })
            .collect();
        let memory: Vec<Value> = Kind::ALL
            .into_iter()
            .map(|kind| {
                json!({
                    "broker": kind.name(),
                    "idle_connection_bytes": self.idle.get(&kind).map(|idle| idle.connected),
                    "idle_subscribed_connection_bytes": self.idle.get(&kind).map(|idle| idle.subscribed),
                    "idle_used_connection_bytes": self.idle.get(&kind).map(|idle| idle.used),
                    "loaded_bytes_max": self.loaded.get(&kind),
                })
            })
            .collect();
        let goals: Vec<Value> = self
            .goals()
            .iter()
            .map(|goal| {
                json!({
                    "goal": goal.what,
                    "measured": goal.measured,
                    "limit": goal.limit,
                    "at_least": goal.at_least,
                    "unit": goal.unit,
                    "met": goal.met(),
                })
            })
            .collect();
        json!({ "load": rows, "memory": memory, "goals": goals })
    }
}
