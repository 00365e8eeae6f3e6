use lamppost_models::rollout::Share;

use super::*;

fn read(toml: &str) -> Policy {
    toml::from_str(toml).unwrap()
}

fn refused(toml: &str) -> String {
    match toml::from_str::<Policy>(toml) {
        Ok(policy) => policy.check().unwrap_err().to_string(),
        Err(error) => error.message().to_owned(),
    }
}

const ALL: &str = r#"
    name = "careful"
    control = "10 %"
    hours = "Mon-Fri 01:00-05:00"
    downloads_per_backhaul = 4
    bytes_per_day = "2GB"
    deadline = "2d"

    [[wave]]
    nodes = ["city/n1"]
    soak = "1h"
    approve = "manual"

    [[wave]]
    share = "2.5 %"
    tags = ["backhaul=lte-7"]
    groups = ["lab"]
    deadline = "3d 12h"
    [wave.gate]
    min_reports = 2
    on_fail = "hold"
    [wave.gate.quality]
    min_labels = 7

    [[wave]]
    share = "90 %"

    [gate]
    reported_share_min = "90 %"
    failed_max = 3
    failed_share_max = "1 %"
    crashes_max = 2
    latency_ratio_max = 1.2
    [gate.quality]
    kind = "both"

    [trial]
    latency_us_max = 50000
    [trial.shadow]
    windows = 30
    labels = 300
    [trial.probation]
    windows = 30
"#;

#[test]
fn a_policy_is_read_and_written_as_toml_and_json() {
    let policy = read(ALL);
    assert_eq!(policy.check(), Ok(()));
    assert_eq!(policy.waves[1].share, Share::new(250).ok());
    assert_eq!(policy.waves[1].deadline.unwrap().as_secs(), 84 * 3600);
    assert_eq!(policy.bytes_per_day, Some(Bytes(2_000_000_000)));
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
    let written = toml::to_string(&policy).unwrap();
    assert_eq!(read(&written), policy);
    assert!(written.contains("share = \"2.50 %\""), "{written}");
}

#[test]
fn what_a_wave_exposes_only_grows() {
    let policy = read(ALL);
    let exposures: Vec<Exposure> = (0..4).map(|wave| policy.exposure(wave)).collect();
    assert_eq!(exposures[0].share, Share::NONE);
    assert_eq!(exposures[0].nodes.len(), 1);
    assert_eq!(
        exposures[1].nodes.len(),
        1,
        "what one names is in all that follow"
    );
    assert_eq!(exposures[2].share, Share::new(9000).unwrap());
    assert_eq!((exposures[2].tags.len(), exposures[2].groups.len()), (1, 1));
    assert_eq!(exposures[3], exposures[2]);
    assert_eq!(policy.gate(1).min_reports, 2);
    assert_eq!(policy.deadline(0).as_secs(), 2 * 86_400);
}

#[test]
fn the_built_in_policy_is_possible_and_what_a_short_file_becomes() {
    let canary = Policy::canary();
    assert_eq!(canary.check(), Ok(()));
    let node = lamppost_models::NodePath {
        site: "city".parse().unwrap(),
        node: "n1".parse().unwrap(),
    };
    let first = canary.with_first(node);
    assert_eq!(first.check(), Ok(()));
    assert_eq!(first.waves.len(), 4);
    let short = read("[[wave]]\nshare = \"100 %\"\n");
    assert_eq!(short.check(), Ok(()));
    assert_eq!(short.trial, first.trial);
    assert_eq!(short.gate, Gate::default());
}

