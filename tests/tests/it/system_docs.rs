//! What the pages show, run as it is pasted.

use std::path::Path;

use weft_tests::{Process, poll};

use crate::system_stage::{LIMIT, Stage, complaints, stop};

/// The code blocks of a section of a page, each with its language.
fn blocks(page: &str, section: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let fenced = section.split("\n```").skip(1).step_by(2);
    let parts = fenced.map(|block| block.split_once('\n').unwrap());
    parts.map(|(language, code)| (language.to_owned(), format!("{code}\n"))).collect()
}

#[tokio::test]
async fn the_example_of_order_and_batches_does_what_its_page_says() {
    let blocks = blocks("docs/caps.md", "Try order and batches");
    let [(_, code), (_, manifest), (_, commands)] = &blocks[..] else { panic!("{blocks:#?}") };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/caps");
    for (file, shown) in [("main.rs", code), ("weft.toml", manifest)] {
        assert_eq!(&std::fs::read_to_string(example.join(file)).unwrap(), shown, "the page shows another {file}");
    }

    let stage = Stage::embedded().manifest(manifest);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_weft-test-example-caps"), stage.path("shop")).unwrap();
    let mut dispatcher = stage.start(&[]).await;
    let path = format!("{}:{}", weft_tests::bin("weft").parent().unwrap().display(), std::env::var("PATH").unwrap());
    let shell = stage.program(Process::at("sh")).args(["-e", "-c", commands]).env("PATH", path);
    shell.run(LIMIT).await.success();
    stage.invocations_in("charge", "succeeded", 4).await;
    stage.invocations_in("index", "succeeded", 50).await;
    let letters = poll("the empty document is given up", LIMIT, || async {
        let letters = stage.json(&["dlq", "ls", "--json"]).await;
        if letters.as_array().is_some_and(|letters| letters.len() == 1) { Ok(letters) } else { Err(letters) }
    })
    .await;
    assert_eq!(letters[0]["error"]["kind"], "Empty");
    dispatcher.wait_for_line("charged bob 7", LIMIT).await;
    dispatcher.wait_for_line("charged ada 3", LIMIT).await;
    let exit = stop(dispatcher).await;
    let said = |what: &str| exit.lines.iter().filter(|line| line.contains(what)).count();
    let place = |what: &str| exit.lines.iter().position(|line| line.contains(what)).expect(what);
    let lane = ["declined ada 1", "charged ada 1", "charged ada 2", "charged ada 3"];
    assert!(lane.map(place).is_sorted(), "{}", exit.text());
    assert!(lane.iter().all(|what| said(what) == 1), "{}", exit.text());
    assert!((1..51).contains(&said("documents in one call")), "no call had two documents: {}", exit.text());
    assert_eq!(complaints(&exit.lines, &["event given up"]), Vec::<String>::new());
}
