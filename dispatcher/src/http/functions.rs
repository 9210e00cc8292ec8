//! What the Invoke API says of functions: descriptions as AWS's clients read them, from the manifest.

use std::sync::PoisonError;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use weft_schemas::FunctionName;
use weft_schemas::manifest::Function;

use super::call::{LATEST, Named};
use super::error::ApiError;
use super::{Front, Served, parameter};

/// Functions in one answer at most, and where nobody says.
const PAGE: usize = 50;
const PAGE_MOST: usize = 10_000;
/// The largest bound of a function's concurrency; the manifest has the same.
const RESERVED_MOST: u32 = 100_000;

impl Front {
    /// The function that is named, in its one version.
    pub(super) fn served(&self, named: &Named, query: &str) -> Result<&Served, ApiError> {
        let unknown = || ApiError::not_found(format!("Function not found: {}", arn(&named.text)));
        let served = named.function.as_ref().and_then(|name| self.functions.get(name)).ok_or_else(unknown)?;
        let qualifier = parameter(query, "Qualifier").or_else(|| named.qualifier.clone());
        match qualifier {
            Some(qualifier) if qualifier != LATEST => {
                let text =
                    format!("Function not found: {}:{qualifier} (there is one version, {LATEST})", arn(&named.text));
                Err(ApiError::not_found(text))
            }
            _ => Ok(served),
        }
    }

    pub(super) fn list(&self, query: &str) -> Result<Response, ApiError> {
        let most = match parameter(query, "MaxItems").map(|text| text.parse::<usize>()) {
            None => PAGE,
            Some(Ok(most)) if (1..=PAGE_MOST).contains(&most) => most.min(PAGE),
            Some(_) => return Err(ApiError::parameter(format!("MaxItems is not a number from 1 to {PAGE_MOST}"))),
        };
        let after = match parameter(query, "Marker").filter(|marker| !marker.is_empty()) {
            None => None,
            Some(marker) => {
                Some(FunctionName::new(marker).map_err(|_| ApiError::parameter("Marker is none of this API's"))?)
            }
        };
        let mut rest =
            self.functions.values().filter(|served| after.as_ref().is_none_or(|after| served.function.name > *after));
        let page: Vec<&Served> = rest.by_ref().take(most).collect();
        let next = rest.next().and(page.last()).map(|served| served.function.name.to_string());
        let functions: Vec<Value> = page.into_iter().map(|served| self.configuration(&served.function)).collect();
        Ok(Json(json!({ "Functions": functions, "NextMarker": next })).into_response())
    }

    pub(super) fn get(&self, named: &Named, query: &str) -> Result<Response, ApiError> {
        let served = self.served(named, query)?;
        let function = &served.function;
        let mut body = json!({ "Configuration": self.configuration(function), "Code": {}, "Tags": {} });
        if let (Some(reserved), Some(body)) = (served.reserved(), body.as_object_mut()) {
            body.insert("Concurrency".to_owned(), json!({ "ReservedConcurrentExecutions": reserved }));
        }
        Ok(Json(body).into_response())
    }

    pub(super) fn get_configuration(&self, named: &Named, query: &str) -> Result<Response, ApiError> {
        let Served { function, .. } = self.served(named, query)?;
        Ok(Json(self.configuration(function)).into_response())
    }

    pub(super) fn get_concurrency(&self, named: &Named) -> Result<Response, ApiError> {
        let mut body = Map::new();
        if let Some(reserved) = self.served(named, "")?.reserved() {
            body.insert("ReservedConcurrentExecutions".to_owned(), reserved.into());
        }
        Ok(Json(Value::Object(body)).into_response())
    }

    /// Another bound than the manifest's, from now on: 0 lets nothing new begin.
    pub(super) fn put_concurrency(&self, named: &Named, body: &[u8]) -> Result<Response, ApiError> {
        let served = self.served(named, "")?;
        let reserved = wanted_concurrency(body)?;
        served.reserve(Some(reserved));
        Ok(Json(json!({ "ReservedConcurrentExecutions": reserved })).into_response())
    }

    /// The manifest's bound again.
    pub(super) fn delete_concurrency(&self, named: &Named) -> Result<Response, ApiError> {
        let served = self.served(named, "")?;
        served.reserve(served.function.concurrency.reserved);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn configuration(&self, function: &Function) -> Value {
        json!({
            "FunctionName": function.name,
            "FunctionArn": arn(function.name.as_str()),
            "Runtime": "provided.al2023",
            "Handler": function.handler,
            "Timeout": function.timeout.as_secs_f64().ceil(),
            "MemorySize": function.memory_bytes.div_ceil(1 << 20),
            "LastModified": self.since.strftime("%Y-%m-%dT%H:%M:%S%.3f+0000").to_string(),
            "Version": LATEST,
            "PackageType": "Zip",
            "Architectures": [if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }],
            "State": "Active",
            "LastUpdateStatus": "Successful",
        })
    }
}

impl Served {
    /// `concurrency.reserved` as it is now.
    fn reserved(&self) -> Option<u32> {
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bound: Option<u32>) {
        let mut now = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that the loop hears of two in the order in which they are answered.
        self.door.reserve(bound);
        *now = bound;
    }
}

/// The bound that a caller asks for.
fn wanted_concurrency(body: &[u8]) -> Result<u32, ApiError> {
    let body: Value =
        serde_json::from_slice(body).map_err(|_| ApiError::content("Could not parse request body into json"))?;
    let wanted = body.get("ReservedConcurrentExecutions").and_then(Value::as_u64);
    wanted.and_then(|wanted| u32::try_from(wanted).ok()).filter(|wanted| *wanted <= RESERVED_MOST).ok_or_else(|| {
        ApiError::parameter(format!("ReservedConcurrentExecutions is not a whole number from 0 to {RESERVED_MOST}"))
    })
}

/// A function's name as clients of AWS know it, with the region and the account that stand for here.
pub(super) fn arn(name: &str) -> String {
    format!("arn:aws:lambda:us-east-1:000000000000:function:{name}")
}

/// An answer with nothing in it.
pub(super) fn empty(status: StatusCode) -> Response {
    status.into_response()
}
