//! The examples in other languages, each from its own folder and as its README runs it.

use serde_json::{Value, json};

use crate::lambda_stage::{EXPECTED, result, with_example, with_node_modules, with_program, with_venv};
use crate::system_stage::{LIMIT, Stage, complaints, record, stop};

async fn orders_are_validated(stage: Stage) {
    let stage = with_venv(with_example(stage, "python-validator"));
    let dispatcher = stage.start(&[]).await;
    stage.done(&["publish", "--file", "orders.ndjson"]).await;
    let valid = stage.invocations_in("validate-order", "succeeded", 2).await;
    let counted = stage.invocations_in("count-orders", "succeeded", 2).await;
    let dead = stage.invocations_in("validate-order", "dead", 1).await;
    let uncounted = stage.invocations_in("count-orders", "dead", 1).await;
    let mut answers: Vec<String> = valid.iter().map(|order| result(order).to_string()).collect();
    answers.sort();
    assert_eq!(answers, [r#"{"articles":2,"order_id":"O-1"}"#, r#"{"articles":2,"order_id":"O-2"}"#]);
    assert!(counted.iter().all(|order| order["attempt"] == 1), "only what failed is tried again: {counted:#?}");
    assert_eq!((&dead[0]["attempt"], &uncounted[0]["attempt"]), (&json!(1), &json!(2)));
    let letters = stage.json(&["dlq", "ls", "--json"]).await.to_string();
    assert!(letters.contains("ValidationError") && letters.contains("the lines come to 3500"), "{letters}");
    let exit = stop(dispatcher).await;
    let lines: Vec<&String> = exit.lines.iter().filter(|line| line.contains("order is valid")).collect();
    assert_eq!(lines.len(), 2, "the duplicate reached no function: {lines:#?}");
}

#[tokio::test]
async fn the_python_validator_runs_as_its_readme_says() {
    orders_are_validated(Stage::embedded()).await;
}

#[tokio::test]
async fn the_python_validator_runs_on_rabbitmq() {
    orders_are_validated(Stage::real().await).await;
}

#[tokio::test]
async fn the_node_thumbnail_runs_as_its_readme_says() {
    let stage = with_node_modules(with_example(Stage::embedded(), "node-thumbnail"));
    let picture = weft_tests::Process::at(weft_tests::node()).folder(&stage.folder).args(["picture.mjs"]);
    std::fs::write(stage.path("picture.json"), picture.run(LIMIT).await.success().stdout.concat()).unwrap();
    let dispatcher = stage.start(&[]).await;
    for _ in 0..2 {
        stage.done(&["publish", "pictures.uploaded", "--id", "sunset", "--data", "@picture.json"]).await;
    }
    let junk = r#"{"name": "notes.txt", "image": "bm90IGEgcGljdHVyZQ=="}"#;
    stage.done(&["publish", "pictures.uploaded", "--id", "junk", "--data", junk]).await;
    let done = stage.invocations_in("thumbnail", "succeeded", 1).await;
    let dead = stage.invocations_in("thumbnail", "dead", 1).await;
    let made = result(&done[0]);
    assert_eq!((&made["format"], &made["width"], &made["height"]), (&json!("webp"), &json!(160), &json!(120)));
    assert_eq!(dead[0]["attempt"], 2, "{dead:#?}");
    let letters = stage.json(&["dlq", "ls", "--json"]).await.to_string();
    assert!(letters.contains("unsupported image format"), "{letters}");
    let exit = stop(dispatcher).await;
    let made = exit.lines.iter().filter(|line| line.contains("sunset.jpg: 640 to 160 pixels")).count();
    assert_eq!(made, 1, "the duplicate is answered from the ledger:\n{}", exit.text());
    let expected = [EXPECTED.as_slice(), &["attempt failed", "event given up", "Invoke Error"]].concat();
    assert_eq!(complaints(&exit.lines, &expected), Vec::<String>::new());
}

#[tokio::test]
async fn the_rust_function_runs_as_its_readme_says() {
    let stage = with_example(Stage::embedded(), "rust-lambda");
    let stage = with_program(stage, &weft_tests::rust_example(), "weft-example-rust-lambda");
    let dispatcher = stage.start(&[]).await;
    stage.done(&["publish", "--file", "orders.ndjson"]).await;
    let done = stage.invocations_in("invoice", "succeeded", 2).await;
    let dead = stage.invocations_in("invoice", "dead", 1).await;
    let mut invoices: Vec<String> = done.iter().map(|one| result(one)["invoice"].to_string()).collect();
    invoices.sort();
    assert_eq!(invoices, [r#""I-O-1""#, r#""I-O-2""#]);
    assert_eq!(dead[0]["attempt"], 1, "what is for good is not tried again: {dead:#?}");
    let letters = stage.json(&["dlq", "ls", "--json"]).await.to_string();
    assert!(letters.contains("InvalidOrder") && letters.contains("order O-3 has no lines"), "{letters}");
    let exit = stop(dispatcher).await;
    let made = exit.lines.iter().filter(|line| line.contains("invoice for O-1")).count();
    assert_eq!(made, 1, "the duplicate is answered from the ledger:\n{}", exit.text());
    assert!(exit.text().contains("stopping in good order"), "{}", exit.text());
}

#[tokio::test]
async fn the_express_app_runs_behind_its_url_as_its_readme_says() {
    let stage = with_node_modules(with_example(Stage::embedded(), "express"));
    let mut dispatcher = stage.start(&["--urls", "127.0.0.1:0"]).await;
    let line = dispatcher.wait_for_line("function URLs open", LIMIT).await;
    let root = format!("http://{}/fn/shop", record(&line).unwrap()["fields"]["address"].as_str().unwrap());
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();

    let page = client.get(format!("{root}/")).send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{page:?}");
    assert_eq!((page.status().as_u16(), page.text().await.unwrap().as_str()), (200, "<h1>The shop</h1>"));
    let price = client.get(format!("{root}/prices/tea")).send().await.unwrap();
    assert_eq!(price.json::<Value>().await.unwrap(), json!({ "article": "tea", "cents": 450 }));
    let unknown = client.get(format!("{root}/prices/gold")).send().await.unwrap();
    assert_eq!(unknown.status().as_u16(), 404);

    for _ in 0..2 {
        let quote = client.post(format!("{root}/quotes")).header("idempotency-key", "quote-1");
        let quote =
            quote.header("content-type", "application/json").body(r#"{"lines":[{"article":"tea","quantity":2}]}"#);
        let answer = quote.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 201, "{answer:?}");
        assert_eq!(answer.headers()["set-cookie"], "quote=900; Path=/; HttpOnly");
        assert_eq!(answer.json::<Value>().await.unwrap(), json!({ "total_cents": 900 }));
    }
    let exit = stop(dispatcher).await;
    let made = exit.lines.iter().filter(|line| line.contains("quote over 900 cents")).count();
    assert_eq!(made, 1, "the repeat is answered from the ledger:\n{}", exit.text());
    assert_eq!(complaints(&exit.lines, &EXPECTED), Vec::<String>::new());
}
