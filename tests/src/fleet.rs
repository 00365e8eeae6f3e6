//! Configuration of a small fleet on loopback, as the files that an operator would write.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::{Offset, TimeZone};
use lamppost_models::id::ParseNameError;
use lamppost_models::{FieldName, GroupId, ModelName, NodePath, Timestamp};

use crate::link::{Link, Uplink};
use crate::zoo::Recording;

/// What a node's sensor measures, and which model reads it.
#[derive(Clone, Debug)]
pub struct Source {
    /// The model.
    pub model: ModelName,
    /// The stream's name.
    pub stream: &'static str,
    /// The sensor's topic.
    pub topic: &'static str,
    /// The field that the model predicts.
    pub target: FieldName,
    /// Its unit.
    pub unit: &'static str,
    /// The fields of the sensor's message.
    pub fields: &'static [&'static str],
    /// Fields that a message may lack.
    pub optional: &'static [&'static str],
    /// What the sensor sent.
    pub recording: Arc<Recording>,
    offset_hours: i8,
}

impl Source {
    /// Vehicles an hour on I-94.
    ///
    /// # Errors
    /// When the compiled-in recording does not parse.
    pub fn traffic() -> anyhow::Result<Self> {
        Ok(Self {
            model: ModelName::new("traffic-flow")?,
            stream: "i94-volume",
            topic: "sensors/i94",
            target: FieldName::new("volume")?,
            unit: "vehicles/h",
            fields: &["volume", "temp"],
            optional: &[],
            recording: Arc::new(Recording::traffic()?),
            offset_hours: -6,
        })
    }

    /// PM2.5 in Beijing.
    ///
    /// # Errors
    /// When the compiled-in recording does not parse.
    pub fn air() -> anyhow::Result<Self> {
        Ok(Self {
            model: ModelName::new("air-quality")?,
            stream: "pm25",
            topic: "sensors/air",
            target: FieldName::new("pm25")?,
            unit: "ug/m3",
            fields: &["pm25", "dewp", "temp", "pres", "wind", "iws"],
            optional: &["pm25"],
            recording: Arc::new(Recording::air()?),
            offset_hours: 8,
        })
    }

    /// Date and hour of `at` on the clock of the place, such as `2017-01-14 15:00`.
    pub fn hour(&self, at: Timestamp) -> String {
        let zone = Offset::from_seconds(i32::from(self.offset_hours) * 3_600)
            .map_or(TimeZone::UTC, TimeZone::fixed);
        let instant =
            jiff::Timestamp::from_millisecond(at.as_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        zone.to_datetime(instant)
            .strftime("%Y-%m-%d %H:%M")
            .to_string()
    }
}

/// A node as it is planned.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Where it is.
    pub path: NodePath,
    /// Its groups; the first that has a release for a model decides.
    pub groups: Vec<GroupId>,
    /// Its one stream.
    pub source: Source,
    /// Further keys of its `[coordinator]` table, a line each.
    pub uplink_keys: String,
    /// Keys of its `[outbox]` table, a line each.
    pub outbox_keys: String,
    /// A file with the trust documents that it believes, in place of the coordinator's key.
    pub trust_file: Option<PathBuf>,
}

