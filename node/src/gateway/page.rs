//! `GET /` where the browser UI was not built: a plain page that says what there is and how to build it.

use warp::http::header;
use warp::reply::Response;

use super::error::Failure;
use super::route::Route;
use super::{Call, set, text};

/// The plain page.
pub(super) async fn page(_: Call) -> Result<Response, Failure> {
    let mut response = text("text/html; charset=utf-8", html());
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    set(&mut response, header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

fn html() -> String {
    let rows: String = Route::ALL
        .into_iter()
        .filter(|route| !matches!(route, Route::Page | Route::Asset))
        .map(|route| {
            let pattern = route.pattern();
            let shown = if pattern.contains('{') || matches!(route, Route::Events | Route::Verify) {
                pattern.to_owned()
            } else if route.allow().starts_with("GET") {
                format!("<a href=\"{pattern}\">{pattern}</a>")
            } else {
                pattern.to_owned()
            };
            format!("<tr><td>{}<td>{shown}<td>{}\n", route.allow(), what(route))
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>KeplerFS</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         td{{padding:.2rem 1rem .2rem 0;vertical-align:top}}code{{white-space:pre-wrap}}</style>\n\
         <h1>KeplerFS {}</h1>\n\
         <p>This node of a KeplerFS cluster takes any read or write. Its browser UI was not built: run \
         <code>make ui</code>, which needs Node.js 20, and build the node again.</p>\n\
         <p><code>curl -T photo.jpg http://HOST/v1/files/photos/photo.jpg\ncurl -O http://HOST/v1/files/photos/photo.jpg</code></p>\n\
         <table>\n{rows}</table>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn what(route: Route) -> &'static str {
    match route {
        Route::Page => "this page",
        Route::Asset => "files of the browser UI",
        Route::Healthz => "the process answers",
        Route::Readyz => "the node is admitted and caught up",
        Route::Metrics => "metrics for Prometheus",
        Route::Files => "list files; upload by form",
        Route::File => "read, store and delete a file",
        Route::Copy => "copy a file; no bytes move",
        Route::Move => "rename a file; no bytes move",
        Route::Links => "an address that opens one file without a token for ten minutes",
        Route::Stat => "everything known of a name",
        Route::Earlier => "versions that were replaced or deleted and are remembered",
        Route::Chunk => "a chunk by its CID",
        Route::Ipfs => "a raw block, by the IPFS trustless gateway rules",
        Route::Cluster => "the members",
        Route::Ring => "the tokens of the ring",
        Route::Status => "what this node holds and does",
        Route::Recent => "what was measured and what happened in the last hour",
        Route::Events => "what happens, as server-sent events",
        Route::Health => "how the cluster is, in one word, and why",
        Route::Locate => "where a file's chunks belong and why, and who has them",
        Route::Verify => "hash everything again; JSON, a line each",
        Route::Scrub => "hurry or pause the re-hashing of disks",
        Route::Repair => "hurry or pause repair; set the cap on its traffic",
        Route::Leave => "bring this node's chunks elsewhere and leave",
        Route::Forget => "take a member that will not return from the roster",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_plain_page_lists_the_calls_and_how_to_build_the_ui() {
        let html = super::html();
        for part in ["/v1/files/{name}", "/v1/events", "make ui"] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("/_app/"));
    }
}
