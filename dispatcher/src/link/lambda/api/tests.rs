#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::pin::pin;

use futures_util::FutureExt as _;
use futures_util::poll;
use weft_schemas::manifest::Manifest;

use super::super::machine::tests::call;
use super::*;

fn api(slots: usize) -> Api {
    let text = "[functions.f]\nruntime = \"lambda\"\ncommand = [\"./f\"]\nevents = [\"a.b\"]\n";
    let manifest = Manifest::parse(text, Path::new("/app")).unwrap();
    let lambda = Lambda::of(manifest.functions.values().next().unwrap(), &[]).unwrap();
    #[expect(clippy::disallowed_methods, reason = "as in the server")]
    let (said, _) = mpsc::unbounded_channel();
    Api {
        function: lambda.function.clone(),
        lambda: Arc::new(lambda),
        worker: "f-1".to_owned(),
        queue: "weft.f".to_owned(),
        launched: Instant::now(),
        pid: Arc::default(),
        current: Current::new().0,
        extensions: Arc::default(),
        said,
        state: Mutex::new(State::new(Machine::new(slots))),
    }
}

/// The pool hands a call over before the runtime asks for it whenever there is more to do: then nothing but the question
/// itself says that the call begins.
#[tokio::test]
async fn an_extension_that_listens_is_told_of_a_call_that_waited_for_its_runtime() {
    let api = api(1);
    api.state().machine.register("e".to_owned(), true, false).unwrap();
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static("lambda-extension-identifier"), "e".parse().unwrap())]);
    let mut told = pin!(api.extension_next(&headers));
    assert!(poll!(told.as_mut()).is_pending());
    api.state().machine.offer(call(1));
    let taken = api.next().now_or_never().unwrap().unwrap_or_else(refused);
    assert_eq!(taken.headers().get(&REQUEST_ID).unwrap(), "r1");
    let told = told.now_or_never().map(|told| told.unwrap_or_else(refused));
    assert_eq!(told.map(|told| told.status()), Some(StatusCode::OK), "it was not told");
}

#[tokio::test]
async fn a_call_goes_past_one_that_has_stopped_waiting_to_one_that_waits() {
    let api = api(2);
    let mut waits = {
        let mut gone = Box::pin(api.next());
        assert!(poll!(gone.as_mut()).is_pending());
        let mut waits = Box::pin(api.next());
        assert!(poll!(waits.as_mut()).is_pending());
        waits
    };
    api.state().machine.offer(call(1));
    api.dispatch();
    let taken = poll!(waits.as_mut());
    assert!(taken.is_ready(), "it went to one that was gone");
}