impl NodePlan {
    /// A node with one stream.
    ///
    /// # Errors
    /// [`ParseNameError`] when one of the names is none.
    pub fn new(
        site: &str,
        node: &str,
        groups: &[&str],
        source: Source,
    ) -> Result<Self, ParseNameError> {
        let path = NodePath {
            site: site.parse()?,
            node: node.parse()?,
        };
        let groups = groups
            .iter()
            .map(|group| group.parse())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path,
            groups,
            source,
            uplink_keys: String::new(),
            outbox_keys: String::new(),
            trust_file: None,
        })
    }

    /// Its password at the coordinator's broker.
    pub fn password(&self) -> String {
        format!("secret of {}", self.path)
    }

    /// Its `agent.toml`, with times that suit a fleet on one machine: seconds where a city would have minutes.
    pub fn toml(&self, data_dir: &Path, listen: SocketAddr, centre: Option<&CentreAddr>) -> String {
        let Self {
            path,
            groups,
            source,
            uplink_keys: _,
            outbox_keys,
            trust_file: _,
        } = self;
        let coordinator = centre.map_or_else(String::new, |centre| self.coordinator_table(centre));
        let fields: Vec<_> = source
            .fields
            .iter()
            .map(|field| format!("{field} = \"/{field}\""))
            .collect();
        format!(
            r#"site = "{site}"
node = "{node}"
groups = {groups:?}
data_dir = "{data_dir}"

[broker]
listen = "{listen}"
allow_anonymous = true

{coordinator}
[outbox]
{outbox_keys}
[report]
every = "2s"
debounce = "200ms"

[[stream]]
name = "{stream}"
source = {{ topic = "{topic}", decode = "json", time = "/ts", fields = {{ {fields} }}, optional = {optional:?} }}
window = {{ count = 24, hop = 1 }}
model = "{model}"
label = {{ stream = "{stream}", field = "{target}" }}
publish = {{ live = true, flat = "city/{stream}/forecast" }}
"#,
            site = path.site,
            data_dir = data_dir.display(),
            node = path.node,
            groups = groups.iter().map(GroupId::as_str).collect::<Vec<_>>(),
            stream = source.stream,
            topic = source.topic,
            fields = fields.join(", "),
            optional = source.optional,
            model = source.model,
            target = source.target,
        )
    }

    fn coordinator_table(&self, centre: &CentreAddr) -> String {
        let CentreAddr {
            mqtt,
            http,
            key,
            logins,
        } = centre;
        let login = if *logins {
            format!(
                "username = {:?}\npassword = {:?}\n",
                self.path.to_string(),
                self.password()
            )
        } else {
            String::new()
        };
        let believed = match &self.trust_file {
            Some(file) => format!("keys = []\ntrust_file = \"{}\"", file.display()),
            None => format!("keys = [{key:?}]"),
        };
        format!(
            r#"[coordinator]
mqtt = "mqtt://{mqtt}"
http = "http://{http}"
{login}{believed}
keep_alive = "5s"
connect_timeout = "2s"
retry_min = "200ms"
retry_max = "1s"
ack_timeout = "5s"
replay_spread = "0s"
{uplink_keys}"#,
            uplink_keys = self.uplink_keys,
        )
    }
}

/// The broker that nodes and coordinator meet at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The coordinator's own, on a free port; each node has a password.
    Embedded,
    /// Another one, which asks for no password.
    External(SocketAddr),
}

/// The coordinator's `coordinator.toml` for these nodes, on free ports of loopback.
pub fn coordinator_toml(data_dir: &Path, bus: Bus, nodes: &[NodePlan]) -> String {
    let head = format!(
        "data_dir = \"{}\"\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n[broker]\n",
        data_dir.display()
    );
    if let Bus::External(addr) = bus {
        return format!("{head}url = \"mqtt://{addr}\"\n");
    }
    let logins = nodes.iter().map(|plan| {
        let NodePath { site, node } = &plan.path;
        format!(
            "\n[[broker.node]]\nsite = \"{site}\"\nnode = \"{node}\"\npassword = {:?}\n",
            plan.password()
        )
    });
    let logins: String = logins.collect();
    format!("{head}listen = \"127.0.0.1:0\"\n{logins}")
}

/// Where a node finds the coordinator, and whose releases it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CentreAddr {
    /// Its broker.
    pub mqtt: SocketAddr,
    /// Its HTTP API.
    pub http: SocketAddr,
    /// Its public key, as text.
    pub key: String,
    /// Whether its broker asks nodes for their password.
    pub logins: bool,
}

/// A node's way to the coordinator: one link for MQTT and one for HTTP, which fail together.
#[derive(Debug)]
pub struct Uplinks {
    mqtt: Link,
    http: Link,
}

impl Uplinks {
    /// Opens both; they are up.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn open(centre: &CentreAddr) -> io::Result<Self> {
        Ok(Self {
            mqtt: Link::open(centre.mqtt).await?,
            http: Link::open(centre.http).await?,
        })
    }

    /// What the node is told instead of the coordinator's own addresses.
    pub fn addr(&self, centre: &CentreAddr) -> CentreAddr {
        CentreAddr {
            mqtt: self.mqtt.addr(),
            http: self.http.addr(),
            ..centre.clone()
        }
    }

    /// Cuts or restores both.
    pub fn set(&self, uplink: Uplink) {
        self.mqtt.set(uplink);
        self.http.set(uplink);
    }

    /// Connections that MQTT and HTTP made so far.
    pub fn carried(&self) -> (u64, u64) {
        (self.mqtt.carried(), self.http.carried())
    }

    /// Has a bit of every larger piece of an artifact flipped on its way to the node, or no more.
    pub fn alter_artifacts(&self, altering: bool) {
        self.http.set(if altering {
            Uplink::Altering
        } else {
            Uplink::Up
        });
    }

    /// Leads both to a coordinator that has moved.
    pub fn lead_to(&self, centre: &CentreAddr) {
        self.mqtt.set_upstream(centre.mqtt);
        self.http.set_upstream(centre.http);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_are_those_of_the_place() {
        let at: Timestamp = "2017-01-14T21:00:00Z".parse().unwrap();
        assert_eq!(Source::traffic().unwrap().hour(at), "2017-01-14 15:00");
        assert_eq!(Source::air().unwrap().hour(at), "2017-01-15 05:00");
    }
}
