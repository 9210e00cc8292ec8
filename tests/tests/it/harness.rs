//! The harness's own promises: a server that is killed comes back on its port with its data, and a fault is a fault.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_tests::{Flow, PrivatePostgres, PrivateRabbit, PrivateRedis, Process, Proxy, QueueDepth, poll};

const LIMIT: Duration = Duration::from_secs(20);

/// One Redis command in the inline form; the first line of the answer.
async fn redis(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("redis accepts");
    stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("redis reads");
    let mut answer = vec![0; 256];
    let read = stream.read(&mut answer).await.expect("redis answers");
    String::from_utf8_lossy(&answer[..read]).trim_end().replace("\r\n", " ")
}

/// One SQL statement through the server's own client.
async fn sql(url: &str, statement: &str) -> String {
    let exit =
        Process::at("psql").args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, url]).run(LIMIT).await.success();
    exit.text()
}

#[tokio::test]
async fn killed_redis_comes_back_on_its_port_with_its_data() {
    let server = PrivateRedis::start().await;
    assert_eq!(redis(server.port(), "SET k v").await, "+OK");
    server.kill();
    assert!(!server.is_running());
    assert!(TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    server.start_again().await;
    assert_eq!(redis(server.port(), "GET k").await, "$1 v");
}

#[tokio::test]
async fn paused_redis_answers_after_it_resumes() {
    let server = PrivateRedis::start().await;
    server.pause();
    let answer = redis(server.port(), "PING");
    tokio::pin!(answer);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut answer).await.is_err(), "it answered while paused");
    server.resume();
    assert_eq!(tokio::time::timeout(LIMIT, answer).await.expect("it answers"), "+PONG");
}

#[tokio::test]
async fn killed_postgres_comes_back_on_its_port_with_what_was_committed() {
    let server = PrivatePostgres::start().await;
    let url = server.database().await;
    sql(&url, "create table t(i int); insert into t values (7)").await;
    server.kill();
    assert!(TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    server.start_again().await;
    assert_eq!(sql(&url, "select i from t").await, "7");
    server.stop().await;
    assert!(!server.is_running());
}

#[tokio::test]
async fn each_test_gets_a_database_of_its_own() {
    let (one, other) = tokio::join!(weft_tests::postgres(), weft_tests::postgres());
    assert_ne!(one, other);
    sql(&one, "create table t(i int)").await;
    assert_eq!(sql(&other, "select to_regclass('t') is null").await, "t");
}

#[tokio::test]
async fn each_test_gets_a_redis_prefix_of_its_own() {
    let (one, other) = tokio::join!(weft_tests::redis(), weft_tests::redis());
    assert_eq!(one.url, other.url);
    assert_ne!(one.prefix, other.prefix);
}

#[tokio::test]
async fn killed_rabbitmq_comes_back_on_its_port_with_its_messages() {
    let server = PrivateRabbit::start().await;
    let vhost = server.vhost().await;
    vhost.declare_queue("q", json!({ "x-queue-type": "quorum" })).await;
    assert!(vhost.publish("", "q", json!({ "message_id": "1", "delivery_mode": 2 }), "hello").await);
    poll("the broker has counted the message", LIMIT, || async {
        match vhost.queue_depth("q").await {
            Some(QueueDepth { ready: 1, unacked: 0 }) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    server.kill();
    assert!(TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    server.start_again().await;
    let message = poll("the queue is back", LIMIT, || async {
        match vhost.queue_depth("q").await {
            Some(QueueDepth { ready: 1, .. }) => vhost.take("q", 10).await.pop().ok_or(None),
            other => Err(other),
        }
    })
    .await;
    assert_eq!((message.payload.as_str(), message.properties["message_id"].as_str()), ("hello", Some("1")));
}

#[tokio::test]
async fn each_test_gets_a_vhost_of_its_own() {
    let (one, other) = tokio::join!(weft_tests::rabbitmq(), weft_tests::rabbitmq());
    one.declare_queue("q", json!({ "x-queue-type": "quorum" })).await;
    assert_eq!(one.queues().await, ["q"]);
    assert!(other.queues().await.is_empty());
    assert!(!other.publish("", "q", json!({}), "nobody").await, "an unroutable message was said to be routed");
    one.delete_queue("q").await;
    assert_eq!(one.queue_depth("q").await, None);
    assert_eq!(one.close_connections().await, 0);
}

#[test]
fn servers_die_with_the_process_that_started_them() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut services = Command::new(env!("CARGO_BIN_EXE_weft-test-services"))
        .arg("redis")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(services.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let variables: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
    let url = url::Url::parse(variables[weft_tests::env::REDIS_URL].as_str().unwrap()).unwrap();
    let address = ("127.0.0.1", url.port().unwrap());
    std::net::TcpStream::connect(address).expect("Redis is there");

    services.kill().unwrap();
    services.wait().unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(poll("Redis is gone", LIMIT, || async {
        match TcpStream::connect(address).await {
            Ok(_) => Err("it still accepts"),
            Err(_) => Ok(()),
        }
    }));
}

#[tokio::test]
async fn poll_shows_the_last_state_when_it_gives_up() {
    let task = tokio::spawn(poll("pigs fly", Duration::from_millis(100), || async { Err::<(), _>("on the ground") }));
    let panic = task.await.expect_err("it gave up").into_panic();
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(text.contains("pigs fly") && text.contains("on the ground"), "{text}");
}

#[tokio::test]
async fn process_output_and_status_are_seen() {
    let mut process = Process::at("/bin/sh")
        .args(["-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done"])
        .spawn();
    assert_eq!(process.wait_for_line("rea", LIMIT).await, "ready");
    process.terminate();
    let exit = process.wait(LIMIT).await.code(3);
    assert_eq!(exit.lines, ["ready", "bye"]);
}

#[tokio::test]
async fn a_process_does_not_see_the_tests_environment() {
    let exit = Process::at("/usr/bin/env").env("ONLY", "this").run(LIMIT).await.success();
    assert!(
        exit.lines.iter().all(|line| ["PATH=", "HOME=", "ONLY="].iter().any(|known| line.starts_with(known))),
        "{exit:?}"
    );
    assert!(exit.lines.contains(&"ONLY=this".to_owned()));
}

/// A server that sends back what it gets, behind a proxy, and a client's connection through it.
async fn echo() -> (Proxy, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reads, mut writes) = stream.split();
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
            });
        }
    });
    let proxy = Proxy::before(port).await;
    let client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    (proxy, client)
}

