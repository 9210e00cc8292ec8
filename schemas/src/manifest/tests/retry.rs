//! `retry` and `idempotency`.

use super::*;

#[test]
fn each_rule_of_a_retry_and_of_a_key_has_its_fault() {
    each_is_refused(&[
        ("retry = { attempt = 1 }", "unknown key \"attempt\" in [functions.f.retry]; write \"attempts\""),
        ("retry = { max_age = \"15d\" }", "write \"1s\" to \"14d\""),
        ("retry = { backoff = { factor = 0.5 } }", "write 1.0 to 10.0"),
        ("retry = { backoff = { factor = nan } }", "write 1.0 to 10.0"),
        ("retry = { backoff = { jitter = inf } }", "write 0.0 to 1.0"),
        ("retry = { backoff = { jitter = \"0.2\" } }", "of type string, not number"),
        ("retry = { backoff = { first = \"5s\", max = \"1s\" } }", "max (1s) is less than first (5s)"),
        ("idempotency = { key = \"data.order_id\" }", "is no JSON Pointer; write \"/data/order_id\""),
        ("idempotency = { key = \"$.data.o.id\" }", "write \"/data/o/id\""),
        ("idempotency = { key = \"/order_id\" }", "write \"/data/order_id\""),
        ("idempotency = { key = \"/id/x\" }", "points at nothing"),
        ("idempotency = { key = \"/data/a~2\" }", "neither ~0 nor ~1"),
        ("idempotency = { keep = \"1s\" }", "write \"1m\" to \"365d\""),
    ]);
}
