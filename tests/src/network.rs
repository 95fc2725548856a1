//! A network of namespaces on this machine whose links can be cut, one way and by protocol.
//!
//! Each host is a network namespace with one address; a bridge in a namespace of its own joins
//! them with the machine that runs the test, which is never cut off. Faults are `nft` rules on
//! what a host hears, so every directed graph of who hears whom can be had. It needs root,
//! `iproute2` and `nftables` (`tests/install`).
//!
//! Everything is gone when the [`Network`] is dropped; what a killed test left is removed by the
//! next one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};

/// The names of all namespaces begin with this, and go on with the process id.
const PREFIX: &str = "kepler-";

/// What a cut stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// Everything.
    All,
    /// Gossip.
    Udp,
    /// Transfers and stream probes.
    Tcp,
}

/// What is wrong with the network now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Faults {
    /// (from, to, what): `to` does not hear this of `from`.
    cuts: BTreeSet<(usize, usize, Traffic)>,
    /// Percent of the datagrams between hosts that are lost.
    loss: u8,
}

/// Hosts on one bridge.
#[derive(Debug)]
pub struct Network {
    tag: String,
    /// The second and third byte of its addresses, in 198.18.0.0/15, which is set aside for tests.
    subnet: (u8, u8),
    uplink: String,
    hosts: usize,
    faults: Mutex<Faults>,
}

