//! Any bytes are a frame or are refused; a frame that was read can be written, and is read back as the same frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_schemas::frame::{ToDispatcher, ToWorker, decode, encode};

fuzz_target!(|input: &[u8]| {
    if let Ok(frame) = decode::<ToWorker>(input) {
        let again = decode::<ToWorker>(&encode(&frame).expect("it can be written")).expect("it can be read back");
        assert_eq!(again, frame);
    }
    if let Ok(frame) = decode::<ToDispatcher>(input) {
        let again = decode::<ToDispatcher>(&encode(&frame).expect("it can be written")).expect("it can be read back");
        assert_eq!(again, frame);
    }
});
