//! `POST /buckets/ORIGIN/putfile` of the predecessor: a form with a file in it, which streams.

use super::body::Upload;
use crate::error::{Error, Kind, Result};
use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures_util::{Stream, TryStreamExt};
use multer::bytes::Bytes;
use multer::{Field, Multipart};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The field with the file, as the predecessor called it.
const FIELD: &str = "filename";

/// Bytes that may come without a part of the form being understood: what is before its first part, and heads of parts, are held
/// in memory until they end.
const HELD: usize = 1 << 20;

/// Bytes that came since the form was last understood.
#[derive(Clone, Default)]
struct Held(Arc<AtomicUsize>);

impl Held {
    fn understood(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A body that fails when too much of it has come in vain.
    fn bounded(self, body: Body) -> impl Stream<Item = io::Result<Bytes>> {
        body.into_data_stream().map_err(io::Error::other).and_then(move |piece| {
            let came = Arc::clone(&self.0);
            async move {
                // The form takes in all that is there before it looks at any of it: where that is much, nothing more is there.
                if came.load(Ordering::Relaxed) > HELD / 2 {
                    tokio::task::yield_now().await;
                }
                match came.fetch_add(piece.len(), Ordering::Relaxed) > HELD {
                    true => Err(io::Error::other("the head of a part is too long")),
                    false => Ok(piece),
                }
            }
        })
    }
}

/// A form of which the file comes next.
pub(super) struct Form {
    form: Multipart<'static>,
    held: Held,
    /// The name of the file, as the client sent it.
    pub(super) name: String,
    field: Field<'static>,
}

fn broken(error: multer::Error) -> Error {
    Error::new(Kind::Usage, format!("the form cannot be understood: {}", chain(&error)))
}

impl Form {
    /// Read up to the content of the file.
    ///
    /// # Errors
    /// [`Kind::Usage`] when it is no form, or has no file in the field.
    pub(super) async fn open(headers: &HeaderMap, body: Body) -> Result<Form> {
        let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let boundary = multer::parse_boundary(media).map_err(|_| {
            let error = Error::new(Kind::Usage, "the request has no form with a file");
            error.hint("curl -F \"filename=@FILE\" sends one")
        })?;
        let held = Held::default();
        let mut form = Multipart::new(held.clone().bounded(body), boundary);
        while let Some(mut field) = form.next_field().await.map_err(broken)? {
            held.understood();
            if field.name() == Some(FIELD) {
                let name = field.file_name().filter(|name| !name.is_empty()).map(str::to_owned);
                let name = name.ok_or_else(|| Error::new(Kind::Usage, "the file in the form has no name"))?;
                return Ok(Form { form, held, name, field });
            }
            while field.chunk().await.map_err(broken)?.is_some() {
                held.understood();
            }
        }
        Err(Error::new(Kind::Usage, format!("the form has no field called {FIELD}")))
    }

    /// The content of the file, and what follows it. Must be called on a thread of the runtime.
    pub(super) fn content(self) -> (Upload, Rest) {
        let Form { form, held, field, .. } = self;
        let note = held.clone();
        // What the client did wrong is all that may stand there: the field reads nothing but its body.
        let content = field.inspect_ok(move |_| note.understood()).map_err(|e| chain(&e));
        (Upload::of_stream(content), Rest(form, held))
    }
}

/// An error and what caused it: the form's own sentence does not say that the client was too slow.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        text = format!("{text}: {cause}");
        at = cause.source();
    }
    text
}

/// What follows the file in its form.
pub(super) struct Rest(Multipart<'static>, Held);

impl Rest {
    /// Read it: a client that is still sending would take the end of the connection for the answer.
    pub(super) async fn drain(mut self) {
        while let Ok(Some(mut field)) = self.0.next_field().await {
            self.1.understood();
            while let Ok(Some(_)) = field.chunk().await {
                self.1.understood();
            }
        }
    }
}