impl Network {
    /// Lays a network of `hosts` hosts, all of whom hear each other.
    ///
    /// # Errors
    /// A command fails, or the test does not run as root.
    pub fn new(hosts: usize) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_left_over();
        let process = std::process::id();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let subnet = (0..512)
            .map(|i| (process.wrapping_mul(7) + number + i) % 512)
            .map(|n| (18 + (n >> 8) as u8, (n & 255) as u8))
            .find(|(b, c)| {
                let range = format!("198.{b}.{c}.0/24");
                run("ip", &["-4", "addr", "show", "to", &range], "").is_ok_and(|out| out.is_empty())
            })
            .context("no free subnet in 198.18.0.0/15, or no iproute2: run tests/install")?;
        // From here on a failure drops it, which removes what has been made.
        let mut network = Self {
            tag: format!("{PREFIX}{process}-{number}"),
            subnet,
            uplink: format!("kf{process}n{number}"),
            hosts: 0,
            faults: Mutex::default(),
        };
        let hub = network.hub();
        run("ip", &["netns", "add", &hub], "").context("namespaces need root")?;
        run(
            "ip",
            &["-n", &hub, "-batch", "-"],
            "link add bridge type bridge stp_state 0\nlink set bridge up\n",
        )?;
        let (b, c) = subnet;
        let uplink = &network.uplink;
        let lines = format!(
            "link add {uplink} type veth peer name uplink netns {hub}\n\
             addr add 198.{b}.{c}.254/24 dev {uplink}\n\
             link set {uplink} up\n"
        );
        run("ip", &["-batch", "-"], &lines)?;
        run("ip", &["-n", &hub, "-batch", "-"], "link set uplink master bridge up\n")?;
        for _ in 0..hosts {
            network.add_host()?;
        }
        Ok(network)
    }

    /// Adds a host; its number.
    pub fn add_host(&mut self) -> Result<usize> {
        let host = self.hosts;
        ensure!(host < 200, "a network has room for 200 hosts");
        let (hub, namespace) = (self.hub(), self.namespace(host));
        run("ip", &["netns", "add", &namespace], "")?;
        self.hosts += 1;
        let lines = format!(
            "link add port{host} type veth peer name eth0 netns {namespace}\n\
             link set port{host} master bridge up\n"
        );
        run("ip", &["-n", &hub, "-batch", "-"], &lines)?;
        let address = self.address(host);
        let lines = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
        run("ip", &["-n", &namespace, "-batch", "-"], &lines)?;
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.impose(host, &faults)?;
        Ok(host)
    }

    /// How many hosts there are.
    pub const fn hosts(&self) -> usize {
        self.hosts
    }

    /// The address of a host.
    pub const fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, self.subnet.0, self.subnet.1, host as u8 + 1)
    }

    /// The namespace of a host, for `ip netns exec`.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", self.tag)
    }

    /// `to` no longer hears `from`.
    pub fn cut(&self, from: usize, to: usize, what: Traffic) -> Result<()> {
        self.change(|faults| {
            faults.cuts.insert((from, to, what));
        })
    }

    /// Neither of the two hears the other.
    pub fn cut_both(&self, one: usize, other: usize, what: Traffic) -> Result<()> {
        self.change(|faults| faults.cuts.extend([(one, other, what), (other, one, what)]))
    }

    /// `to` hears `from` again.
    pub fn mend(&self, from: usize, to: usize) -> Result<()> {
        self.change(|faults| faults.cuts.retain(|(f, t, _)| (*f, *t) != (from, to)))
    }

    /// Splits the network: hosts in different groups do not hear each other.
    pub fn split(&self, groups: &[&[usize]]) -> Result<()> {
        let group = |host: usize| groups.iter().position(|g| g.contains(&host));
        self.graph(|from, to| group(from) == group(to))
    }

    /// Imposes a graph: `to` hears `from` where `hears(from, to)`.
    pub fn graph(&self, hears: impl Fn(usize, usize) -> bool) -> Result<()> {
        let hosts = self.hosts;
        self.change(|faults| {
            let pairs = (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to)));
            let deaf = pairs.filter(|(from, to)| from != to && !hears(*from, *to));
            faults.cuts = deaf.map(|(from, to)| (from, to, Traffic::All)).collect();
        })
    }

    /// Loses this many percent of the datagrams between hosts, at random.
    pub fn lose(&self, percent: u8) -> Result<()> {
        self.change(|faults| faults.loss = percent)
    }

    /// Everybody hears everybody, and nothing is lost.
    pub fn heal(&self) -> Result<()> {
        self.change(|faults| *faults = Faults::default())
    }

    /// Packets that the present rules have stopped at all hosts; a change of a host's rules forgets its own.
    pub fn dropped(&self) -> Result<u64> {
        let mut packets = 0;
        for host in 0..self.hosts {
            let namespace = self.namespace(host);
            let rules = run("ip", &["netns", "exec", &namespace, "nft", "list", "ruleset"], "")?;
            let counters = rules.split("counter packets ").skip(1);
            packets += counters.filter_map(|c| c.split(' ').next()?.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(packets)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.tag)
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let before = faults.clone();
        change(&mut faults);
        for host in 0..self.hosts {
            if before.loss != faults.loss || unheard(&before, host).ne(unheard(&faults, host)) {
                self.impose(host, &faults)?;
            }
        }
        Ok(())
    }

    /// Replaces the rules of one host, in one transaction of the kernel.
    fn impose(&self, host: usize, faults: &Faults) -> Result<()> {
        let mut rules = String::from("add table ip faults\ndelete table ip faults\n");
        if *faults != Faults::default() {
            rules.push_str("table ip faults {\nchain hears {\ntype filter hook input priority 0\n");
            for (from, what) in unheard(faults, host) {
                let protocol = match what {
                    Traffic::All => "",
                    Traffic::Udp => "meta l4proto udp ",
                    Traffic::Tcp => "meta l4proto tcp ",
                };
                writeln!(rules, "ip saddr {} {protocol}counter drop", self.address(from))?;
            }
            if faults.loss > 0 {
                let (b, c) = self.subnet;
                let loss = faults.loss;
                writeln!(
                    rules,
                    "ip saddr 198.{b}.{c}.0/24 meta l4proto udp numgen random mod 100 < {loss} counter drop"
                )?;
            }
            rules.push_str("}\n}\n");
        }
        run("ip", &["netns", "exec", &self.namespace(host), "nft", "-f", "-"], &rules)?;
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The other ends of links go with the namespaces.
        let _ = run("ip", &["link", "del", &self.uplink], "");
        for host in 0..self.hosts {
            let _ = run("ip", &["netns", "del", &self.namespace(host)], "");
        }
        let _ = run("ip", &["netns", "del", &self.hub()], "");
    }
}

/// Whom a host does not hear, and what of them.
fn unheard(faults: &Faults, host: usize) -> impl Iterator<Item = (usize, Traffic)> + '_ {
    faults.cuts.iter().filter(move |(_, to, _)| *to == host).map(|(from, _, what)| (*from, *what))
}

/// Removes the namespaces of processes that are gone.
fn remove_left_over() {
    let list = run("ip", &["netns", "list"], "").unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|id| !std::path::Path::new("/proc").join(id).exists()) {
            let _ = run("ip", &["netns", "del", name], "");
        }
    }
}

/// Runs a command to its end with this on its standard input; its standard output.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}: run tests/install"))?;
    // It may end without reading; its exit code says more than the broken pipe.
    let _ = child.stdin.take().context("a pipe was asked for")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {errors}\n{input}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
