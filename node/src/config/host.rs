//! Hosts and `host:port` pairs, as settings and `Host` headers spell them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// An IP address or a DNS name in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address; IPv4-mapped IPv6 addresses are kept as IPv4.
    Ip(IpAddr),
    /// A name of 1 to 253 characters.
    Name(String),
}

impl Host {
    /// Whether it names this machine: a loopback address, `localhost` or a name below it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Looks a name up; of several addresses the first, IPv4 preferred.
    ///
    /// # Errors
    /// The name is unknown or the resolver does not answer.
    pub async fn resolve(&self) -> std::io::Result<IpAddr> {
        match self {
            Self::Ip(ip) => Ok(*ip),
            Self::Name(name) => {
                let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
                found
                    .iter()
                    .find(|a| a.is_ipv4())
                    .or(found.first())
                    .map(SocketAddr::ip)
                    .ok_or_else(|| std::io::Error::other(format!("{name} has no address")))
            }
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self::Ip(ip.to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A text that is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or host name")]
pub struct InvalidHost;

impl FromStr for Host {
    type Err = InvalidHost;

    /// Accepts IPv6 addresses with and without brackets, names with and without a final dot.
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if let Some(inside) = bare {
            return inside
                .parse::<std::net::Ipv6Addr>()
                .map(|ip| IpAddr::V6(ip).into())
                .map_err(|_| InvalidHost);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // A name whose last label is a number would be a misspelt IPv4 address.
        let last = name.rsplit('.').next().unwrap_or_default();
        let valid =
            name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit());
        if valid { Ok(Self::Name(name)) } else { Err(InvalidHost) }
    }
}

/// A host and, where one is given, a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if given.
    pub port: Option<u16>,
}

impl FromStr for Authority {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let (host, port) = match text.rsplit_once(':') {
            // A colon inside brackets belongs to an IPv6 address.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(InvalidHost);
        }
        let port = match port {
            None => None,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| InvalidHost)?)
            }
            Some(_) => return Err(InvalidHost),
        };
        Ok(Self { host: host.parse()?, port })
    }
}

/// A member to join through: `host:gossip_port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Where it is.
    pub host: Host,
    /// Its gossip port (UDP).
    pub port: u16,
}

impl FromStr for Seed {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let Authority { host, port } = text.parse()?;
        match port {
            Some(port) if port > 0 => Ok(Self { host, port }),
            _ => Err(InvalidHost),
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_split_at_the_port_and_nowhere_else() {
        let cases = [
            ("localhost", "localhost", None),
            ("LocalHost:3000", "localhost", Some(3000)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("[::1]", "::1", None),
            ("[::1]:65535", "::1", Some(65535)),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1", Some(80)),
            ("node-a.example.:80", "node-a.example", Some(80)),
        ];
        for (text, host, port) in cases {
            let parsed: Authority = text.parse().unwrap();
            assert_eq!((parsed.host.to_string().as_str(), parsed.port), (host, port), "{text}");
        }
        for bad in [
            "",
            ":1",
            "a:",
            "a:b",
            "a:65536",
            "::1",
            "a b",
            "a/b",
            "user@a",
            "1.2.3",
            "256.1.1.1",
            "[a]",
            "-a",
        ] {
            assert_eq!(bad.parse::<Authority>(), Err(InvalidHost), "{bad:?}");
        }
    }
}
