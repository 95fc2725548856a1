//! HTTP: the API of DESIGN section 10 on a listener of its own.
//!
//! It talks to [`Files`] and to nothing below it, turns requests into validated types and outcomes
//! into answers, and decides nothing else.
//!
//! | module | owns |
//! | --- | --- |
//! | [`accept`] | connections: deadlines, cap, graceful end |
//! | [`guard`], [`ticket`] | who may ask at all: hosts, origins, tokens, addresses that open one file |
//! | [`route`] | which path is what |
//! | [`files`], [`links`], [`multipart`], [`chunks`], [`cluster`], [`operations`], [`events`] | the calls |
//! | [`assets`], [`page`] | the browser UI; a plain page where it was not built |
//! | [`body`], [`headers`], [`names`] | what requests are made of |
//! | [`error`] | what went wrong, as problems |
//! | [`metrics`] | counting |
//!
//! Writes run in tasks of their own: a client that goes away ends its upload (the body breaks off),
//! but never cuts a write off between two steps.

mod accept;
mod assets;
mod body;
mod chunks;
mod cluster;
mod error;
mod events;
mod files;
mod guard;
mod headers;
mod links;
mod metrics;
mod multipart;
mod names;
mod operations;
mod page;
mod route;
#[cfg(test)]
mod tests;
mod ticket;

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::filters::BoxedFilter;
use warp::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use warp::http::{Method, Request, StatusCode};
use warp::reply::Response;
use warp::{Filter, Rejection};

use self::body::{RawBody, Upload};
use self::error::Failure;
pub use self::guard::{Access, Door};
use self::metrics::Measured;
use self::route::Route;
use crate::config::Host;
use crate::service::Files;
use crate::telemetry::Metrics;

/// What the gateway needs to know.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Hosts that requests may be for beside localhost, loopback addresses and the address that the
    /// client connected to: the bound and the advertised address. Any port.
    pub hosts: Vec<Host>,
    /// Who may do what.
    pub access: Door,
    /// Deadlines and caps.
    pub limits: Limits,
}

impl Config {
    /// What the node's settings say, with the usual limits.
    pub fn new(network: &crate::config::NetworkConfig, security: &crate::config::SecurityConfig) -> Self {
        let bound = (!network.bind.is_unspecified()).then(|| network.bind.into());
        Self {
            hosts: bound.into_iter().chain(network.advertise.clone()).collect(),
            access: Access { tokens: security.api_tokens.clone(), anonymous: security.anonymous }.into(),
            limits: Limits::default(),
        }
    }
}

/// Deadlines and caps.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: usize,
    /// Uploads at once; more are answered 429.
    pub max_uploads: usize,
    /// Followers of `/v1/events` at once; more are answered 429.
    pub max_followers: usize,
    /// Time for a request's head in all, and for which a connection may be idle.
    pub head_deadline: Duration,
    /// Bytes of all headers of a request.
    pub max_head_bytes: usize,
    /// Time in which at least one byte of an upload must come.
    pub body_idle: Duration,
    /// Waiting allowed to an upload beside what its bytes earn at `body_min_bytes_per_second`.
    pub body_slow_grace: Duration,
    /// Bytes that earn an upload a second of waiting.
    pub body_min_bytes_per_second: u64,
    /// Time for the whole of a small body (JSON).
    pub small_body: Duration,
    /// Bytes of a file.
    pub max_file_bytes: u64,
    /// Time in which a client must take at least one byte of an answer.
    pub write_idle: Duration,
    /// Time between heartbeats of `/v1/events`.
    pub heartbeat: Duration,
    /// Time for requests to finish once the node stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_uploads: 256,
            max_followers: 64,
            head_deadline: Duration::from_secs(20),
            max_head_bytes: 32 << 10,
            body_idle: Duration::from_secs(30),
            body_slow_grace: Duration::from_secs(60),
            body_min_bytes_per_second: 1024,
            small_body: Duration::from_secs(20),
            max_file_bytes: 1 << 50,
            write_idle: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            drain: Duration::from_secs(10),
        }
    }
}

