use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const TOKEN: &str = "0123456789abcdef";

fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Config, Faults> {
    let args = std::iter::once("kepler-node").chain(args.iter().copied());
    Config::parse_from(args, env.iter().copied())
}

fn faults(args: &[&str], env: &[(&str, &str)]) -> Vec<&'static str> {
    parse(args, env).expect_err("there is a fault").variables()
}

fn secret_file(text: &str, mode: u32) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
    file
}

#[test]
fn a_node_id_is_enough_and_the_defaults_are_those_of_the_design() {
    let config = parse(&[], &[("NODE_ID", "node-a")]).unwrap();
    assert_eq!(config.node.id.as_str(), "node-a");
    assert_eq!(config.node.data_dir, PathBuf::from("kepler-data/node-a"));
    assert_eq!((config.node.zone, config.node.capacity), (None, None));
    let network = config.network;
    assert_eq!((network.http_port, network.gossip_port, network.transfer_port), (3000, 4000, 5000));
    assert_eq!(network.bind, IpAddr::from([127, 0, 0, 1]));
    assert_eq!(network.advertise, Some(Host::Ip(network.bind)));
    assert!(network.seeds.is_empty());
    let storage = config.storage;
    assert_eq!((storage.replication_factor, storage.chunk_size), (3, 4 << 20));
    assert_eq!((storage.background_bytes_per_second, storage.min_free), (50_000_000, 1 << 30));
    let timing = config.timing;
    let secs = Duration::from_secs;
    assert_eq!((timing.swim_period, timing.ack_grace), (secs(1) / 2, secs(1) / 2));
    assert_eq!((timing.repair_delay, timing.handoff_grace), (secs(30), secs(600)));
    assert_eq!((timing.gc_grace, timing.forget_after), (secs(3600), secs(3600)));
    assert_eq!((timing.scrub_interval, timing.inventory_interval), (secs(604_800), secs(600)));
    assert!(config.security.cluster_keys.is_empty() && config.security.api_tokens.is_empty());
    assert_eq!(config.security.anonymous, Anonymous::None);
}

#[test]
fn flags_win_over_the_environment_and_empty_variables_are_unset() {
    let env = [("NODE_ID", "env"), ("HTTP_PORT", "1"), ("GOSSIP_PORT", ""), ("ZONE", "")];
    let config = parse(&["--node-id", "flag", "--transfer-port=0"], &env).unwrap();
    assert_eq!(config.node.id.as_str(), "flag");
    assert_eq!(
        (config.network.http_port, config.network.gossip_port, config.network.transfer_port),
        (1, 4000, 0)
    );
    assert_eq!(config.node.zone, None);
}

#[test]
fn everything_can_be_set() {
    let env = [
        ("NODE_ID", "n"),
        ("SEEDS", "10.0.0.1:4000, [::1]:4001 ,node-b:4002"),
        ("BIND_ADDR", "0.0.0.0"),
        ("ADVERTISE_ADDR", "Node-A.example"),
        ("CAPACITY", "1.5TiB"),
        ("CLUSTER_KEY", &format!("{KEY},{}", KEY.replace('0', "a"))),
        ("API_TOKEN", TOKEN),
        ("DATA_DIR", "/data"),
        ("LOG_FORMAT", "json"),
        ("LOG_LEVEL", "debug,libp2p=warn"),
        ("REPAIR_DELAY_SECS", "0"),
    ];
    let config = parse(&[], &env).unwrap();
    let seeds: Vec<String> = config.network.seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["10.0.0.1:4000", "[::1]:4001", "node-b:4002"]);
    assert_eq!(config.network.advertise, Some(Host::Name("node-a.example".to_owned())));
    assert_eq!(config.node.capacity, Some(3 << 39));
    assert_eq!(config.security.cluster_keys.len(), 2);
    assert_eq!(config.security.cluster_keys[0].expose()[..2], [0, 0x11]);
    assert!(config.security.api_tokens.accept(TOKEN.as_bytes()));
    assert_eq!(config.logs.format, LogFormat::Json);
    assert_eq!(config.timing.repair_delay, Duration::ZERO);
}