async fn said_back(client: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    client.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn proxy_cuts_open_connections_and_serves_new_ones_on_the_same_port() {
    let (proxy, mut client) = echo().await;
    assert_eq!(said_back(&mut client, b"one").await.unwrap(), b"one");
    proxy.cut();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0, "an orderly end");
    let mut again = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert_eq!(said_back(&mut again, b"two").await.unwrap(), b"two");
    proxy.reset();
    let error = again.read(&mut [0; 1]).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn proxy_refuses_until_it_is_healed() {
    let (proxy, mut client) = echo().await;
    assert_eq!(said_back(&mut client, b"open").await.unwrap(), b"open");
    proxy.refuse();
    let mut refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert!(said_back(&mut refused, b"no").await.is_err());
    assert_eq!(said_back(&mut client, b"still").await.unwrap(), b"still");
    proxy.heal();
    let mut served = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert_eq!(said_back(&mut served, b"yes").await.unwrap(), b"yes");
}

#[tokio::test]
async fn proxy_holds_delays_and_loses_by_direction() {
    let (proxy, mut client) = echo().await;
    proxy.answers(Flow::Hold);
    let mut byte = [0; 1];
    client.write_all(b"h").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(150), client.read(&mut byte)).await.is_err(), "it was not held");
    proxy.heal();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"h");

    proxy.requests(Flow::Delay(Duration::from_millis(120)));
    let start = Instant::now();
    assert_eq!(said_back(&mut client, b"d").await.unwrap(), b"d");
    assert!(start.elapsed() >= Duration::from_millis(120));

    proxy.requests(Flow::Lose);
    client.write_all(b"lost").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(150), client.read(&mut byte)).await.is_err(), "it was not lost");
    proxy.heal();
    assert_eq!(said_back(&mut client, b"found").await.unwrap(), b"found");
}