/// Serves `files` on `listener` until `stop`, then finishes what runs, within [`Limits::drain`].
///
/// # Errors
/// The listener has no local address.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    files: Arc<dyn Files>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let addr = listener.local_addr()?;
    tracing::info!(%addr, "serving HTTP");
    let shared = Arc::new(Shared {
        uploads: Arc::new(Semaphore::new(config.limits.max_uploads)),
        followers: Arc::new(Semaphore::new(config.limits.max_followers)),
        config,
        files,
        metrics,
        stop: stop.clone(),
        writes: TaskTracker::new(),
    });
    let service = warp::service(routes(&shared));
    let make = |local: IpAddr, called: Arc<AtomicBool>| {
        let (shared, service) = (Arc::clone(&shared), service.clone());
        service_fn(move |request: Request<Incoming>| {
            called.store(true, Ordering::Release);
            let (shared, service) = (Arc::clone(&shared), service.clone());
            Box::pin(async move {
                let route = Route::of(request.uri().path()).map(|(route, _)| route);
                let measured = Measured::start(&shared.metrics.http, request.method(), route);
                let response = answer(&shared, service, local, route, request).await;
                Ok::<_, Infallible>(measured.answered(response))
            }) as Pin<Box<dyn Future<Output = _> + Send>>
        })
    };
    let limits = &shared.config.limits;
    accept::run(listener, limits, shared.metrics.http.clone(), stop, make).await;
    shared.writes.close();
    if tokio::time::timeout(limits.drain, shared.writes.wait()).await.is_err() {
        tracing::warn!(writes = shared.writes.len(), "leaving writes behind that did not finish in time");
    }
    tracing::info!("stopped serving HTTP");
    Ok(())
}

/// What every call shares.
struct Shared {
    config: Config,
    files: Arc<dyn Files>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    writes: TaskTracker,
    uploads: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

impl Shared {
    /// Runs a write to its end, whether or not its client waits.
    async fn write<T: Send + 'static>(
        &self,
        write: impl Future<Output = Result<T, crate::service::WriteError>> + Send + 'static,
    ) -> Result<T, Failure> {
        match self.writes.spawn(write).await {
            Ok(result) => result.map_err(error::write),
            Err(panicked) => Err(Failure::internal(&panicked.into())),
        }
    }
}

/// Guards, routes and dresses one request's answer.
async fn answer(
    shared: &Arc<Shared>,
    service: impl tower_like::Call,
    local: IpAddr,
    route: Option<Route>,
    mut request: Request<Incoming>,
) -> Response {
    let head = guard::Head {
        method: request.method(),
        uri: request.uri(),
        version: request.version(),
        headers: request.headers(),
        route,
        local,
    };
    let config = &shared.config;
    // The lock is not held while the request is answered.
    let checked = guard::check(&head, &config.hosts, &config.access, config.limits.max_head_bytes);
    let mut response = match checked {
        Err(failure) => failure.into_response(),
        Ok(()) if shared.stop.is_cancelled() => Failure::stopping().into_response(),
        Ok(()) => {
            let gone = CancellationToken::new();
            request.extensions_mut().insert(Gone(gone.clone()));
            // Dropped with this future, which is when the answer is there or the connection is not.
            let _guard = gone.drop_guard();
            service.call(request).await
        }
    };
    // That a process is alive is what another member's page looks for when its own node is gone.
    let resource_policy = if route == Some(Route::Healthz) { "cross-origin" } else { "same-origin" };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), resource_policy),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Calling warp's service without naming its types.
mod tower_like {
    use hyper::body::Incoming;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use warp::http::Request;
    use warp::reply::Response;

    /// Answers a request.
    pub trait Call {
        fn call(self, request: Request<Incoming>) -> impl Future<Output = Response> + Send;
    }

    impl<F> Call for F
    where
        TowerToHyperService<F>: Service<Request<Incoming>, Response = Response, Error = std::convert::Infallible, Future: Send>
            + Send,
        F: Send,
    {
        async fn call(self, request: Request<Incoming>) -> Response {
            match TowerToHyperService::new(self).call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    }
}

/// Cancelled when a request's handler is gone.
#[derive(Clone)]
struct Gone(CancellationToken);

/// A request on its way to the handler of its route.
struct Call {
    shared: Arc<Shared>,
    method: Method,
    /// What follows the route's prefix, raw.
    rest: String,
    /// The query, raw; empty where there is none.
    query: String,
    headers: HeaderMap,
    body: RawBody,
    gone: CancellationToken,
}

impl Call {
    fn query(&self, known: &[&str]) -> Result<names::Query, Failure> {
        names::Query::parse(&self.query, known)
    }

    /// The body as JSON of at most `most` bytes; `example` tells people what it looks like.
    async fn json<T: DeserializeOwned>(&mut self, most: usize, example: &str) -> Result<T, Failure> {
        let deadline = self.shared.config.limits.small_body;
        let bytes = body::collect(self.upload(), most, deadline).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::bad_parameter(format!("the body is not JSON like {example}: {e}")))
    }

