//! Every durable step, with the database killed and every other connection reset right before it or right after it.

use std::time::Duration;

use serde_json::json;
use weft_tests::{PrivatePostgres, Process, Proxy, poll};

use crate::system_stage::{LIMIT, Place, Stage, children, sql, started, state_of, stop};

const MANIFEST: &str = r#"
[functions.order]
command = [COMMAND]
events = ["order.event"]
idempotency = { key = "/id" }

[functions.flaky]
command = [COMMAND]
handler = "retry"
events = ["flaky.event"]
idempotency = { key = "/id" }
retry = { backoff = { first = "100ms" } }

[functions.noop]
command = [COMMAND]
events = ["keyless.event"]
idempotency = { key = "/data/key" }
"#;

/// Of the dispatcher; then of the worker.
const STEPS: [&str; 9] = [
    "after-claim",
    "before-settle",
    "after-settle",
    "before-bury",
    "after-bury",
    "before-publish",
    "after-publish",
    "after-finish",
    "after-ack",
];
const WORKER_STEPS: [&str; 4] = ["before-handler", "after-handler", "before-commit", "after-commit"];

fn is_stopped(pid: u32) -> bool {
    state_of(pid).is_some_and(|state| state == "T")
}

/// Waits until a dispatcher, or one of its workers, has stopped itself.
async fn stopped_at(step: &str, dispatcher: &Process) {
    let pid = dispatcher.pid().unwrap();
    poll(&format!("somebody stops {step}"), LIMIT, || async {
        let all: Vec<u32> = children(pid).into_iter().chain([pid]).collect();
        if all.iter().any(|pid| is_stopped(*pid)) { Ok(()) } else { Err(all) }
    })
    .await;
}

#[tokio::test]
async fn a_database_that_dies_and_connections_that_break_at_any_durable_step_cost_nothing() {
    let postgres = PrivatePostgres::start().await;
    let Place::Real { mut vhost, state, .. } = Stage::real().await.place else { unreachable!("it is real") };
    let port = |url: &str| url::Url::parse(url).unwrap().port().unwrap();
    let (to_rabbit, to_redis) = tokio::join!(Proxy::before(port(&vhost.amqp_url)), Proxy::before(port(&state)));
    vhost.amqp_url = to_rabbit.url(&vhost.amqp_url);
    let ledger = postgres.database().await;
    let mut stage = Stage::with(Place::Real { vhost, ledger: ledger.clone(), state: to_redis.url(&state) });
    stage.done(&["migrate"]).await;
    sql(&ledger, "create table orders (id text not null, process bigint not null)").await;
    for (step, in_worker) in STEPS.iter().map(|step| (*step, false)).chain(WORKER_STEPS.map(|step| (step, true))) {
        // Once over all processes: the workers that follow pass.
        let trap = format!("{step}=stop@{}", stage.path(step).display());
        let command =
            if in_worker { format!(r#""env", "WEFT_CRASH_AT={trap}", "HANDLERS""#) } else { "\"HANDLERS\"".into() };
        stage = stage.manifest(&MANIFEST.replace("COMMAND", &command));
        let dispatcher = stage.dispatcher(&["--lease", "60s", "--max-workers", "2"]);
        let dispatcher = if in_worker { dispatcher } else { dispatcher.env("WEFT_CRASH_AT", trap) };
        let dispatcher = started(dispatcher).await;
        stage.publish("order.event", &format!("order-{step}"), &json!({ "end": "commit" })).await;
        stage.publish("flaky.event", &format!("flaky-{step}"), &json!({ "from_attempt": 2 })).await;
        stage.publish("keyless.event", &format!("keyless-{step}"), &json!({ "step": step })).await;
        stopped_at(step, &dispatcher).await;
        postgres.kill();
        to_rabbit.reset();
        to_redis.reset();
        postgres.start_again().await;
        dispatcher.resume();
        let books = format!(
            "select key || ' ' || state || ' ' || attempt || ' ' || crashes from weft.invocation where key like '%-{step}'
             union all select 'effects ' || count(*) from orders where id like '%-{step}'
             union all select 'letters ' || count(*) from weft.dead_letter where reason = 'no_key'
             union all select 'outbox ' || count(*) from weft.outbox order by 1"
        );
        let letters = stage_number(step);
        let expected =
            format!("effects 1\nflaky-{step} succeeded 2 0\nletters {letters}\norder-{step} succeeded 1 0\noutbox 0");
        poll(&format!("{step}: everything has happened once"), LIMIT, || async {
            let books = sql(&ledger, &books).await;
            if books == expected { Ok(()) } else { Err(books) }
        })
        .await;
        stop(dispatcher).await;
    }
    for function in ["order", "flaky", "noop"] {
        stage.queue_empty(function).await;
    }
}

/// Which step it is, from 1.
fn stage_number(step: &str) -> usize {
    STEPS.iter().chain(&WORKER_STEPS).position(|known| *known == step).map_or(0, |at| at + 1)
}

/// How long a refusal to start may take: more than any client's own limit, less than a person would wait.
const SOON: Duration = Duration::from_secs(25);

#[tokio::test]
async fn a_service_that_does_not_answer_at_start_is_named_soon_and_a_later_start_succeeds() {
    use weft_tests::Flow;
    let stage = Stage::real().await.manifest("[functions.noop]\ncommand = [\"HANDLERS\"]\nevents = [\"noop.event\"]\n");
    let Place::Real { vhost, ledger, state } = &stage.place else { unreachable!("it is real") };
    let services = [
        ("WEFT_AMQP_URL", vhost.amqp_url.clone(), "W0201"),
        ("WEFT_LEDGER_URL", ledger.clone(), "W0301"),
        ("WEFT_STATE_URL", state.clone(), "W0401"),
    ];
    type Fault = fn(&Proxy);
    let faults: [(&str, Fault); 3] =
        [("refusing", Proxy::refuse), ("silent", Proxy::pause), ("not heard", |proxy| proxy.answers(Flow::Lose))];
    let mut proxies = Vec::new();
    for (_, url, _) in &services {
        proxies.push(Proxy::before(url::Url::parse(url).unwrap().port().unwrap()).await);
    }
    for (name, fault) in faults {
        let mut refused = tokio::task::JoinSet::new();
        for ((variable, url, code), proxy) in services.iter().zip(&proxies) {
            fault(proxy);
            let starting = stage.dispatcher(&[]).env(variable, proxy.url(url));
            let (code, variable) = (*code, *variable);
            refused.spawn(async move { (code, variable, starting.run(SOON).await.code(4)) });
        }
        for (code, variable, exit) in refused.join_all().await {
            let text = exit.text();
            assert!(text.contains(&format!("error[{code}]")), "{variable} {name}: not {code}:\n{text}");
        }
        for proxy in &proxies {
            proxy.heal();
        }
    }
    // Slow is not away; and what was away can be used when it is back.
    let mut slow = stage.dispatcher(&[]);
    for ((variable, url, _), proxy) in services.iter().zip(&proxies) {
        proxy.answers(Flow::Delay(Duration::from_millis(50)));
        slow = slow.env(variable, proxy.url(url));
    }
    let dispatcher = started(slow).await;
    stage.publish("noop.event", "slow", &json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;
    stop(dispatcher).await;
}
