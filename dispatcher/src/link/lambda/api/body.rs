//! Bodies of requests: read within bounds, or thrown away within bounds.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::HeaderMap;

use super::super::machine::Refused;

/// The longest body of what is no response.
pub(super) const MAX_SMALL_BYTES: usize = 64 * 1024;
/// What is read of a body that is refused, so that its sender hears why and not only that the connection broke.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A request that is not done, and what is still to come of its body.
pub(super) struct Rejected {
    pub(super) why: Refused,
    pub(super) rest: Option<Incoming>,
}

/// Reads a body of at most so many bytes, and its trailers.
pub(super) async fn collect(mut body: Incoming, most: usize) -> Result<(Bytes, Option<HeaderMap>), Rejected> {
    if body.size_hint().lower() > most as u64 {
        return Err(Rejected { why: Refused::TooLarge, rest: Some(body) });
    }
    let mut bytes = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Rejected { why: Refused::Broken, rest: None })?;
        match frame.into_data() {
            Ok(data) => {
                if bytes.len() + data.len() > most {
                    return Err(Rejected { why: Refused::TooLarge, rest: Some(body) });
                }
                bytes.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok().or(trailers),
        }
    }
    Ok((bytes.into(), trailers))
}

/// Reads the rest of a body and drops it, within bounds; whether it was all of it.
pub(super) async fn discard(mut body: Incoming) -> bool {
    let all = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DISCARD_TIME, all).await.unwrap_or(false)
}