    /// The `Content-Length`; hyper has checked that there is at most one and that it is a number.
    fn announced(&self) -> Option<u64> {
        self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The body with its limits, and what else there was.
    fn upload(&mut self) -> Upload {
        let nothing: RawBody = Box::pin(futures::stream::empty());
        let raw = std::mem::replace(&mut self.body, nothing);
        let (announced, shared) = (self.announced(), &self.shared);
        Upload::new(raw, announced, &shared.config.limits, self.gone.clone(), shared.metrics.http.clone())
    }
}

/// A path of the table with a method it does not take.
#[derive(Debug)]
struct WrongMethod(Route);

impl warp::reject::Reject for WrongMethod {}

fn routes(shared: &Arc<Shared>) -> BoxedFilter<(Response,)> {
    [
        on(shared, Route::File, &[Method::GET, Method::HEAD], files::get),
        on(shared, Route::File, &[Method::PUT], files::put),
        on(shared, Route::File, &[Method::DELETE], files::delete),
        on(shared, Route::Chunk, &[Method::GET, Method::HEAD], chunks::get),
        on(shared, Route::Ipfs, &[Method::GET, Method::HEAD], chunks::ipfs),
        on(shared, Route::Files, &[Method::GET, Method::HEAD], files::list),
        on(shared, Route::Files, &[Method::POST], multipart::post),
        on(shared, Route::Copy, &[Method::POST], files::copy),
        on(shared, Route::Move, &[Method::POST], files::rename),
        on(shared, Route::Links, &[Method::POST], links::post),
        on(shared, Route::Stat, &[Method::GET, Method::HEAD], files::stat),
        on(shared, Route::Earlier, &[Method::GET, Method::HEAD], files::earlier),
        on(shared, Route::Cluster, &[Method::GET, Method::HEAD], cluster::cluster),
        on(shared, Route::Ring, &[Method::GET, Method::HEAD], cluster::ring),
        on(shared, Route::Status, &[Method::GET, Method::HEAD], cluster::status),
        on(shared, Route::Recent, &[Method::GET, Method::HEAD], operations::recent),
        on(shared, Route::Events, &[Method::GET], events::follow),
        on(shared, Route::Health, &[Method::GET, Method::HEAD], operations::health),
        on(shared, Route::Locate, &[Method::GET, Method::HEAD], operations::locate),
        on(shared, Route::Verify, &[Method::GET], operations::verify),
        on(shared, Route::Scrub, &[Method::POST], operations::scrub),
        on(shared, Route::Repair, &[Method::POST], operations::repair),
        on(shared, Route::Leave, &[Method::POST], operations::leave),
        on(shared, Route::Forget, &[Method::POST], operations::forget),
        on(shared, Route::Metrics, &[Method::GET, Method::HEAD], cluster::metrics),
        on(shared, Route::Healthz, &[Method::GET, Method::HEAD], cluster::healthz),
        on(shared, Route::Readyz, &[Method::GET, Method::HEAD], cluster::readyz),
        on(shared, Route::Page, &[Method::GET, Method::HEAD], assets::index),
        on(shared, Route::Asset, &[Method::GET, Method::HEAD], assets::asset),
    ]
    .into_iter()
    .reduce(|all, next| all.or(next).unify().boxed())
    .expect("there are routes")
    .recover(rejected)
    .unify()
    .boxed()
}

/// A route's handler for some of its methods.
fn on<H, F>(
    shared: &Arc<Shared>,
    route: Route,
    methods: &'static [Method],
    handler: H,
) -> BoxedFilter<(Response,)>
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Failure>> + Send + 'static,
{
    let shared = Arc::clone(shared);
    let at = move |path: warp::path::FullPath, method: Method| {
        let found = Route::of(path.as_str()).filter(|(found, _)| *found == route);
        std::future::ready(match found {
            None => Err(warp::reject::not_found()),
            Some(_) if !methods.contains(&method) => Err(warp::reject::custom(WrongMethod(route))),
            Some((_, rest)) => Ok((rest.to_owned(), method)),
        })
    };
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::path::full()
        .and(warp::method())
        .and_then(at)
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get::<Gone>())
        .and(warp::body::stream())
        .map(move |(rest, method), query, headers, Gone(gone), stream| Call {
            shared: Arc::clone(&shared),
            method,
            rest,
            query,
            headers,
            body: body::raw(stream),
            gone,
        })
        .then(move |call| {
            let answer = handler(call);
            async move { answer.await.unwrap_or_else(Failure::into_response) }
        })
        .boxed()
}

/// Rejections are left to routing: no such path, or not with this method.
async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    let failure = if let Some(WrongMethod(route)) = rejection.find() {
        Failure::method_not_allowed(route.allow())
    } else if rejection.is_not_found() {
        Failure::not_found("there is no such path: GET / lists what there is")
    } else {
        Failure::internal(&anyhow::anyhow!("unexpected rejection: {rejection:?}"))
    };
    Ok(failure.into_response())
}

/// A JSON answer that nobody caches.
fn json(value: &impl Serialize) -> Result<Response, Failure> {
    let body = serde_json::to_vec(value).map_err(|e| Failure::internal(&e.into()))?;
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::OK;
    set(&mut response, header::CONTENT_TYPE, "application/json");
    set(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}

/// A plain text answer that nobody caches.
fn text(content_type: &'static str, body: impl Into<String>) -> Response {
    let mut response = Response::new(body.into().into());
    set(&mut response, header::CONTENT_TYPE, content_type);
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

/// Sets a header whose value is visible ASCII by construction; anything else is left out.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