/// What is refused, and how the refusal begins.
const IMPOSSIBLE: &[(&str, &str)] = &[
    ("wave = []", "policy: wave is 0 waves: 1 to 16 waves"),
    (
        "{wave}[[wave]]\nshare = \"5 %\"\n",
        "policy: wave 2: share is 5 %: a wave exposes at least what the one before does, 10 %",
    ),
    (
        "[[wave]]\nsoak = \"5m\"\n",
        "policy: wave 1: share is missing: give at least one of",
    ),
    (
        "control = \"30 %\"\n[[wave]]\nshare = \"80 %\"\n",
        "policy: control is 30 %: the last wave's share 80 % and the control share do not fit",
    ),
    ("control = \"100 %\"\n{wave}", "policy: control is 100 %"),
    (
        "deadline = \"0s\"\n{wave}",
        "policy: deadline is 0s: 1s to 366d",
    ),
    (
        "{wave}soak = \"2d\"\n",
        "policy: wave 1: soak is 2d: no longer than the deadline, 1d",
    ),
    (
        "{wave}[gate]\nmin_reports = 0\n",
        "policy: gate.min_reports is 0: at least 1",
    ),
    (
        "{wave}[gate]\nlatency_ratio_max = 0.5\n",
        "policy: gate.latency_ratio_max is 0.5: 1 to 1000",
    ),
    (
        "{wave}[gate.quality]\nloss_ratio_max = 3.0\n",
        "policy: gate.quality.loss_ratio_max is 3: 0.5 to 2",
    ),
    (
        "{wave}[gate.quality]\nalpha = 0.0\n",
        "policy: gate.quality.alpha is 0",
    ),
    (
        "{wave}[gate.quality]\nblock = 0\n",
        "policy: gate.quality.block is 0",
    ),
    (
        "{wave}[gate.quality]\nkind = \"both\"\n",
        "policy: control is 0 %: comparing cohorts takes control nodes",
    ),
    (
        "{wave}[wave.gate.quality]\nblock = 10\n[[wave]]\nshare = \"20 %\"\n[gate.quality]\n",
        "policy: wave 2: gate.quality.block is 48: one test runs through all waves: 10",
    ),
    (
        "{wave}[gate.quality]\n[trial]\n",
        "policy: trial.shadow is missing: a gate compares shadows",
    ),
    (
        "{wave}[trial.shadow]\ncpu_share = 0.0\n",
        "policy: trial.shadow.cpu_share is 0: above 0",
    ),
    (
        "downloads_per_backhaul = 0\n{wave}",
        "policy: downloads_per_backhaul is 0",
    ),
    (
        "bytes_per_day = \"0B\"\n{wave}",
        "policy: bytes_per_day is 0B",
    ),
    (
        "[[wave]]\nshare = \"101 %\"\n",
        "\"101 %\" is no share of 0 to 100 per cent",
    ),
    (
        "{wave}nodes = [\"n1\"]\n",
        "\"n1\" is no node: write it like site/node",
    ),
    ("{wave}tags = [\"lte\"]\n", "\"lte\" is no tag"),
    ("{wave}soak = \"5\"\n", "\"5\" is no length of time"),
    (
        "bytes_per_day = \"2 apples\"\n{wave}",
        "\"2 apples\" is no number of bytes",
    ),
    ("{wave}shaer = \"5 %\"\n", "unknown field `shaer`"),
    ("{wave}[gate]\nfailed = 3\n", "unknown field `failed`"),
    (
        "{wave}[trial]\nlatency_ratio = 2.0\n",
        "unknown field `latency_ratio`",
    ),
    (
        "{wave}[trial.shadow]\nerror_ratio = 2.0\n",
        "unknown field `error_ratio`",
    ),
    (
        "{wave}[trial.probation]\ncrash = 2\n",
        "unknown field `crash`",
    ),
];

#[test]
fn impossible_policies_are_refused_with_field_value_and_mend() {
    let wave = "[[wave]]\nshare = \"10 %\"\n";
    for (toml, wanted) in IMPOSSIBLE {
        let toml = toml.replace("{wave}", wave);
        let found = refused(&toml);
        assert!(found.starts_with(wanted), "{toml}: {found}");
    }
    let names: Vec<String> = (0..65).map(|node| format!("\"city/n{node}\"")).collect();
    let many = refused(&format!("[[wave]]\nnodes = [{}]\n", names.join(", ")));
    assert!(
        many.starts_with("policy: wave: nodes is 65: at most 64"),
        "{many}"
    );
    let many = refused(&wave.repeat(17));
    assert!(many.starts_with("policy: wave is 17 waves"), "{many}");
}

#[test]
fn spans_and_sizes_are_read_as_they_are_written() {
    for (text, seconds, written) in [
        ("90s", 90, "1m 30s"),
        ("2h", 7200, "2h"),
        ("1d 12h", 129_600, "1d 12h"),
        ("2w", 1_209_600, "14d"),
        ("0s", 0, "0s"),
    ] {
        let span: Span = text.parse().unwrap();
        assert_eq!(
            (span.as_secs(), span.to_string()),
            (seconds, written.to_owned())
        );
        assert_eq!(written.parse(), Ok(span));
    }
    for wrong in [
        "",
        "5",
        "h",
        "-5m",
        "5 m",
        "1.5h",
        "99999999999999999999w",
        "5mm",
    ] {
        assert!(wrong.parse::<Span>().is_err(), "{wrong:?}");
    }
    for (text, bytes) in [("64MiB", 64 << 20), ("2GB", 2_000_000_000), ("1500B", 1500)] {
        let size: Bytes = text.parse().unwrap();
        assert_eq!((size.0, size.to_string()), (bytes, text.to_owned()));
    }
    for wrong in ["", "5", "MB", "99999999999TB"] {
        assert!(wrong.parse::<Bytes>().is_err(), "{wrong:?}");
    }
}
