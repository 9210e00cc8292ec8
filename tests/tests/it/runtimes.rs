//! The runtimes of other languages: our own for Node.js by its own tests, and the clients that later tests talk through.

use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_tests::Process;

const LIMIT: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The number behind `# name ` in the closing lines of a run.
fn count(text: &str, name: &str) -> u32 {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("# {name} ")));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no line `# {name} N` in:\n{text}"))
}

#[tokio::test]
async fn the_node_runtime_passes_its_own_tests() {
    let file = root().join("runtimes/node/test/bootstrap.test.mjs");
    let declared = std::fs::read_to_string(&file).unwrap().lines().filter(|line| line.starts_with("test(")).count();
    let ran = Process::at(weft_tests::node())
        .args(["--test", "--test-reporter", "tap"])
        .arg(&file)
        .run(LIMIT)
        .await
        .success()
        .text();
    assert_eq!((count(&ran, "fail"), count(&ran, "skipped"), count(&ran, "todo")), (0, 0, 0), "{ran}");
    // A file that could not be loaded has no test that fails.
    assert!(declared > 20 && count(&ran, "pass") as usize >= declared, "{declared} tests are in the file:\n{ran}");
}

#[tokio::test]
async fn the_python_environment_holds_what_its_list_pins() {
    let script = "import awslambdaric, boto3, aws_lambda_powertools.utilities.parser, importlib.metadata as m\n\
                  for d in m.distributions(): print(d.metadata['Name'].lower().replace('_', '-') + '==' + d.version)";
    let installed = Process::at(weft_tests::python()).args(["-c", script]).run(LIMIT).await.success().text();
    let list = std::fs::read_to_string(root().join("tests/clients/requirements.txt")).unwrap();
    for pinned in list.lines().filter(|line| line.contains("==")) {
        let pinned = pinned.replace('_', "-");
        assert!(installed.lines().any(|line| line == pinned), "{pinned} is not among:\n{installed}");
    }
}

#[tokio::test]
async fn the_npm_packages_load_and_work() {
    let script = "const { LambdaClient } = require('@aws-sdk/client-lambda');\n\
                  require('express'); require('serverless-http');\n\
                  const create = { width: 8, height: 4, channels: 3, background: 'red' };\n\
                  require('sharp')({ create }).resize(4).png().toBuffer({ resolveWithObject: true })\n\
                    .then(({ info }) => console.log(typeof LambdaClient, info.format, info.width, info.height));";
    let said = Process::at(weft_tests::node())
        .env("NODE_PATH", weft_tests::node_modules())
        .args(["-e", script])
        .run(LIMIT)
        .await
        .success()
        .text();
    assert_eq!(said.trim(), "function png 4 2");
}
