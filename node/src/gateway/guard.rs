//! Who may ask at all: foreign hosts, foreign pages, missing tokens.
//!
//! Checked before routing, in this order: size of the head (431), `Host` (421: DNS rebinding),
//! `Origin` (403: pages of others), token, or ticket for one file (401), `Kepler-Client` on POST and on costly reads without a
//! token (403: a foreign page can send a simple request, but no header of its own). There is no CORS: a preflight is
//! answered like any other request that is not taken.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use kepler_protocol::name::Name;
use kepler_protocol::version::Dot;
use warp::http::header::{self, HeaderMap};
use warp::http::{Method, StatusCode, Uri, Version};

use super::error::Failure;
use super::files::FILE_PARAMETERS;
use super::names::{self, Query};
use super::route::Route;
use super::ticket::{TICKET, Tickets};
use crate::config::{Anonymous, ApiTokens, Authority, Host};

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Any of these lets a request through; without one everybody may do what `anonymous` says.
    pub tokens: ApiTokens,
    /// What requests without a token may do.
    pub anonymous: Anonymous,
}

/// The present [`Access`] of a gateway: changed while it runs; cheap to clone, and all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Door(Arc<RwLock<(Access, Tickets)>>);

impl Door {
    /// From now on. Tickets end with the tokens that they were drawn with.
    pub fn set(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (access, Tickets::new());
    }

    /// Whether there are tokens at all.
    pub fn has_tokens(&self) -> bool {
        !self.get().0.tokens.is_empty()
    }

    /// Whether reading takes a token.
    pub fn guards_reads(&self) -> bool {
        let access = &self.get().0;
        !access.tokens.is_empty() && access.anonymous != Anonymous::Read
    }

    /// Draws a ticket for one file; `None` where this system gives no randomness.
    pub(super) fn ticket(&self, name: &Name, version: Option<Dot>) -> Option<String> {
        self.get().1.draw(name, version)
    }

    fn get(&self) -> RwLockReadGuard<'_, (Access, Tickets)> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Access> for Door {
    fn from(access: Access) -> Self {
        Self(Arc::new(RwLock::new((access, Tickets::new()))))
    }
}

/// The head of a request and where it arrived.
pub struct Head<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub version: Version,
    pub headers: &'a HeaderMap,
    /// The route, if the path has one.
    pub route: Option<Route>,
    /// The address the client connected to.
    pub local: IpAddr,
}

/// Lets a request through or says why not.
///
/// # Errors
/// The failures listed in the module's head.
pub fn check(head: &Head<'_>, hosts: &[Host], door: &Door, max_head: usize) -> Result<(), Failure> {
    let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > max_head {
        return Err(Failure::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers-too-large",
            "Headers too large",
            format!("the headers have {size} bytes: send at most {max_head}"),
        ));
    }
    let host = host(head)?;
    if let Some(authority) = &host {
        let ours = authority.host.is_loopback()
            || authority.host == Host::from(head.local)
            || hosts.contains(&authority.host);
        if !ours {
            return Err(Failure::new(
                StatusCode::MISDIRECTED_REQUEST,
                "foreign-host",
                "Foreign host",
                format!(
                    "this node is not {}: use localhost, its bound or its advertised address (ADVERTISE_ADDR)",
                    authority.host
                ),
            ));
        }
    }
    origin(head.headers, host.as_ref())?;
    let (access, tickets) = &*door.get();
    token(head, access, tickets)
}

