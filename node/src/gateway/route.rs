//! The table of routes: which path is what, and which methods it takes.
//!
//! Routing, the `Allow` header and the labels of metrics read the same table. The raw path is
//! split here and decoded by whoever knows what its rest means.

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/`, and the screens of the browser UI: its page reads its own address
    Page,
    /// `/_app/{path}`: files of the browser UI
    Asset,
    /// `/healthz`
    Healthz,
    /// `/readyz`
    Readyz,
    /// `/metrics`
    Metrics,
    /// `/v1/files`
    Files,
    /// `/v1/files/{name}`
    File,
    /// `/v1/copy`
    Copy,
    /// `/v1/move`
    Move,
    /// `/v1/links`
    Links,
    /// `/v1/stat/{name}`
    Stat,
    /// `/v1/earlier/{name}`
    Earlier,
    /// `/v1/chunks/{cid}`
    Chunk,
    /// `/ipfs/{cid}`
    Ipfs,
    /// `/v1/cluster`
    Cluster,
    /// `/v1/ring`
    Ring,
    /// `/v1/status`
    Status,
    /// `/v1/recent`
    Recent,
    /// `/v1/events`
    Events,
    /// `/v1/health`
    Health,
    /// `/v1/locate/{name}`
    Locate,
    /// `/v1/verify`
    Verify,
    /// `/v1/scrub`
    Scrub,
    /// `/v1/repair`
    Repair,
    /// `/v1/cluster/leave`
    Leave,
    /// `/v1/cluster/forget/{node}`
    Forget,
}

/// First segments of the UI's screens (the folders of `frontend/src/routes`).
const SCREENS: [&str; 7] = ["activity", "cluster", "connect", "file", "files", "nodes", "settings"];

impl Route {
    /// Every route.
    pub const ALL: [Self; 26] = [
        Self::Page,
        Self::Asset,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Files,
        Self::File,
        Self::Copy,
        Self::Move,
        Self::Links,
        Self::Stat,
        Self::Earlier,
        Self::Chunk,
        Self::Ipfs,
        Self::Cluster,
        Self::Ring,
        Self::Status,
        Self::Recent,
        Self::Events,
        Self::Health,
        Self::Locate,
        Self::Verify,
        Self::Scrub,
        Self::Repair,
        Self::Leave,
        Self::Forget,
    ];

    /// The route of a raw path, and what follows its prefix.
    pub fn of(path: &str) -> Option<(Self, &str)> {
        for route in Self::ALL {
            let pattern = route.pattern();
            match pattern.find('{') {
                None if path == pattern => return Some((route, "")),
                Some(at) if path.starts_with(&pattern[..at]) => return Some((route, &path[at..])),
                _ => {}
            }
        }
        let screen = path.strip_prefix('/')?.split('/').next()?;
        SCREENS.contains(&screen).then_some((Self::Page, path))
    }

    /// How the API's description writes it.
    pub const fn pattern(self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Asset => "/_app/{path}",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::Files => "/v1/files",
            Self::File => "/v1/files/{name}",
            Self::Copy => "/v1/copy",
            Self::Move => "/v1/move",
            Self::Links => "/v1/links",
            Self::Stat => "/v1/stat/{name}",
            Self::Earlier => "/v1/earlier/{name}",
            Self::Chunk => "/v1/chunks/{cid}",
            Self::Ipfs => "/ipfs/{cid}",
            Self::Cluster => "/v1/cluster",
            Self::Ring => "/v1/ring",
            Self::Status => "/v1/status",
            Self::Recent => "/v1/recent",
            Self::Events => "/v1/events",
            Self::Health => "/v1/health",
            Self::Locate => "/v1/locate/{name}",
            Self::Verify => "/v1/verify",
            Self::Scrub => "/v1/scrub",
            Self::Repair => "/v1/repair",
            Self::Leave => "/v1/cluster/leave",
            Self::Forget => "/v1/cluster/forget/{node}",
        }
    }

    /// The methods it takes, as `Allow` lists them.
    pub const fn allow(self) -> &'static str {
        match self {
            Self::Files => "GET, HEAD, POST",
            Self::File => "GET, HEAD, PUT, DELETE",
            Self::Copy
            | Self::Move
            | Self::Links
            | Self::Scrub
            | Self::Repair
            | Self::Leave
            | Self::Forget => "POST",
            Self::Events | Self::Verify => "GET",
            Self::Page
            | Self::Asset
            | Self::Healthz
            | Self::Readyz
            | Self::Metrics
            | Self::Stat
            | Self::Earlier
            | Self::Recent
            | Self::Chunk
            | Self::Ipfs
            | Self::Cluster
            | Self::Ring
            | Self::Status
            | Self::Health
            | Self::Locate => "GET, HEAD",
        }
    }

    /// Whether it answers with bytes of what is stored.
    pub const fn is_content(self) -> bool {
        matches!(self, Self::File | Self::Chunk | Self::Ipfs)
    }

    /// Whether a request that reads is so dear that it is guarded like one that writes.
    pub const fn is_costly(self) -> bool {
        matches!(self, Self::Verify)
    }

    /// Whether it answers without a token, whatever is configured: it tells nothing of the files.
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Page | Self::Asset | Self::Healthz | Self::Readyz)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_route() {
        for route in Route::ALL {
            let path = route
                .pattern()
                .replace("{name}", "a/b")
                .replace("{cid}", "bafy")
                .replace("{node}", "a")
                .replace("{path}", "a.js");
            assert_eq!(Route::of(&path).map(|(found, _)| found), Some(route), "{path}");
        }
        assert_eq!(Route::of("/v1/files/"), Some((Route::File, "")));
        assert_eq!(Route::of("/v1/files//a"), Some((Route::File, "/a")));
        for screen in ["/files", "/files/a/b", "/file/a.js", "/cluster", "/nodes/node-a", "/settings"] {
            assert_eq!(Route::of(screen), Some((Route::Page, screen)));
        }
        for unknown in [
            "/filesystem",
            "/Cluster",
            "cluster",
            "/_app",
            "",
            "/v1",
            "/v1/",
            "/v1/Files",
            "/v1/cluster/",
            "/v2/files/a",
            "/ipfs",
            "//",
        ] {
            assert_eq!(Route::of(unknown), None, "{unknown}");
        }
    }
}
