//! `docker-compose.yml` and `Dockerfile` against the programs that they start: no daemon is needed, and what they name exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml_ng::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weft_tests::Process;

const LIMIT: Duration = Duration::from_secs(30);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn compose() -> Value {
    let mut value: Value = serde_yaml_ng::from_str(&read("docker-compose.yml")).unwrap();
    value.apply_merge().unwrap();
    value
}

/// The services by name.
fn services(compose: &Value) -> Vec<(&str, &Value)> {
    let services = compose["services"].as_mapping().unwrap();
    services.iter().map(|(name, service)| (name.as_str().unwrap(), service)).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_sequence().into_iter().flatten().map(|item| item.as_str().unwrap()).collect()
}

/// The variables of a service: (name, value).
fn variables(service: &Value) -> Vec<(&str, &str)> {
    let variables = service.get("environment").and_then(Value::as_mapping);
    variables.into_iter().flatten().map(|(name, value)| (name.as_str().unwrap(), value.as_str().unwrap())).collect()
}

/// A Dockerfile's instructions: continuation lines joined, comments gone.
fn dockerfile() -> Vec<(String, String)> {
    let text = read("Dockerfile").replace("\\\n", " ");
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let (instruction, rest) = line.trim().split_once(' ').unwrap();
            (instruction.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

async fn help(program: &str, command: &str) -> String {
    Process::weft(program).args([command, "--help"]).run(LIMIT).await.success().text()
}

/// Those that run to their end and that others wait for.
fn run_once(compose: &Value) -> BTreeSet<&str> {
    services(compose)
        .iter()
        .filter_map(|(_, service)| service.get("depends_on")?.as_mapping())
        .flatten()
        .filter(|(_, condition)| condition["condition"].as_str() == Some("service_completed_successfully"))
        .map(|(name, _)| name.as_str().unwrap())
        .collect()
}

#[test]
fn no_port_opens_beyond_this_machine() {
    let compose = compose();
    let ports: Vec<&str> = services(&compose).iter().flat_map(|(_, service)| strings(&service["ports"])).collect();
    assert!(ports.len() >= 6, "{ports:?}");
    for port in &ports {
        assert!(port.starts_with("127.0.0.1:"), "{port}");
    }
    let distinct: BTreeSet<_> = ports.iter().map(|port| port.split(':').nth(1)).collect();
    assert_eq!(distinct.len(), ports.len(), "two services want one port: {ports:?}");
    for (name, service) in services(&compose) {
        assert!(service.get("network_mode").is_none(), "{name}");
    }
}

#[test]
fn every_service_that_stays_says_whether_it_is_well() {
    let compose = compose();
    let run_once = run_once(&compose);
    assert_eq!(run_once, BTreeSet::from(["migrate", "prepare"]));
    for (name, service) in services(&compose) {
        assert_eq!(service.get("healthcheck").is_some(), !run_once.contains(name), "{name}");
    }
}

#[test]
fn every_dependency_exists_and_is_waited_for() {
    let compose = compose();
    let names: BTreeSet<&str> = services(&compose).iter().map(|(name, _)| *name).collect();
    for (name, service) in services(&compose) {
        for (needed, condition) in service.get("depends_on").and_then(Value::as_mapping).into_iter().flatten() {
            let needed = needed.as_str().unwrap();
            assert!(names.contains(needed), "{name} needs {needed}");
            let condition = condition["condition"].as_str().unwrap();
            assert!(["service_healthy", "service_completed_successfully"].contains(&condition), "{name}: {condition}");
        }
    }
}

#[test]
fn no_password_stands_in_the_file_and_every_secret_is_made_by_the_script() {
    let text = read("docker-compose.yml");
    let compose = compose();
    for (name, service) in services(&compose) {
        for (variable, value) in variables(service) {
            let secret = ["PASS", "SECRET", "TOKEN", "KEY"].iter().any(|word| variable.contains(word));
            assert!(!secret || variable.ends_with("_FILE"), "{name}: {variable} is in clear");
            if let Ok(url) = url::Url::parse(value) {
                assert!(url.password().is_none(), "{name}: {variable} holds a password");
            }
        }
    }
    for word in text.split_whitespace().filter(|word| word.contains("://")) {
        assert!(!word.contains('@'), "an address with a password: {word}");
    }

    let made = tempdir();
    std::fs::create_dir(made.join("deploy")).unwrap();
    std::fs::copy(root().join("deploy/secrets.sh"), made.join("deploy/secrets.sh")).unwrap();
    let run = || std::process::Command::new("sh").arg(made.join("deploy/secrets.sh")).status().unwrap();
    assert!(run().success());
    let secrets = compose["secrets"].as_mapping().unwrap();
    let contents = || -> Vec<String> {
        let files = secrets.iter().map(|(_, secret)| made.join(secret["file"].as_str().unwrap()));
        files.map(|file| std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))).collect()
    };
    let first = contents();
    assert!(run().success());
    assert_eq!(first, contents(), "a second run changed the passwords of services that keep theirs");
    assert!(first.iter().all(|content| content.len() > 40), "a secret is short or empty");

    for (name, service) in services(&compose) {
        for secret in service.get("secrets").and_then(Value::as_sequence).into_iter().flatten() {
            let source = secret.as_str().or_else(|| secret["source"].as_str()).unwrap();
            assert!(secrets.contains_key(source), "{name} wants the secret {source}");
        }
    }
    std::fs::remove_dir_all(made).unwrap();
}