/// The authority a request is for: of its target where that is absolute, else of its `Host`.
fn host(head: &Head<'_>) -> Result<Option<Authority>, Failure> {
    let bad = || Failure::bad_parameter("the Host header is missing, given twice or malformed");
    let mut values = head.headers.get_all(header::HOST).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(bad());
    }
    let text = match (head.uri.authority(), first) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(value)) => value.to_str().map_err(|_| bad())?,
        // Before HTTP/1.1 there was no Host; a browser, whose pages this is about, always sends it.
        (None, None) if head.version < Version::HTTP_11 => return Ok(None),
        (None, None) => return Err(bad()),
    };
    // The target's host decides, but a Host that says otherwise is suspicious enough to check too.
    if let (Some(_), Some(value)) = (head.uri.authority(), first)
        && value.to_str().ok() != Some(text)
    {
        return Err(bad());
    }
    match text.parse() {
        Ok(authority) => Ok(Some(authority)),
        Err(_) => Err(bad()),
    }
}

/// An `Origin`, if sent, must be the host that the request is for.
fn origin(headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Failure> {
    for value in headers.get_all(header::ORIGIN) {
        let text = value.to_str().unwrap_or_default();
        let parsed = match text.split_once("://") {
            Some(("http", rest)) => rest.parse::<Authority>().ok().map(|a| (a, 80)),
            Some(("https", rest)) => rest.parse::<Authority>().ok().map(|a| (a, 443)),
            _ => None,
        };
        let ours = parsed.is_some_and(|(origin, default_port)| {
            host.is_some_and(|host| {
                origin.host == host.host
                    && origin.port.unwrap_or(default_port) == host.port.unwrap_or(default_port)
            })
        });
        if !ours {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "foreign-origin",
                "Foreign origin",
                "pages of other origins may not use this node: open the page from the node itself",
            ));
        }
    }
    Ok(())
}

fn token(head: &Head<'_>, access: &Access, tickets: &Tickets) -> Result<(), Failure> {
    if head.route.is_some_and(Route::is_public) {
        return Ok(());
    }
    let costly = head.route.is_some_and(Route::is_costly);
    let reads = matches!(*head.method, Method::GET | Method::HEAD) && !costly;
    let mut authorizations = head.headers.get_all(header::AUTHORIZATION).iter();
    let first = authorizations.next();
    if !access.tokens.is_empty() && first.is_some() {
        // Given twice, one of them would go unchecked.
        let presented = first.filter(|_| authorizations.next().is_none()).and_then(|v| bearer(v.as_bytes()));
        return match presented {
            Some(presented) if access.tokens.accept(presented) => Ok(()),
            _ => Err(unauthorized("the token is wrong", "Bearer realm=\"kepler\", error=\"invalid_token\"")),
        };
    }
    let open = match access.anonymous {
        Anonymous::Read => reads,
        Anonymous::None => access.tokens.is_empty(),
    };
    if !open {
        let ticket = reads.then(|| presented(head)).flatten();
        if let Some((ticket, name, version)) = &ticket
            && tickets.accept(ticket, name, *version)
        {
            return Ok(());
        }
        let why = if access.tokens.is_empty() {
            "this node takes no writes: it was started with ANONYMOUS=read and without API_TOKEN"
        } else if ticket.is_some() {
            "this address has expired, or is not of this file: ask for another one with POST /v1/links"
        } else {
            "this call needs the header Authorization: Bearer TOKEN"
        };
        return Err(unauthorized(why, "Bearer realm=\"kepler\""));
    }
    if (*head.method == Method::POST || costly) && !head.headers.contains_key("kepler-client") {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "client-header-missing",
            "Client header missing",
            "without a token this call needs a Kepler-Client header of any value, which no foreign page can send",
        ));
    }
    Ok(())
}

/// The ticket of a request for a file, and what it would open.
fn presented(head: &Head<'_>) -> Option<(String, Name, Option<Dot>)> {
    let (Route::File, rest) = Route::of(head.uri.path())? else { return None };
    let query = Query::parse(head.uri.query()?, &FILE_PARAMETERS).ok()?;
    let ticket = query.get(TICKET)?.to_owned();
    Some((ticket, names::decode(rest).ok()?, query.parsed::<Dot>("version", "").ok()?))
}

fn unauthorized(detail: &str, challenge: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
        .with_header(header::WWW_AUTHENTICATE, challenge)
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests;