#[test]
fn each_variable_refuses_what_it_cannot_be() {
    let long_zone = "z".repeat(64);
    let many_seeds = vec!["a:1"; 65].join(",");
    let cases: &[(&str, &[&str])] = &[
        ("NODE_ID", &["A", "-a", "a b", "ä"]),
        ("HTTP_PORT", &["x", "-1", "65536", "+1", "1.0", " 1"]),
        ("GOSSIP_PORT", &["x", "65536"]),
        ("TRANSFER_PORT", &["x", "65536", "3000"]),
        ("SEEDS", &["a", "a:0", "a:x", "10.0.0.1", ":1", "::1:4000", &many_seeds]),
        ("BIND_ADDR", &["localhost", "1.2.3", "x", "224.0.0.1"]),
        ("ADVERTISE_ADDR", &["0.0.0.0", "::", "a b", "256.1.1.1", "a:1"]),
        ("REPLICATION_FACTOR", &["0", "33", "x"]),
        ("CHUNK_SIZE_MB", &["0", "65", "4MiB"]),
        ("REBALANCE_BANDWIDTH_MBPS", &["0", "x", "1000001"]),
        ("MIN_FREE_MB", &["x", "-1", "99999999999999"]),
        ("ZONE", &["a b", "ä", &long_zone]),
        ("CAPACITY", &["x", "1023K", "-1", "1XB"]),
        (
            "CLUSTER_KEY",
            &["x", &KEY[1..], "0000000000000000000000000000000000000000000000000000000000000000", ","],
        ),
        ("CLUSTER_KEY_FILE", &["/nonexistent", "/tmp", "/dev/null"]),
        ("API_TOKEN", &["short", "with a space in it", "0123456789abcdef,short", "ünter-uns-gesagt-ok"]),
        ("API_TOKEN_FILE", &["/nonexistent"]),
        ("ANONYMOUS", &["write", "Read"]),
        ("SWIM_PERIOD_MS", &["9", "60001", "x"]),
        ("ACK_GRACE_MS", &["60001", "x"]),
        ("REPAIR_DELAY_SECS", &["x", "315360001"]),
        ("HANDOFF_GRACE_SECS", &["-1"]),
        ("GC_GRACE_SECS", &["1h"]),
        ("FORGET_AFTER_SECS", &["0"]),
        ("SCRUB_INTERVAL_SECS", &["0"]),
        ("INVENTORY_INTERVAL_SECS", &["0"]),
        ("LOG_FORMAT", &["xml"]),
        ("LOG_LEVEL", &["kepler_node=loud"]),
    ];
    for (variable, values) in cases {
        for value in *values {
            let env = [("NODE_ID", "n"), (variable, value)];
            // A later pair of the same name wins, as it does in a map.
            assert_eq!(faults(&[], &env), [*variable], "{variable}={value}");
            let flag = format!("--{}={value}", variable.to_lowercase().replace('_', "-"));
            let node_id: &[(&str, &str)] = if *variable == "NODE_ID" { &[] } else { &[("NODE_ID", "n")] };
            assert_eq!(faults(&[&flag], node_id), [*variable], "{flag}");
        }
    }
    let tested: Vec<&str> = cases.iter().map(|(variable, _)| *variable).collect();
    for arg in Config::command().get_arguments() {
        let Some(variable) = arg.get_env().and_then(|v| v.to_str()) else { continue };
        assert!(variable == "DATA_DIR" || tested.contains(&variable), "{variable} has no bad values here");
    }
    assert_eq!(faults(&["--data-dir="], &[("NODE_ID", "n")]), ["DATA_DIR"]);
}