fn tempdir() -> PathBuf {
    let path = std::env::temp_dir().join(format!("weft-compose-{}", std::process::id()));
    std::fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn every_variable_is_one_that_the_program_knows() {
    let run = help("weft", "run").await;
    let telemetry = read("docs/telemetry.md");
    let compose = compose();
    let mut seen = 0;
    let image = dockerfile();
    let in_image = image
        .iter()
        .filter(|(instruction, _)| instruction == "ENV")
        .flat_map(|(_, rest)| rest.split_whitespace().map(|pair| pair.split_once('=').unwrap().0));
    let in_compose = services(&compose);
    let ours = in_compose.iter().filter(|(_, service)| service.get("image").and_then(Value::as_str) == Some("weft"));
    let in_compose = ours.flat_map(|(_, service)| variables(service)).map(|(variable, _)| variable);
    for variable in in_image.chain(in_compose) {
        seen += 1;
        assert!(
            run.contains(&format!("env: {variable}="))
                || run.contains(&format!("env: {variable}]"))
                || run.contains(&format!("`{variable}`"))
                || telemetry.contains(&format!("`{variable}`")),
            "{variable} is neither in `weft run --help` nor in docs/telemetry.md"
        );
    }
    assert!(seen >= 6);
}

#[tokio::test]
async fn every_command_is_one_that_the_program_has() {
    let compose = compose();
    let mut checked = Vec::new();
    for (name, service) in services(&compose) {
        if service.get("image").and_then(Value::as_str) != Some("weft") || service.get("entrypoint").is_some() {
            continue;
        }
        let command = strings(&service["command"]);
        let (subcommand, flags) = command.split_first().unwrap();
        let help = help("weft", subcommand).await;
        for flag in flags.iter().filter(|flag| flag.starts_with("--")) {
            assert!(help.contains(*flag), "{name}: {flag}");
        }
        checked.push(*subcommand);
    }
    checked.sort_unstable();
    assert_eq!(checked, ["migrate", "run"]);
    let prepare = compose["services"]["prepare"]["entrypoint"][2].as_str().unwrap();
    assert!(prepare.contains("./orders prepare"));
    assert!(help("orders", "prepare").await.contains("env: WEFT_LEDGER_URL"));
}

#[test]
fn the_image_holds_what_the_packages_build_and_does_not_run_as_root() {
    let image = dockerfile();
    let user = image.iter().rev().find(|(instruction, _)| instruction == "USER").map(|(_, user)| user.as_str());
    assert!(user.is_some_and(|user| user != "root" && user != "0"), "{user:?}");
    assert!(image.iter().any(|(instruction, _)| instruction == "HEALTHCHECK"));

    let bins: BTreeSet<String> = ["cli", "examples/orders"]
        .into_iter()
        .flat_map(|package| {
            let manifest: toml::Table = read(&format!("{package}/Cargo.toml")).parse().unwrap();
            let bins = manifest.get("bin").and_then(toml::Value::as_array).cloned().unwrap_or_default();
            let named: Vec<String> = bins.iter().map(|bin| bin["name"].as_str().unwrap().to_owned()).collect();
            if named.is_empty() { vec![manifest["package"]["name"].as_str().unwrap().to_owned()] } else { named }
        })
        .collect();
    let mut copied = BTreeSet::new();
    for (_, rest) in image.iter().filter(|(instruction, _)| instruction == "COPY") {
        let mut words: Vec<&str> = rest.split_whitespace().collect();
        let target = words.pop().unwrap();
        let from_build = words.first().is_some_and(|word| word.starts_with("--from="));
        for source in words.iter().filter(|word| !word.starts_with("--")) {
            if from_build {
                let bin = source.strip_prefix("/out/").unwrap();
                assert!(bins.contains(bin), "{bin} is no program of ours: {bins:?}");
                assert!(target.ends_with(&format!("/{bin}")));
                copied.insert(bin.to_owned());
            } else {
                assert!(root().join(source).exists(), "{source}");
            }
        }
    }
    assert_eq!(copied, bins);
}

#[test]
fn ports_agree() {
    let compose = compose();
    let weft = &compose["services"]["weft"];
    assert_eq!(strings(&weft["ports"]), ["127.0.0.1:7070:7070"]);
    let image = dockerfile();
    let has = |wanted: &str, text: &str| image.iter().any(|(name, rest)| name == wanted && rest.contains(text));
    assert!(has("ENV", "WEFT_ADMIN=0.0.0.0:7070") && has("EXPOSE", "7070") && has("HEALTHCHECK", "/127.0.0.1/7070"));
    let otlp = variables(weft).iter().find(|(name, _)| name.starts_with("OTEL_")).unwrap().1;
    let otlp = url::Url::parse(otlp).unwrap();
    assert_eq!((otlp.host_str(), otlp.port()), (Some("jaeger"), Some(4318)));
}

/// The check runs in the image's own shell; here it runs against a server that says what the test wants.
#[tokio::test]
async fn the_health_check_tells_well_from_unwell() {
    let compose = compose();
    let check = strings(&compose["services"]["weft"]["healthcheck"]["test"]);
    assert_eq!(&check[..3], ["CMD", "bash", "-c"]);
    let image = dockerfile();
    let (_, in_image) = image.iter().find(|(instruction, _)| instruction == "HEALTHCHECK").unwrap();
    let in_image: Vec<String> = serde_json::from_str(&in_image[in_image.find('[').unwrap()..]).unwrap();
    assert_eq!(in_image, check[1..], "the two files check differently");

    for (status, well) in [("200 OK", true), ("503 Service Unavailable", false)] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let script = check[3].replace("7070", &listener.local_addr().unwrap().port().to_string());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The shell may write the request in pieces.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
            stream.write_all(format!("HTTP/1.0 {status}\r\n\r\n{{}}").as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request).into_owned()
        });
        let exit = Process::at("/bin/bash").args(["-c", &script]).run(LIMIT).await;
        assert_eq!(exit.status.success(), well, "{status}");
        assert_eq!(server.await.unwrap(), "GET /health HTTP/1.0\r\n\r\n");
    }
    let exit = Process::at("/bin/bash").args(["-c", &check[3].replace("7070", "1")]).run(LIMIT).await;
    assert!(!exit.status.success(), "nobody listens");
}
