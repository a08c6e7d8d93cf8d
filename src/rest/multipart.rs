//! `POST /buckets/ORIGIN/putfile` of the predecessor: a form with a file in it, which streams.

use super::body::Upload;
use crate::error::{Error, Kind, Result};
use axum::body::Body;
use axum::http::{HeaderMap, header};
use futures_util::TryStreamExt;
use multer::{Field, Multipart};

/// The field with the file, as the predecessor called it.
const FIELD: &str = "filename";

/// A form of which the file comes next.
pub(super) struct Form {
    form: Multipart<'static>,
    /// The name of the file, as the client sent it.
    pub(super) name: String,
    field: Field<'static>,
}

fn broken(error: multer::Error) -> Error {
    Error::new(Kind::Usage, format!("the form cannot be understood: {error}"))
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
        let mut form = Multipart::new(body.into_data_stream().map_err(std::io::Error::other), boundary);
        while let Some(field) = form.next_field().await.map_err(broken)? {
            if field.name() == Some(FIELD) {
                let name = field.file_name().filter(|name| !name.is_empty()).map(str::to_owned);
                let name = name.ok_or_else(|| Error::new(Kind::Usage, "the file in the form has no name"))?;
                return Ok(Form { form, name, field });
            }
        }
        Err(Error::new(Kind::Usage, format!("the form has no field called {FIELD}")))
    }

    /// The content of the file, and what follows it. Must be called on a thread of the runtime.
    pub(super) fn content(self) -> (Upload, Rest) {
        // What the client did wrong is all that may stand there: the field reads nothing but its body.
        (Upload::of_stream(self.field.map_err(|e| chain(&e))), Rest(self.form))
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
pub(super) struct Rest(Multipart<'static>);

impl Rest {
    /// Read it: a client that is still sending would take the end of the connection for the answer.
    pub(super) async fn drain(mut self) {
        while let Ok(Some(mut field)) = self.0.next_field().await {
            while let Ok(Some(_)) = field.chunk().await {}
        }
    }
}
