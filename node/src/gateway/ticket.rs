//! Tickets: what stands in an address that opens one file for a while.
//!
//! A browser's own players and downloads cannot send a token, and cookies would open everything to every page
//! that makes a browser ask. A ticket is good for reading one name (or one version of it) until it
//! expires, for nobody who does not know the address, and is proved by a key that never leaves this process.
//! It is absent: a list of tickets. One that was drawn is valid until it expires, or until tokens change.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use kepler_protocol::name::Name;
use kepler_protocol::version::Dot;

/// The parameter that carries one.
pub const TICKET: &str = "ticket";

/// How long one is good for.
pub const GOOD_FOR: Duration = Duration::from_secs(600);

/// Draws tickets and knows its own.
#[derive(Debug)]
pub struct Tickets {
    /// `None` where the system gave no randomness: then there are no tickets.
    key: Option<hmac::Key>,
    /// Expiry counts from here: no wall clock, which can be set back.
    since: Instant,
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

impl Tickets {
    /// Tickets of a new key.
    pub fn new() -> Self {
        let mut key = [0; 32];
        let key = getrandom::fill(&mut key).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &key));
        Self { key, since: Instant::now() }
    }

    /// A ticket for `name`, in `version` if one is given, that expires after [`GOOD_FOR`].
    pub fn draw(&self, name: &Name, version: Option<Dot>) -> Option<String> {
        let until = (self.since.elapsed() + GOOD_FOR).as_secs();
        self.key.as_ref().map(|key| {
            let tag = hmac::sign(key, &signed(until, name, version));
            format!("{until:x}.{}", hex::encode(tag))
        })
    }

    /// Whether `ticket` opens `name`, in `version` if one is asked for, now.
    pub fn accept(&self, ticket: &str, name: &Name, version: Option<Dot>) -> bool {
        self.accept_at(self.since.elapsed(), ticket, name, version)
    }

    fn accept_at(&self, now: Duration, ticket: &str, name: &Name, version: Option<Dot>) -> bool {
        let parts = ticket.split_once('.').and_then(|(until, tag)| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(tag, &mut bytes).ok()?;
            Some((u64::from_str_radix(until, 16).ok()?, bytes))
        });
        let (Some(key), Some((until, tag))) = (&self.key, parts) else { return false };
        // In constant time.
        hmac::verify(key, &signed(until, name, version), &tag).is_ok() && now.as_secs() < until
    }
}

/// What is proved. No name has a zero byte, so no two files sign alike.
fn signed(until: u64, name: &Name, version: Option<Dot>) -> Vec<u8> {
    let version = version.map(|dot| dot.to_string()).unwrap_or_default();
    [
        b"kepler-ticket-v1\0",
        until.to_be_bytes().as_slice(),
        name.as_str().as_bytes(),
        b"\0",
        version.as_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_opens_its_file_until_it_expires_and_nothing_else() {
        let (tickets, name) = (Tickets::new(), "a/b".parse().unwrap());
        let version: Dot = "node-a.00000000000000ab.1".parse().unwrap();
        let (of_name, of_version) =
            (tickets.draw(&name, None).unwrap(), tickets.draw(&name, Some(version)).unwrap());
        assert!(tickets.accept(&of_name, &name, None) && tickets.accept(&of_version, &name, Some(version)));
        assert!(!tickets.accept(&of_name, &name, Some(version)) && !tickets.accept(&of_version, &name, None));
        for other in ["a", "a/b/c", "a/B", "b"] {
            assert!(!tickets.accept(&of_name, &other.parse().unwrap(), None), "{other}");
        }
        assert!(tickets.accept_at(GOOD_FOR - Duration::from_secs(2), &of_name, &name, None));
        assert!(!tickets.accept_at(GOOD_FOR + Duration::from_secs(1), &of_name, &name, None));
        assert!(!Tickets::new().accept(&of_name, &name, None), "of another key");
        let (until, tag) = of_name.split_once('.').unwrap();
        let later = format!("{:x}.{tag}", u64::from_str_radix(until, 16).unwrap() + 1);
        for forged in [
            later.as_str(),
            "",
            ".",
            until,
            &format!("{until}."),
            &format!("{until}.{}", &tag[2..]),
            &format!("-1.{tag}"),
        ] {
            assert!(!tickets.accept(forged, &name, None), "{forged}");
        }
    }
}
