//! Counting requests: in flight until the last byte of the answer has been handed over.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use warp::http::{Method, Response, StatusCode};

use super::route::Route;
use crate::telemetry::{HttpMetrics, RequestLabels, RouteLabels};

/// A request under way.
pub struct Measured {
    metrics: HttpMetrics,
    method: &'static str,
    route: &'static str,
    /// Whether its answer is what is stored, not how things are.
    content: bool,
    started: Instant,
}

impl Measured {
    /// Begins to count.
    pub fn start(metrics: &HttpMetrics, method: &Method, route: Option<Route>) -> Self {
        metrics.in_flight.inc();
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::PUT => "PUT",
            Method::POST => "POST",
            Method::DELETE => "DELETE",
            Method::OPTIONS => "OPTIONS",
            _ => "OTHER",
        };
        let content = method == "GET" && route.is_some_and(Route::is_content);
        let route = route.map_or("other", Route::pattern);
        Self { metrics: metrics.clone(), method, route, content, started: Instant::now() }
    }

    /// Counts the answer and goes on counting while its body is sent.
    pub fn answered<B>(mut self, response: Response<B>) -> Response<Counted<B>> {
        self.content &= response.status().is_success();
        let status = class(response.status());
        let labels = RequestLabels { method: self.method, route: self.route, status };
        self.metrics.requests.get_or_create(&labels).inc();
        let elapsed = self.started.elapsed();
        self.metrics.seconds.get_or_create(&RouteLabels { route: self.route }).observe(elapsed.as_secs_f64());
        tracing::debug!(
            method = self.method,
            route = self.route,
            status = response.status().as_u16(),
            elapsed_ms = elapsed.as_millis() as u64,
            "answered"
        );
        response.map(|body| Counted { body, request: self })
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        0..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

/// A response body whose bytes are counted.
pub struct Counted<B> {
    body: B,
    request: Measured,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.request.metrics.bytes_out.inc_by(data.len() as u64);
            if self.request.content {
                self.request.metrics.content_out.inc_by(data.len() as u64);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
