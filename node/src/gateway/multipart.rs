//! `POST /v1/files`: a form upload from a browser; every part is a file.
//!
//! Parts are stored one after another while they arrive, under `prefix` and the file name that the
//! part gives. The parser reads ahead as long as there is something to read, so the stream it gets
//! holds back after each piece: no more than [`MAX_UNPARSED`] bytes wait in it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use kepler_protocol::api::{Durability, Receipt};
use kepler_protocol::catalog::command::Precondition;
use multer::{Field, Multipart};
use serde::Serialize;
use warp::http::StatusCode;
use warp::http::header;
use warp::reply::Response;

use super::body::{PIECE, Upload};
use super::error::{self, Failure};
use super::{Call, Shared, files, headers, json, names};
use crate::service::{Body, BodyError, PutRequest};

/// The most parts of one form.
const MAX_PARTS: usize = 1000;
/// The most bytes that the parser holds before it has found a part in them.
const MAX_UNPARSED: usize = 4 * PIECE;

/// The answer: a receipt a part, in the order of the form.
#[derive(Serialize)]
struct Uploaded {
    files: Vec<Receipt>,
}

/// `POST /v1/files`
pub(super) async fn post(mut call: Call) -> Result<Response, Failure> {
    let query = call.query(&["durability", "prefix"])?;
    let durability = files::durability(query.get("durability"))?;
    let prefix = query.get("prefix").unwrap_or_default().to_owned();
    let content_type =
        call.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let boundary = multer::parse_boundary(content_type).map_err(|_| {
        Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported-media-type",
            "Unsupported media type",
            "send a form of type multipart/form-data with a boundary, or PUT a single file by its name",
        )
    })?;
    let _slot = files::upload_slot(&call.shared)?;
    let unparsed = Arc::new(AtomicUsize::new(0));
    let held = HeldBack { upload: call.upload(), unparsed: Arc::clone(&unparsed), paused: false };
    let mut form = Multipart::new(held, boundary);
    let mut stored = Vec::new();
    loop {
        let part = form.next_field().await.map_err(|e| broken(e, stored.len()))?;
        unparsed.store(0, Ordering::Relaxed);
        let Some(part) = part else { break };
        if stored.len() == MAX_PARTS {
            return Err(Failure::bad_parameter(format!(
                "the form has more than {MAX_PARTS} parts; the first {MAX_PARTS} are stored"
            )));
        }
        let number = stored.len() + 1;
        let receipt = store(&call.shared, part, &prefix, durability, &unparsed)
            .await
            .map_err(|f| f.explain(&format!("part {number} (the {} before it are stored)", number - 1)))?;
        stored.push(receipt);
    }
    if stored.is_empty() {
        return Err(Failure::bad_parameter("the form has no parts: every part is a file"));
    }
    json(&Uploaded { files: stored })
}

async fn store(
    shared: &Arc<Shared>,
    part: Field<'static>,
    prefix: &str,
    durability: Durability,
    unparsed: &Arc<AtomicUsize>,
) -> Result<Receipt, Failure> {
    let given = part.file_name().or(part.name()).unwrap_or_default();
    let name = names::parse(&format!("{prefix}{given}"))?;
    let content_type = part.content_type().map(ToString::to_string).filter(|t| headers::is_media_type(t));
    let request = PutRequest { name, durability, precondition: Precondition::None, content_type };
    let body: Body =
        Box::pin(Part { field: part, unparsed: Arc::clone(unparsed), rest: Bytes::new(), ended: false });
    let files = Arc::clone(&shared.files);
    shared.write(async move { files.put(request, body).await }).await
}

/// What a form that cannot be read to its end is answered.
fn broken(error: multer::Error, stored: usize) -> Failure {
    let told = error::body(&body_error(error));
    if stored == 0 { told } else { told.explain(&format!("the first {stored} parts are stored")) }
}

/// Finds our own error where the parser only passed it on.
fn body_error(error: multer::Error) -> BodyError {
    match error {
        multer::Error::StreamReadFailed(inner) => match inner.downcast::<BodyError>() {
            Ok(ours) => *ours,
            Err(other) => BodyError::Broken(other.to_string()),
        },
        other => BodyError::Broken(other.to_string()),
    }
}

/// A part's bytes.
struct Part {
    field: Field<'static>,
    unparsed: Arc<AtomicUsize>,
    rest: Bytes,
    ended: bool,
}

impl Stream for Part {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        while self.rest.is_empty() {
            let next = ready!(Pin::new(&mut self.field).poll_next(cx));
            self.unparsed.store(0, Ordering::Relaxed);
            match next {
                Some(Ok(bytes)) => self.rest = bytes,
                other => {
                    self.ended = true;
                    return Poll::Ready(other.map(|piece| piece.map_err(body_error)));
                }
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(piece))))
    }
}

/// An upload that pauses after every piece and ends where the parser finds nothing in too many.
struct HeldBack {
    upload: Upload,
    unparsed: Arc<AtomicUsize>,
    paused: bool,
}

impl Stream for HeldBack {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.paused = !self.paused;
        if !self.paused {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = Pin::new(&mut self.upload).poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(piece))) => {
                let held = self.unparsed.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
                if held > MAX_UNPARSED {
                    let error = BodyError::Broken("a part's head is too large".to_owned());
                    return Poll::Ready(Some(Err(error)));
                }
            }
            // The next call is to ask again, not to pause.
            Poll::Pending => self.paused = false,
            Poll::Ready(Some(Err(_)) | None) => {}
        }
        next
    }
}