#[test]
fn all_faults_are_told_at_once_and_none_tells_a_secret() {
    let secret = "my-secret-but-too";
    let env = [
        ("HTTP_PORT", "x"),
        ("CHUNK_SIZE_MB", "65"),
        ("CLUSTER_KEY", secret),
        ("API_TOKEN", "short-secret"),
        ("BIND_ADDR", "0.0.0.0"),
        ("SEEDS", "nonsense"),
    ];
    let error = parse(&[], &env).unwrap_err();
    assert_eq!(
        error.variables(),
        ["NODE_ID", "HTTP_PORT", "SEEDS", "CHUNK_SIZE_MB", "CLUSTER_KEY", "API_TOKEN"]
    );
    let text = error.to_string();
    assert!(text.starts_with("the configuration has 6 faults:\n  NODE_ID: is required"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn off_loopback_a_key_is_required_and_a_token_unless_reads_are_open() {
    let node = ("NODE_ID", "n");
    for bind in ["0.0.0.0", "::", "192.0.2.1"] {
        let bind = ("BIND_ADDR", bind);
        assert_eq!(faults(&[], &[node, bind]), ["CLUSTER_KEY", "API_TOKEN"]);
        assert_eq!(faults(&[], &[node, bind, ("API_TOKEN", TOKEN)]), ["CLUSTER_KEY"]);
        assert_eq!(faults(&[], &[node, bind, ("ANONYMOUS", "read")]), ["CLUSTER_KEY"]);
        assert_eq!(faults(&[], &[node, bind, ("CLUSTER_KEY", KEY)]), ["API_TOKEN"]);
        assert!(parse(&[], &[node, bind, ("CLUSTER_KEY", KEY), ("ANONYMOUS", "read")]).is_ok());
        assert!(parse(&[], &[node, bind, ("CLUSTER_KEY", KEY), ("API_TOKEN", TOKEN)]).is_ok());
    }
    for bind in ["127.0.0.1", "127.0.0.9", "::1"] {
        assert!(parse(&[], &[node, ("BIND_ADDR", bind)]).is_ok());
    }
    let open = parse(&[], &[node, ("BIND_ADDR", "0.0.0.0"), ("CLUSTER_KEY", KEY), ("ANONYMOUS", "read")]);
    assert_eq!(open.unwrap().network.advertise, None, "all addresses are no address to advertise");
}

#[test]
fn secrets_come_from_private_files_too() {
    let node = ("NODE_ID", "n");
    let keys = secret_file(&format!("{KEY}\n{KEY}\n"), 0o600);
    let tokens = secret_file(&format!("{TOKEN}\n"), 0o400);
    let env = [
        node,
        ("CLUSTER_KEY_FILE", keys.path().to_str().unwrap()),
        ("API_TOKEN_FILE", tokens.path().to_str().unwrap()),
    ];
    let config = parse(&[], &env).unwrap();
    assert_eq!(config.security.cluster_keys.len(), 2);
    assert!(config.security.api_tokens.accept(TOKEN.as_bytes()));

    for mode in [0o640, 0o604, 0o644, 0o620] {
        let open = secret_file(KEY, mode);
        let env = [node, ("CLUSTER_KEY_FILE", open.path().to_str().unwrap())];
        let error = parse(&[], &env).unwrap_err();
        assert_eq!(error.variables(), ["CLUSTER_KEY_FILE"], "{mode:o}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    for text in ["", "\n\n", "nonsense", &"x".repeat(70_000)] {
        let bad = secret_file(text, 0o600);
        let path = bad.path().to_str().unwrap();
        assert_eq!(faults(&[], &[node, ("CLUSTER_KEY_FILE", path)]), ["CLUSTER_KEY_FILE"]);
        assert_eq!(faults(&[], &[node, ("API_TOKEN_FILE", path)]), ["API_TOKEN_FILE"]);
    }
    let path = keys.path().to_str().unwrap();
    assert_eq!(faults(&[], &[node, ("CLUSTER_KEY", KEY), ("CLUSTER_KEY_FILE", path)]), ["CLUSTER_KEY"]);
}

#[test]
fn print_config_shows_value_and_source_and_no_secret() {
    let tokens = secret_file(TOKEN, 0o600);
    let path = tokens.path().to_str().unwrap().to_owned();
    let env = [("NODE_ID", "n"), ("CLUSTER_KEY", KEY), ("API_TOKEN_FILE", &path)];
    let config = parse(&["--print-config", "--http-port", "0"], &env).unwrap();
    assert!(config.print_config);
    let text = config.describe();
    let line = |variable: &str| {
        let found = text.lines().find(|l| l.starts_with(&format!("{variable}=")));
        found
            .unwrap_or_else(|| panic!("{variable} is missing in\n{text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("NODE_ID"), "NODE_ID=n # environment");
    assert_eq!(line("HTTP_PORT"), "HTTP_PORT=0 # flag");
    assert_eq!(line("GOSSIP_PORT"), "GOSSIP_PORT=4000 # default");
    assert_eq!(line("CLUSTER_KEY"), "CLUSTER_KEY=(hidden, 1) # environment");
    assert_eq!(line("API_TOKEN_FILE"), format!("API_TOKEN_FILE={path} # environment"));
    assert_eq!(line("DATA_DIR"), "DATA_DIR=kepler-data/n # default");
    for arg in Config::command().get_arguments() {
        if let Some(variable) = arg.get_env().and_then(|v| v.to_str()) {
            line(variable);
        }
    }
    for shown in [text.clone(), format!("{config:?}")] {
        assert!(!shown.contains(KEY) && !shown.contains(TOKEN), "{shown}");
    }
}

#[test]
fn usage_faults_are_told_by_the_command_line_itself() {
    for args in [&["--nonsense"][..], &["extra"], &["--http-port"], &["--node-id", "a", "--node-id", "b"]] {
        assert!(matches!(parse(args, &[("NODE_ID", "n")]), Err(Faults::Usage(_))), "{args:?}");
    }
    let Err(Faults::Usage(help)) = parse(&["--help"], &[]) else { panic!("help ends here") };
    assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
    let text = Config::command().render_help().to_string();
    for shown in ["--node-id", "[env: NODE_ID]", "[default: 3000]", "Security:", "--print-config"] {
        assert!(text.contains(shown), "{shown} is missing in\n{text}");
    }
}

proptest! {
    #[test]
    fn no_value_makes_the_parser_panic(which in 0..29usize, value in "\\PC{0,30}|[0-9a-f:.,\\[\\]-]{0,40}") {
        let command = Config::command();
        let variable = command.get_arguments().filter_map(|a| a.get_env()?.to_str()).nth(which);
        let Some(variable) = variable else { return Ok(()) };
        // Files are not opened by chance.
        if !variable.ends_with("_FILE") {
            let _ = parse(&[], &[("NODE_ID", "n"), (variable, &value)]);
        }
    }
}

#[test]
fn no_value_of_any_variable_harms_the_reader() {
    use std::os::unix::ffi::OsStringExt;
    let examples =
        ["10.0.0.1:4000,[::1]:4001,node-b:4002", "1.5TiB", KEY, "0123456789abcdef,", "info,a::b=debug"];
    let examples = examples.map(|text| text.as_bytes().to_vec());
    let variables: Vec<String> = Config::command()
        .get_arguments()
        .filter_map(|arg| arg.get_env()?.to_str().map(ToOwned::to_owned))
        // What they name would be read.
        .filter(|variable| !variable.ends_with("_FILE"))
        .collect();
    assert!(variables.len() > 20, "{variables:?}");
    let mut taken = 0;
    for variable in &variables {
        kepler_protocol::fuzz::bears_anything(&examples, 1 << 14, 60, |bytes| {
            let value = OsString::from_vec(bytes.to_vec());
            let env = [(OsString::from("NODE_ID"), OsString::from("n")), (variable.into(), value)];
            match Config::parse_from(["kepler-node"], env) {
                Ok(config) => {
                    drop(config.describe());
                    taken += 1;
                }
                Err(faults) => assert!(!faults.to_string().is_empty()),
            }
        });
    }
    assert!(taken > 10, "only {taken} values were understood");
}
