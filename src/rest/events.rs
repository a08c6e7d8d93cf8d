//! `/v1/events`: server-sent events. After a break, `Last-Event-ID` (or `after`) goes on where the last one was.

use crate::error::Result;
use crate::node::{Cursor, Node};
use crate::rest::body::Asked;
use crate::rest::described::{Routes, about};
use crate::rest::{blocking, wire};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use utoipa::IntoParams;

/// Without an event for this long, a comment shows that the connection stands.
const STILL_THERE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> Routes {
    let watched = about("Every block, transaction, mount and unmount, as server-sent events")
        .query::<WatchQuery>()
        .field("Last-Event-ID", "the id of the last event that came")
        .events::<wire::Event>();
    Routes::new().get("/v1/events", watch_events, watched)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
struct WatchQuery {
    /// Begin after the event with this id; without, with what is to come.
    after: Option<String>,
}

async fn watch_events(State(node): State<Arc<Node>>, Asked(query): Asked<WatchQuery>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let cursor = match last.or(query.after) {
        None => node.watch_from_now(),
        Some(id) => match id.parse() {
            Ok(cursor) => cursor,
            Err(error) => return crate::error::Error::into_response(error),
        },
    };
    let watcher = Watcher { bell: node.bell(), stopping: node.stopping(), node, cursor };
    let batches = stream::unfold(watcher, |mut watcher| async {
        let batch = watcher.next().await?;
        Some((batch, watcher))
    });
    let events = batches.flat_map(|batch| stream::iter(batch.into_iter().map(Ok::<_, std::convert::Infallible>)));
    Sse::new(events).keep_alive(KeepAlive::new().interval(STILL_THERE)).into_response()
}

struct Watcher {
    node: Arc<Node>,
    cursor: Cursor,
    bell: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
}

impl Watcher {
    /// What is new, waited for; none when the node ends or the ledger cannot be read.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            // Marked as heard before looking: what rings meanwhile is looked for again.
            self.bell.borrow_and_update();
            let (node, mut cursor) = (Arc::clone(&self.node), self.cursor);
            let looked = blocking(move || Ok((node.events_after(&mut cursor)?, cursor))).await;
            let (told, cursor) = looked.inspect_err(|error| tracing::warn!("events end: {error}")).ok()?;
            let moved = cursor != self.cursor;
            self.cursor = cursor;
            if !told.is_empty() {
                return told.into_iter().map(|(after, event)| framed(after, &event).ok()).collect();
            }
            if moved {
                continue;
            }
            tokio::select! {
                rung = self.bell.changed() => rung.ok()?,
                stopped = self.stopping.wait_for(|stopping| *stopping) => {
                    drop(stopped);
                    return None;
                }
            }
        }
    }
}

fn framed(after: Cursor, event: &wire::Event) -> Result<Event> {
    let framed = Event::default().event(event.name()).id(after.to_string()).json_data(event);
    framed.map_err(|e| crate::error::Error::new(crate::error::Kind::Internal, format!("cannot write an event: {e}")))
}
