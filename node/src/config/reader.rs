//! From arguments to a [`Config`]: collects every fault before anything is given up.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use kepler_protocol::node_id::NodeId;
use kepler_protocol::wire::seal::MAX_KEYS;

use super::args::Arguments;
use super::{
    Anonymous, ApiTokens, ClusterKey, Config, Fault, Faults, Host, LogConfig, NetworkConfig, NodeConfig,
    SecurityConfig, Seed, Source, StorageConfig, TimingConfig, parse, print,
};
use crate::telemetry::LogFormat;

/// The most seeds.
const MAX_SEEDS: usize = 64;
/// The longest interval or grace, in seconds: ten years.
const MAX_SECS: u64 = 315_360_000;

/// Collects faults, sources and printable values while settings are read.
#[derive(Default)]
pub struct Reader {
    pub faults: Vec<Fault>,
    sources: BTreeMap<&'static str, Source>,
    settings: Vec<print::Setting>,
}

impl Reader {
    /// Puts flags and environment together: variables that no flag overrides become flags.
    pub fn gather(
        &mut self,
        mut args: Vec<OsString>,
        env: &BTreeMap<OsString, OsString>,
    ) -> Result<Arguments, Faults> {
        // clap would read the environment of the process by itself.
        let command = Arguments::command().mut_args(|arg| arg.env(None));
        let given = command.clone().try_get_matches_from(&args).map_err(Faults::Usage)?;
        if args.is_empty() {
            args.push("kepler-node".into());
        }
        let mut from_environment = Vec::new();
        for arg in Arguments::command().get_arguments() {
            let (Some(variable), Some(long)) = (arg.get_env().and_then(|v| v.to_str()), arg.get_long())
            else {
                continue;
            };
            let variable = known_variable(variable);
            let source = if given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine) {
                Source::Flag
            } else {
                match env.get(std::ffi::OsStr::new(variable)).filter(|value| !value.is_empty()) {
                    None => Source::Default,
                    Some(value) => {
                        match value.to_str() {
                            Some(text) => from_environment.push(format!("--{long}={text}").into()),
                            None => self.fault(variable, "is not UTF-8".to_owned()),
                        }
                        Source::Environment
                    }
                }
            };
            self.sources.insert(variable, source);
        }
        // Right after the program's name, so that nothing the user wrote can swallow them.
        args.splice(1..1, from_environment);
        let matches = command.try_get_matches_from(&args).map_err(Faults::Usage)?;
        Arguments::from_arg_matches(&matches).map_err(Faults::Usage)
    }

    /// Checks everything. The result counts only if `faults` is empty.
    pub fn config(&mut self, args: Arguments) -> Config {
        let node = self.node(&args);
        let network = self.network(&args);
        let storage = self.storage(&args);
        let security = self.security(&args, &network);
        let timing = self.timing(&args);
        let logs = self.logs(&args);
        let settings = std::mem::take(&mut self.settings);
        Config { node, network, storage, security, timing, logs, print_config: args.print_config, settings }
    }

    fn node(&mut self, args: &Arguments) -> NodeConfig {
        let id = match args.node.node_id.as_deref() {
            Some(text) => {
                self.show("NODE_ID", text);
                text.parse::<NodeId>().map_err(|e| self.fault("NODE_ID", e.to_string())).ok()
            }
            None => {
                self.fault("NODE_ID", "is required: a name for this node, such as node-a".to_owned());
                None
            }
        };
        let fallback = || "unnamed".parse().expect("a valid node id");
        let id = id.unwrap_or_else(fallback);
        let data_dir = match args.node.data_dir.as_deref() {
            Some("") => {
                self.fault("DATA_DIR", "is empty".to_owned());
                PathBuf::new()
            }
            Some(text) if text.contains('\0') => {
                self.fault("DATA_DIR", "contains a NUL character".to_owned());
                PathBuf::new()
            }
            Some(text) => PathBuf::from(text),
            None => PathBuf::from("kepler-data").join(id.as_str()),
        };
        self.show("DATA_DIR", &data_dir.to_string_lossy());
        let zone = self.optional("ZONE", args.node.zone.as_deref(), parse::label);
        let capacity = self.optional("CAPACITY", args.node.capacity.as_deref(), |text| {
            let bytes = parse::size(text)?;
            if bytes < 1 << 20 { Err("is less than 1 MiB".to_owned()) } else { Ok(bytes) }
        });
        NodeConfig { id, data_dir, zone, capacity }
    }

    fn network(&mut self, args: &Arguments) -> NetworkConfig {
        let args = &args.network;
        let http_port = self.port("HTTP_PORT", &args.http_port);
        let gossip_port = self.port("GOSSIP_PORT", &args.gossip_port);
        let transfer_port = self.port("TRANSFER_PORT", &args.transfer_port);
        if let (Some(http), Some(transfer)) = (http_port, transfer_port)
            && http == transfer
            && http != 0
        {
            self.fault("TRANSFER_PORT", format!("is {transfer}, like HTTP_PORT: both are TCP"));
        }
        let seeds = self.optional("SEEDS", args.seeds.as_deref(), |text| {
            let seeds = parse::list(text)
                .map(|part| {
                    part.parse::<Seed>().map_err(|_| {
                        format!("{} is not host:gossip_port, such as 10.0.0.1:4000", parse::quoted(part))
                    })
                })
                .collect::<Result<Vec<_>, _>>()?;
            if seeds.len() > MAX_SEEDS {
                Err(format!("lists more than {MAX_SEEDS} seeds"))
            } else {
                Ok(seeds)
            }
        });
        self.show("BIND_ADDR", &args.bind_addr);
        let bind = match args.bind_addr.parse::<Host>() {
            Ok(Host::Ip(ip)) if !ip.is_multicast() => ip,
            _ => {
                let shown = parse::quoted(&args.bind_addr);
                self.fault(
                    "BIND_ADDR",
                    format!("{shown} is not an IP address to listen on, such as 0.0.0.0"),
                );
                IpAddr::from([127, 0, 0, 1])
            }
        };
        let advertise = self.optional("ADVERTISE_ADDR", args.advertise_addr.as_deref(), |text| {
            match text.parse::<Host>() {
                Ok(Host::Ip(ip)) if ip.is_unspecified() || ip.is_multicast() => {
                    Err(format!("{} is not an address that others can reach", parse::quoted(text)))
                }
                Ok(host) => Ok(host),
                Err(_) => Err(format!("{} is not an IP address or host name", parse::quoted(text))),
            }
        });
        NetworkConfig {
            bind,
            advertise: advertise.or_else(|| (!bind.is_unspecified()).then(|| bind.into())),
            http_port: http_port.unwrap_or_default(),
            gossip_port: gossip_port.unwrap_or_default(),
            transfer_port: transfer_port.unwrap_or_default(),
            seeds: seeds.unwrap_or_default(),
        }
    }

    fn storage(&mut self, args: &Arguments) -> StorageConfig {
        let args = &args.storage;
        let factor = self.number("REPLICATION_FACTOR", &args.replication_factor, 1..=32);
        let chunk_mib = self.number("CHUNK_SIZE_MB", &args.chunk_size_mb, 1..=64);
        let bandwidth =
            self.number("REBALANCE_BANDWIDTH_MBPS", &args.rebalance_bandwidth_mbps, 1..=1_000_000);
        let min_free = self.number("MIN_FREE_MB", &args.min_free_mb, 0..=1 << 40);
        StorageConfig {
            replication_factor: factor as u8,
            chunk_size: (chunk_mib as usize) << 20,
            background_bytes_per_second: bandwidth * 1_000_000,
            min_free: min_free << 20,
        }
    }

    fn security(&mut self, args: &Arguments, network: &NetworkConfig) -> SecurityConfig {
        let args = &args.security;
        let keys = self.secrets(
            ("CLUSTER_KEY", args.cluster_key.as_deref()),
            ("CLUSTER_KEY_FILE", args.cluster_key_file.as_deref()),
            |text| {
                let keys = parse::list(text).map(ClusterKey::parse).collect::<Result<Vec<_>, _>>()?;
                if keys.len() > MAX_KEYS {
                    return Err(format!(
                        "there are more than {MAX_KEYS} keys: leave out those that no node uses any more"
                    ));
                }
                Ok(((!keys.is_empty()).then_some(keys.len()), keys))
            },
        );
        let tokens = self.secrets(
            ("API_TOKEN", args.api_token.as_deref()),
            ("API_TOKEN_FILE", args.api_token_file.as_deref()),
            |text| {
                let tokens = ApiTokens::parse(parse::list(text))?;
                Ok(((!tokens.is_empty()).then_some(tokens.len()), tokens))
            },
        );
        self.show("ANONYMOUS", &args.anonymous);
        let anonymous = match args.anonymous.as_str() {
            "none" => Anonymous::None,
            "read" => Anonymous::Read,
            other => {
                self.fault("ANONYMOUS", format!("{} is neither none nor read", parse::quoted(other)));
                Anonymous::None
            }
        };
        let config = SecurityConfig {
            cluster_keys: keys.unwrap_or_default(),
            api_tokens: tokens.unwrap_or_default(),
            anonymous,
            files: [&args.cluster_key_file, &args.api_token_file]
                .into_iter()
                .flatten()
                .filter(|path| !path.is_empty())
                .map(PathBuf::from)
                .collect(),
        };
        let bind = network.bind;
        let blamed = |faults: &[Fault], name: &str| faults.iter().any(|f| f.variable.starts_with(name));
        if !bind.is_loopback() {
            if config.cluster_keys.is_empty() && !blamed(&self.faults, "CLUSTER_KEY") {
                self.fault(
                    "CLUSTER_KEY",
                    format!("is required with BIND_ADDR={bind}, which others can reach: make one with `kepler key generate`"),
                );
            }
            let read_only = config.anonymous == Anonymous::Read;
            if config.api_tokens.is_empty() && !read_only && !blamed(&self.faults, "API_TOKEN") {
                self.fault(
                    "API_TOKEN",
                    format!(
                        "is required with BIND_ADDR={bind}, which others can reach; or ANONYMOUS=read for reads alone"
                    ),
                );
            }
        }
        config
    }

    fn timing(&mut self, args: &Arguments) -> TimingConfig {
        let args = &args.timing;
        let mut secs =
            |variable, text: &str, low| Duration::from_secs(self.number(variable, text, low..=MAX_SECS));
        let repair_delay = secs("REPAIR_DELAY_SECS", &args.repair_delay_secs, 0);
        let handoff_grace = secs("HANDOFF_GRACE_SECS", &args.handoff_grace_secs, 0);
        let gc_grace = secs("GC_GRACE_SECS", &args.gc_grace_secs, 0);
        let forget_after = secs("FORGET_AFTER_SECS", &args.forget_after_secs, 1);
        let scrub_interval = secs("SCRUB_INTERVAL_SECS", &args.scrub_interval_secs, 1);
        let inventory_interval = secs("INVENTORY_INTERVAL_SECS", &args.inventory_interval_secs, 1);
        TimingConfig {
            swim_period: Duration::from_millis(self.number(
                "SWIM_PERIOD_MS",
                &args.swim_period_ms,
                10..=60_000,
            )),
            ack_grace: Duration::from_millis(self.number("ACK_GRACE_MS", &args.ack_grace_ms, 0..=60_000)),
            repair_delay,
            handoff_grace,
            gc_grace,
            forget_after,
            scrub_interval,
            inventory_interval,
        }
    }

    fn logs(&mut self, args: &Arguments) -> LogConfig {
        self.show("LOG_FORMAT", &args.logs.log_format);
        let format = match args.logs.log_format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.fault("LOG_FORMAT", format!("{} is neither text nor json", parse::quoted(other)));
                LogFormat::Text
            }
        };
        let filter = args.logs.log_level.clone();
        self.show("LOG_LEVEL", &filter);
        if let Err(error) = crate::telemetry::check_filter(&filter) {
            self.fault("LOG_LEVEL", format!("{} is not a level or filter: {error}", parse::quoted(&filter)));
        }
        LogConfig { format, filter }
    }

    fn port(&mut self, variable: &'static str, text: &str) -> Option<u16> {
        let before = self.faults.len();
        let port = self.number(variable, text, 0..=65_535);
        (self.faults.len() == before).then_some(port as u16)
    }

    /// A number within bounds; its lowest where it is at fault, which never leaves this module.
    fn number(&mut self, variable: &'static str, text: &str, bounds: RangeInclusive<u64>) -> u64 {
        self.show(variable, text);
        let low = *bounds.start();
        parse::number(text, bounds).unwrap_or_else(|message| {
            self.fault(variable, message);
            low
        })
    }

    fn optional<T>(
        &mut self,
        variable: &'static str,
        text: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.show(variable, text.unwrap_or_default());
        parse(text?).map_err(|message| self.fault(variable, message)).ok()
    }

    /// Reads secrets from a variable or from the file that another names, never from both. `parse`
    /// returns also how many there are, or `None` if there is none.
    fn secrets<T>(
        &mut self,
        (variable, text): (&'static str, Option<&str>),
        (file_variable, path): (&'static str, Option<&str>),
        parse: impl FnOnce(&str) -> Result<(Option<usize>, T), String>,
    ) -> Option<T> {
        let (blamed, text) = match (text, path) {
            (None, None) => (variable, None),
            (Some(text), None) => (variable, Some(text.to_owned())),
            (None, Some(path)) => {
                let read = parse::secret_file(path).map_err(|message| self.fault(file_variable, message));
                (file_variable, read.ok())
            }
            (Some(_), Some(_)) => {
                self.fault(variable, format!("is set and so is {file_variable}: keep one of them"));
                (variable, None)
            }
        };
        let parsed = text.and_then(|text| match parse(&text) {
            Ok((Some(count), secrets)) => Some((count, secrets)),
            Ok((None, _)) => {
                self.fault(blamed, "holds no secret".to_owned());
                None
            }
            Err(message) => {
                self.fault(blamed, message);
                None
            }
        });
        let shown = parsed.as_ref().map_or_else(String::new, |(count, _)| format!("(hidden, {count})"));
        let (in_variable, in_file) =
            if path.is_some() { ("", path.unwrap_or_default()) } else { (shown.as_str(), "") };
        self.show(variable, in_variable);
        self.show(file_variable, in_file);
        parsed.map(|(_, secrets)| secrets)
    }

    fn show(&mut self, variable: &'static str, value: &str) {
        let source = self.sources.get(variable).copied().unwrap_or(Source::Default);
        self.settings.push(print::Setting { variable, value: value.to_owned(), source });
    }

    fn fault(&mut self, variable: &'static str, message: String) {
        self.faults.push(Fault { variable, message });
    }
}

/// Every variable there is, so that sources and faults can name them for ever.
fn known_variable(name: &str) -> &'static str {
    const ALL: [&str; 29] = [
        "NODE_ID",
        "DATA_DIR",
        "ZONE",
        "CAPACITY",
        "HTTP_PORT",
        "GOSSIP_PORT",
        "TRANSFER_PORT",
        "SEEDS",
        "BIND_ADDR",
        "ADVERTISE_ADDR",
        "REPLICATION_FACTOR",
        "CHUNK_SIZE_MB",
        "REBALANCE_BANDWIDTH_MBPS",
        "MIN_FREE_MB",
        "CLUSTER_KEY",
        "CLUSTER_KEY_FILE",
        "API_TOKEN",
        "API_TOKEN_FILE",
        "ANONYMOUS",
        "SWIM_PERIOD_MS",
        "ACK_GRACE_MS",
        "REPAIR_DELAY_SECS",
        "HANDOFF_GRACE_SECS",
        "GC_GRACE_SECS",
        "FORGET_AFTER_SECS",
        "SCRUB_INTERVAL_SECS",
        "INVENTORY_INTERVAL_SECS",
        "LOG_FORMAT",
        "LOG_LEVEL",
    ];
    ALL.into_iter().find(|known| *known == name).expect("each variable of `args` is in the list above")
}
