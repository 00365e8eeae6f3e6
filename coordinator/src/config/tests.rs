use super::*;

const SHIPPED: &str = include_str!("../../../configs/coordinator.toml");

/// The shipped file with every commented example switched on.
fn with_examples() -> String {
    SHIPPED
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_shipped_file_is_the_defaults() {
    assert_eq!(Config::parse(SHIPPED).unwrap(), Config::default());
    assert_eq!(Config::parse("").unwrap(), Config::default());
}

#[test]
fn the_shipped_file_names_every_key() {
    let keys = "data_dir root listen token expose_without_token connections_max downloads_per_backhaul url ca_file anonymous_viewers \
                clients_max nodes_max stale_after node_records_max node_bytes_max cap age lifetime [[broker.node]] \
                [[broker.viewer]]";
    for key in keys.split_whitespace() {
        let names = |line: &str| line.strip_prefix("#: ").unwrap_or(line).starts_with(key);
        assert!(SHIPPED.lines().any(names), "{key}");
    }
}

#[test]
fn the_examples_in_the_shipped_file_are_valid() {
    let examples = with_examples();
    assert!(matches!(
        Config::parse(&examples).unwrap().broker,
        Broker::External(_)
    ));
    let embedded: Vec<&str> = examples
        .lines()
        .filter(|line| !line.starts_with("url"))
        .collect();
    let Broker::Embedded(embedded) = Config::parse(&embedded.join("\n")).unwrap().broker else {
        panic!("no url, so embedded")
    };
    assert_eq!((embedded.nodes.len(), embedded.viewers.len()), (1, 1));
}

#[test]
fn what_is_wrong_is_named_with_its_mend() {
    let long = "a".repeat(300);
    let token = format!("[http]\ntoken = \"{long}\"");
    let cases = [
        ("colour = 1", "colour"),
        ("[http]\nlisten = \"nowhere\"", "listen"),
        ("[http]\nlisten = \"0.0.0.0:7880\"", "set http.token"),
        ("[http]\ntoken = \"short\"", "16 to 256"),
        (&token, "16 to 256"),
        ("[http]\nconnections_max = 0", "choose 1 to 100000"),
        ("[http]\ndownloads_per_backhaul = 0", "choose 1 to 10000"),
        ("[broker]\nlisten = \"0.0.0.0:7883\"", "broker.viewer"),
        ("[broker]\nurl = \"http://host\"", "mqtt://"),
        (
            "[[broker.node]]\nsite = \"a/b\"\nnode = \"c\"\npassword = \"x\"",
            "site",
        ),
        (
            "[[broker.node]]\nsite = \"a\"\nnode = \"c\"\npassword = \"\"",
            "1 to 256 bytes",
        ),
        (
            "[[broker.node]]\nsite = \"a\"\nnode = \"c\"\npassword = \"x\"\n[[broker.viewer]]\nuser = \"a\"\npassword = \"x\"",
            "unlike any site",
        ),
        ("[[broker.viewer]]\nuser = \"a/b\"\npassword = \"x\"", "a/b"),
        ("[inventory]\nstale_after = \"soon\"", "90s"),
        ("[predictions]\nnode_bytes_max = \"7\"", "64MiB"),
        ("[samples]\ncap = \"1KB\"", "choose 1MiB to 1024GiB"),
        ("[samples]\nage = \"5m\"", "choose 1h to 36500d"),
        ("[releases]\nlifetime = \"1s\"", "1m to 3650d"),
    ];
    for (text, wanted) in cases {
        let error = anyhow::Error::from(Config::parse(text).unwrap_err());
        assert!(format!("{error:#}").contains(wanted), "{text}: {error:#}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = with_examples();
    let shown = format!("{:?}", Config::parse(&config).unwrap());
    assert!(
        !shown.contains("change-me") && !shown.contains("0123456789abcdef"),
        "{shown}"
    );
}

#[test]
fn beyond_loopback_works_when_stated() {
    let text = "[http]\nlisten = \"0.0.0.0:1\"\ntoken = \"0123456789abcdef\"\n[broker]\nlisten = \"[::]:1\"\nanonymous_viewers = false";
    Config::parse(text).unwrap();
    Config::parse("[http]\nlisten = \"0.0.0.0:1\"\nexpose_without_token = true").unwrap();
}
