//! The browser UI: files embedded when the node was built.
//!
//! `/` and every screen of the UI are answered with its page, which reads its own address; files under
//! `/_app/` with themselves, compressed where the browser takes it. Hashed files are cached for ever,
//! the others asked for anew. Without a built UI there is the plain page of [`super::page`].

use kepler_protocol::api::Status;
use warp::http::StatusCode;
use warp::http::header::{self, HeaderMap};
use warp::reply::Response;

use super::error::Failure;
use super::{Call, Shared, page, set};

/// One embedded file.
pub(super) struct Asset {
    /// The path in its URL.
    path: &'static str,
    /// In quotes.
    etag: &'static str,
    plain: &'static [u8],
    brotli: Option<&'static [u8]>,
    gzip: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// The one inline style there is: the router hides its announcer, which tells screen readers where they are.
const ANNOUNCER: &str = "'sha256-S8qMpvofolR8Mpjy4kQvEm7m1q8clzU4dfDH0AmvZjo='";

/// Members that the page may look for when this node is gone; more would only make the header long.
const MAX_LOOKED_FOR: usize = 16;

/// `GET /` and the UI's screens.
pub(super) async fn index(call: Call) -> Result<Response, Failure> {
    let Some(asset) = find(ASSETS, "/index.html") else { return page::page(call).await };
    let mut response = serve(asset, &call.headers);
    set(&mut response, header::CONTENT_SECURITY_POLICY, &policy(&members(&call.shared).await));
    Ok(response)
}

/// `GET /_app/{path}`
pub(super) async fn asset(call: Call) -> Result<Response, Failure> {
    let path = format!("/_app/{}", call.rest);
    match find(ASSETS, &path) {
        Some(asset) => Ok(serve(asset, &call.headers)),
        None => {
            Err(Failure::not_found("there is no such file: the page may be of another version, load it anew"))
        }
    }
}

fn find<'a>(assets: &'a [Asset], path: &str) -> Option<&'a Asset> {
    assets.iter().find(|asset| asset.path == path)
}

fn serve(asset: &Asset, headers: &HeaderMap) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let unchanged = known.is_some_and(|known| known.split(',').any(|tag| tag.trim() == asset.etag));
    let (body, encoding) = match (accepts(headers, "br"), accepts(headers, "gzip"), asset.brotli, asset.gzip)
    {
        (true, _, Some(bytes), _) => (bytes, Some("br")),
        (_, true, _, Some(bytes)) => (bytes, Some("gzip")),
        _ => (asset.plain, None),
    };
    let mut response = if unchanged { Response::default() } else { Response::new(body.into()) };
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        set(&mut response, header::CONTENT_TYPE, content_type(asset.path));
        if let Some(encoding) = encoding {
            set(&mut response, header::CONTENT_ENCODING, encoding);
        }
    }
    // The names of these files are hashes of what is in them.
    let hashed = asset.path.starts_with("/_app/immutable/");
    let cache = if hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    set(&mut response, header::CACHE_CONTROL, cache);
    set(&mut response, header::ETAG, asset.etag);
    set(&mut response, header::VARY, "Accept-Encoding");
    response
}

/// Whether `Accept-Encoding` names a coding and does not refuse it.
fn accepts(headers: &HeaderMap, coding: &str) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|value| {
        value.split(',').any(|item| {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0));
            name.trim().eq_ignore_ascii_case(coding) && !refused
        })
    })
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Where else the page may look whether somebody answers. Nothing where reading takes a token: this page
/// is for everybody, and where the members are is not.
async fn members(shared: &Shared) -> Vec<String> {
    if shared.config.access.guards_reads() {
        return Vec::new();
    }
    let cluster = shared.files.cluster().await;
    let alive = cluster.members.iter().filter(|member| member.status == Status::Alive);
    alive
        .take(MAX_LOOKED_FOR)
        .map(|member| match member.addr.contains(':') {
            true => format!("http://[{}]:{}/healthz", member.addr.trim_matches(['[', ']']), member.http_port),
            false => format!("http://{}:{}/healthz", member.addr, member.http_port),
        })
        // What a header or a policy could misread is no address of a member.
        .filter(|source| source.bytes().all(|b| b.is_ascii_alphanumeric() || b":/.-_[]".contains(&b)))
        .collect()
}

/// Scripts and styles from files alone, no other origin, nothing framed but a PDF of the page's own making.
fn policy(members: &[String]) -> String {
    let elsewhere: String = members.iter().map(|member| format!(" {member}")).collect();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-hashes' {ANNOUNCER}; \
         img-src 'self' blob:; media-src 'self' blob:; frame-src blob:; connect-src 'self'{elsewhere}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Asset = Asset {
        path: "/_app/immutable/a.js",
        etag: "\"1\"",
        plain: b"plain",
        brotli: Some(b"br"),
        gzip: Some(b"gz"),
    };

    fn ask(pairs: &[(header::HeaderName, &'static str)]) -> Response {
        let headers = pairs.iter().map(|(n, v)| (n.clone(), header::HeaderValue::from_static(v))).collect();
        serve(&FILE, &headers)
    }

    #[test]
    fn a_browser_gets_the_form_that_it_takes() {
        for (accepted, encoding) in [
            ("gzip, deflate, br, zstd", Some("br")),
            ("gzip", Some("gzip")),
            ("br;q=0, gzip;q=0.5", Some("gzip")),
            ("BR", Some("br")),
            ("brotli", None),
            ("", None),
        ] {
            let response = ask(&[(header::ACCEPT_ENCODING, accepted)]);
            let given = response.headers().get(header::CONTENT_ENCODING).map(|v| v.to_str().unwrap());
            assert_eq!(given, encoding, "{accepted}");
            assert_eq!(response.headers()[header::VARY], "Accept-Encoding");
        }
    }

    #[test]
    fn hashed_files_are_kept_for_ever_and_the_page_is_asked_for_anew() {
        assert!(ask(&[]).headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let page = Asset { path: "/index.html", ..FILE };
        assert_eq!(serve(&page, &HeaderMap::new()).headers()[header::CACHE_CONTROL], "no-cache");
        assert_eq!(ask(&[(header::IF_NONE_MATCH, "\"0\", \"1\"")]).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(ask(&[(header::IF_NONE_MATCH, "\"2\"")]).status(), StatusCode::OK);
    }

    #[test]
    fn the_policy_has_no_inline_scripts_and_no_wildcards() {
        let policy = policy(&["http://127.0.0.1:3002/healthz".to_owned()]);
        for bad in ["'unsafe-inline'", "'unsafe-eval'", "*", "data:", " http:;"] {
            assert!(!policy.contains(bad), "{bad} in {policy}");
        }
        assert!(policy.contains("connect-src 'self' http://127.0.0.1:3002/healthz;"), "{policy}");
    }

    #[test]
    fn an_embedded_page_brings_everything_that_it_names() {
        let Some(page) = find(ASSETS, "/index.html") else {
            // Built without the UI: then nothing of it is there, and the plain page stands in for it.
            return assert!(ASSETS.is_empty(), "files of the UI without its page");
        };
        let html = std::str::from_utf8(page.plain).unwrap();
        for name in html.split('"').filter(|part| part.starts_with("/_app/")) {
            assert!(find(ASSETS, name).is_some(), "{name}");
        }
        assert!(!html.contains("<script>"));
    }
}
