//! The models of the zoo and real readings, compiled in, and bundles broken on purpose.

use std::collections::BTreeMap;

use anyhow::Context as _;
use lamppost_models::manifest::Golden;
use lamppost_models::{Bundle, Digest, Manifest, Timestamp};
use serde_json::{Map, Value};

/// One version of a model in `models/zoo`, as its three files.
#[derive(Clone, Copy, Debug)]
pub struct ZooModel {
    manifest: &'static [u8],
    model: &'static [u8],
    golden: &'static [u8],
}

macro_rules! zoo_model {
    ($(#[$doc:meta])* $name:ident, $path:literal) => {
        $(#[$doc])*
        pub const $name: ZooModel = ZooModel {
            manifest: include_bytes!(concat!("../../models/zoo/", $path, "/manifest.json")),
            model: include_bytes!(concat!("../../models/zoo/", $path, "/model.onnx")),
            golden: include_bytes!(concat!("../../models/zoo/", $path, "/golden.json")),
        };
    };
}

zoo_model!(
    /// Next-hour volume on I-94, trained on 2012 and 2013.
    TRAFFIC_FLOW_1_0_0, "traffic-flow/1.0.0"
);
zoo_model!(
    /// The same network, trained on all years up to 2016.
    TRAFFIC_FLOW_1_1_0, "traffic-flow/1.1.0"
);
zoo_model!(
    /// Class of the next hour's volume on I-94.
    TRAFFIC_LEVEL_1_0_0, "traffic-level/1.0.0"
);
zoo_model!(
    /// Next-hour PM2.5 in Beijing.
    AIR_QUALITY_1_0_0, "air-quality/1.0.0"
);

impl ZooModel {
    /// The bundle, as a file has it.
    ///
    /// # Errors
    /// When the zoo's files do not agree, which its own checks exclude.
    pub fn bundle(self) -> anyhow::Result<Vec<u8>> {
        Bundle::pack(self.manifest, self.model, self.golden).context("pack a bundle of the zoo")
    }

    /// The same model under another version.
    ///
    /// # Errors
    /// When `version` is no version.
    pub fn renamed(self, version: &str) -> anyhow::Result<Vec<u8>> {
        self.repack(version, |_| {})
    }

    /// A broken bundle: its parts agree with each other, but the network does not give the outputs that its first golden
    /// vector promises. Only running it can tell.
    ///
    /// # Errors
    /// When `version` is no version.
    pub fn with_altered_golden(self, version: &str) -> anyhow::Result<Vec<u8>> {
        self.repack(version, |golden| {
            if let Some(output) = golden
                .cases
                .first_mut()
                .and_then(|case| case.outputs.first_mut())
            {
                *output += 0.5;
            }
        })
    }

    /// The same model under another version, with its golden vectors so often that the bundle has `bytes` or more.
    ///
    /// # Errors
    /// When `version` is no version.
    pub fn grown(self, version: &str, bytes: usize) -> anyhow::Result<Vec<u8>> {
        let times = 1 + bytes.saturating_sub(self.model.len()) / self.golden.len();
        self.repack(version, |golden| {
            let cases = golden.cases.clone();
            golden.cases = std::iter::repeat_n(cases, times).flatten().collect();
        })
    }

    fn repack(self, version: &str, alter: impl FnOnce(&mut Golden)) -> anyhow::Result<Vec<u8>> {
        let mut golden: Golden =
            serde_json::from_slice(self.golden).context("golden vectors of the zoo")?;
        alter(&mut golden);
        let golden = serde_json::to_vec(&golden)?;
        let mut manifest = Manifest::parse(self.manifest).context("manifest of the zoo")?;
        manifest.version = version
            .parse()
            .with_context(|| format!("version {version:?}"))?;
        manifest.golden.digest = Digest::of(&golden);
        Bundle::pack(&serde_json::to_vec(&manifest)?, self.model, &golden)
            .context("pack an altered bundle")
    }
}

/// A sensor's recorded year: one JSON message an hour, oldest first.
#[derive(Clone, Debug)]
pub struct Recording {
    messages: Vec<Message>,
    truth: BTreeMap<Timestamp, f64>,
}

/// What a sensor sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// When it measured.
    pub ts: Timestamp,
    /// The payload: `{"ts":"...","volume":..,..}`.
    pub json: String,
}

impl Recording {
    /// Traffic on I-94 from 2016-12-31 on: the first 24 readings fill a window, and all that is predicted lies in years that
    /// no version of traffic-flow was trained on.
    ///
    /// # Errors
    /// When the compiled-in file does not parse.
    pub fn traffic() -> anyhow::Result<Self> {
        Self::parse(
            include_str!("../data/i94-replay.csv"),
            "volume",
            "2016-12-31T00:00:00-06:00",
        )
    }

    /// Air in Beijing from 2013-12-31 on.
    ///
    /// # Errors
    /// When the compiled-in file does not parse.
    pub fn air() -> anyhow::Result<Self> {
        Self::parse(
            include_str!("../data/air-replay.csv"),
            "pm25",
            "2013-12-31T00:00:00+08:00",
        )
    }

    fn parse(csv: &str, target: &str, from: &str) -> anyhow::Result<Self> {
        let from: Timestamp = from.parse()?;
        let mut lines = csv.lines();
        let header: Vec<&str> = lines.next().context("a header line")?.split(',').collect();
        let mut recording = Self {
            messages: Vec::new(),
            truth: BTreeMap::new(),
        };
        for line in lines {
            let mut fields = Map::new();
            for (name, cell) in header
                .iter()
                .zip(line.split(','))
                .filter(|(_, cell)| !cell.is_empty())
            {
                let number = if *name == "ts" {
                    None
                } else {
                    cell.parse::<f64>().ok()
                };
                fields.insert(
                    (*name).to_owned(),
                    number.map_or_else(|| Value::from(cell), Value::from),
                );
            }
            let ts: Timestamp = fields
                .get("ts")
                .and_then(Value::as_str)
                .context("column ts")?
                .parse()?;
            if ts < from {
                continue;
            }
            if let Some(value) = fields.get(target).and_then(Value::as_f64) {
                recording.truth.insert(ts, value);
            }
            recording.messages.push(Message {
                ts,
                json: Value::Object(fields).to_string(),
            });
        }
        Ok(recording)
    }

    /// The messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// What was measured at each hour, of the field that the models predict.
    pub const fn truth(&self) -> &BTreeMap<Timestamp, f64> {
        &self.truth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bundles_of_the_zoo_pack_and_read_back() {
        for model in [
            TRAFFIC_FLOW_1_0_0,
            TRAFFIC_FLOW_1_1_0,
            TRAFFIC_LEVEL_1_0_0,
            AIR_QUALITY_1_0_0,
        ] {
            let bytes = model.bundle().unwrap();
            assert_eq!(Bundle::read(&bytes).unwrap().digest(), Digest::of(&bytes));
        }
    }

    #[test]
    fn an_altered_golden_vector_is_the_only_difference() {
        let good = Bundle::read(&TRAFFIC_FLOW_1_1_0.renamed("1.2.0").unwrap()).unwrap();
        let bad = Bundle::read(&TRAFFIC_FLOW_1_1_0.with_altered_golden("1.2.0").unwrap()).unwrap();
        assert_eq!(good.manifest().version.to_string(), "1.2.0");
        assert_eq!(good.model(), bad.model());
        assert_ne!(good.golden(), bad.golden());
    }

    #[test]
    fn recordings_start_before_the_test_period_and_hold_their_target() {
        let traffic = Recording::traffic().unwrap();
        assert_eq!(traffic.messages()[0].ts.to_string(), "2016-12-31T06:00:00Z");
        assert_eq!(
            traffic.messages()[23].ts.to_string(),
            "2017-01-01T05:00:00Z"
        );
        assert_eq!(
            traffic.truth().get(&traffic.messages()[24].ts),
            Some(&1848.0)
        );
        assert!(traffic.messages()[24].json.contains("\"volume\":1848.0"));
        let air = Recording::air().unwrap();
        assert!(air.messages()[0].json.contains("\"wind\":\""));
        assert!(traffic.messages().is_sorted_by_key(|message| message.ts));
        assert!(air.messages().is_sorted_by_key(|message| message.ts));
    }
}
