use std::process::Command;
use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::error::or_fail;
use crate::instance::{Instance, folder, free_port};
use crate::{Error, env, programs};

/// The user of the brokers that the harness starts. They listen on loopback only and live for one run.
const USER: &str = "guest";
/// Memory at which the broker stops its publishers.
const HIGH_WATERMARK: &str = "2GB";

/// A fresh vhost on the shared RabbitMQ, of which only this test knows.
///
/// # Panics
/// No RabbitMQ can be found or started, or the vhost cannot be made; the text says what to do.
pub async fn rabbitmq() -> Vhost {
    static OWN: OnceCell<PrivateRabbit> = OnceCell::const_new();
    let (amqp, api) = match (env::get(env::AMQP_URL), env::get(env::RABBITMQ_API)) {
        (Some(amqp), Some(api)) => (amqp, api),
        (Some(_), None) => panic!(
            "the test harness failed: {} is set and {} is not: vhosts are made through the management API",
            env::AMQP_URL,
            env::RABBITMQ_API
        ),
        (None, _) => {
            let own = or_fail(OWN.get_or_try_init(PrivateRabbit::try_start).await);
            (own.url(), own.api_url())
        }
    };
    or_fail(Vhost::create(&amqp, &api).await)
}

/// A vhost, and what a test may look at and break in it. All answers come from the broker's management API, not from the
/// code under test.
#[derive(Debug, Clone)]
pub struct Vhost {
    /// `amqp://user:password@host:port/vhost`.
    pub amqp_url: String,
    /// Its name; unique in the run.
    pub name: String,
    api: Api,
}

/// How many messages a queue holds. The broker counts every half second, so poll for what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Waiting to be delivered.
    pub ready: u64,
    /// Delivered and not settled.
    pub unacked: u64,
}

/// A message as the management API hands it out.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The routing key that it was last published with.
    pub routing_key: String,
    /// The exchange that it was last published to; empty for the default one.
    pub exchange: String,
    /// The body. Bytes that are no UTF-8 arrive as base64 (`payload_encoding` tells in `properties`' sibling); tests that
    /// care publish text.
    pub payload: String,
    /// `headers`, `message_id`, `content_type`, `delivery_mode` and the rest.
    pub properties: Value,
    /// Whether the broker delivered it before.
    pub redelivered: bool,
}

impl Vhost {
    async fn create(amqp: &str, api: &str) -> Result<Self, Error> {
        let name = format!("t{:016x}", fastrand::u64(..));
        let mut amqp_url = url::Url::parse(amqp).map_err(Error::while_doing("reading the AMQP URL"))?;
        amqp_url.set_path(&name);
        let api = Api::new(api)?;
        // The user who makes a vhost gets all rights in it.
        api.send(Method::PUT, &["vhosts", &name], None).await?;
        Ok(Self { amqp_url: amqp_url.into(), name, api })
    }

    /// Closes every open connection to this vhost from the broker's side; returns how many there were. A connection that
    /// opened a moment ago may be missing from the broker's list.
    ///
    /// # Panics
    /// The management API does not answer.
    pub async fn close_connections(&self) -> usize {
        #[derive(Deserialize)]
        struct Connection {
            name: String,
        }
        let connections: Vec<Connection> = or_fail(self.api.get(&["vhosts", &self.name, "connections"]).await);
        let mut closed = 0;
        for connection in connections {
            let path = ["connections", &connection.name];
            // Not found: it closed by itself in the meantime.
            if or_fail(self.api.send_unless_missing(Method::DELETE, &path, None).await).is_some() {
                closed += 1;
            }
        }
        closed
    }

    /// How many messages `queue` holds; `None` if there is no such queue (or the broker has not counted it yet).
    ///
    /// # Panics
    /// The management API does not answer.
    pub async fn queue_depth(&self, queue: &str) -> Option<QueueDepth> {
        let queue = self.queue(queue).await?;
        let count = |field| queue.get(field).and_then(Value::as_u64);
        Some(QueueDepth { ready: count("messages_ready")?, unacked: count("messages_unacknowledged")? })
    }

    /// What the broker says about `queue` (type, arguments, consumers, policy); `None` if there is none.
    ///
    /// # Panics
    /// The management API does not answer.
    pub async fn queue(&self, queue: &str) -> Option<Value> {
        let response = or_fail(self.api.send_unless_missing(Method::GET, &["queues", &self.name, queue], None).await)?;
        Some(or_fail(response.json().await.map_err(Error::while_doing("reading a queue's state"))))
    }

    /// The names of all queues.
    ///
    /// # Panics
    /// The management API does not answer.
    pub async fn queues(&self) -> Vec<String> {
        let queues: Vec<Value> = or_fail(self.api.get(&["queues", &self.name]).await);
        queues.iter().filter_map(|queue| queue.get("name")?.as_str().map(str::to_owned)).collect()
    }

    /// Deletes a queue with what is in it, as an operator might. Safe to repeat.
    ///
    /// # Panics
    /// The management API does not answer.
    pub async fn delete_queue(&self, queue: &str) {
        or_fail(self.api.send_unless_missing(Method::DELETE, &["queues", &self.name, queue], None).await);
    }

    /// Declares a queue with the given `arguments`, as somebody else's program might.
    ///
    /// # Panics
    /// The management API does not answer or refuses.
    pub async fn declare_queue(&self, queue: &str, arguments: Value) {
        let body = json!({ "durable": true, "auto_delete": false, "arguments": arguments });
        or_fail(self.api.send(Method::PUT, &["queues", &self.name, queue], Some(body)).await);
    }

    /// Binds `queue` to `exchange`.
    ///
    /// # Panics
    /// The management API does not answer or refuses.
    pub async fn bind(&self, exchange: &str, queue: &str, routing_key: &str) {
        let body = json!({ "routing_key": routing_key, "arguments": {} });
        let path = ["bindings", &self.name, "e", exchange, "q", queue];
        or_fail(self.api.send(Method::POST, &path, Some(body)).await);
    }

    /// Publishes text; returns whether it reached a queue. `exchange` is empty for the default one; `properties` are named
    /// as in AMQP (`message_id`, `headers`, …).
    ///
    /// # Panics
    /// The management API does not answer or refuses.
    pub async fn publish(&self, exchange: &str, routing_key: &str, properties: Value, payload: &str) -> bool {
        let exchange = if exchange.is_empty() { "amq.default" } else { exchange };
        let body = json!({
            "properties": properties, "routing_key": routing_key, "payload": payload, "payload_encoding": "string",
        });
        let path = ["exchanges", &self.name, exchange, "publish"];
        let response = or_fail(self.api.send(Method::POST, &path, Some(body)).await);
        let answer: Value =
            or_fail(response.json().await.map_err(Error::while_doing("reading the answer to a publish")));
        answer.get("routed").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Takes up to `count` messages out of `queue`, in its order.
    ///
    /// # Panics
    /// The management API does not answer, or there is no such queue.
    pub async fn take(&self, queue: &str, count: u32) -> Vec<Fetched> {
        self.fetch(queue, count, "ack_requeue_false").await
    }

    /// Looks at up to `count` messages of `queue` and puts them back; each look counts as a delivery.
    ///
    /// # Panics
    /// As [`take`](Self::take).
    pub async fn look(&self, queue: &str, count: u32) -> Vec<Fetched> {
        self.fetch(queue, count, "ack_requeue_true").await
    }

    async fn fetch(&self, queue: &str, count: u32, mode: &str) -> Vec<Fetched> {
        #[derive(Deserialize)]
        struct Message {
            routing_key: String,
            exchange: String,
            payload: String,
            properties: Value,
            redelivered: bool,
        }
        let body = json!({ "count": count, "ackmode": mode, "encoding": "auto" });
        let response = or_fail(self.api.send(Method::POST, &["queues", &self.name, queue, "get"], Some(body)).await);
        let messages: Vec<Message> = or_fail(response.json().await.map_err(Error::while_doing("reading messages")));
        messages
            .into_iter()
            .map(|Message { routing_key, exchange, payload, properties, redelivered }| Fetched {
                routing_key,
                exchange,
                payload,
                properties,
                redelivered,
            })
            .collect()
    }
}

/// The management API of one broker.
#[derive(Clone)]
struct Api {
    base: url::Url,
    user: String,
    password: String,
    client: Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("host", &self.base.host_str())
            .field("port", &self.base.port())
            .finish_non_exhaustive()
    }
}

impl Api {
    fn new(base: &str) -> Result<Self, Error> {
        let mut base = url::Url::parse(base).map_err(Error::while_doing("reading the management API's URL"))?;
        let user = base.username().to_owned();
        let password = base.password().unwrap_or_default().to_owned();
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()
            .map_err(Error::while_doing("making an HTTP client"))?;
        Ok(Self { base, user, password, client })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> Result<T, Error> {
        let response = self.send(Method::GET, path, None).await?;
        response.json().await.map_err(Error::while_doing("reading the broker's answer"))
    }

    async fn send(&self, method: Method, path: &[&str], body: Option<Value>) -> Result<Response, Error> {
        let what = format!("{method} /api/{}", path.join("/"));
        self.send_unless_missing(method, path, body)
            .await?
            .ok_or_else(|| Error::new(format!("asking the broker {what}: not found")))
    }

    async fn send_unless_missing(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<Option<Response>, Error> {
        let what = format!("asking the broker {method} /api/{}", path.join("/"));
        let mut url = self.base.clone();
        // Each part is escaped by itself: a vhost or a connection's name may hold a slash.
        url.path_segments_mut()
            .map_err(|()| Error::new("the management API's URL has no path"))?
            .pop_if_empty()
            .push("api")
            .extend(path);
        let request = self.client.request(method, url).basic_auth(&self.user, Some(&self.password));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.map_err(Error::while_doing(&what))?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(response)),
            status => {
                let text = response.text().await.unwrap_or_default();
                Err(Error::new(format!("{what}: {status} {text}")))
            }
        }
    }
}

/// A RabbitMQ of the test's own, with its own name, ports, data and name server. Dropping it kills it. Starting one takes
/// several seconds: use it for tests that break the broker, and [`rabbitmq`] for all others.
pub struct PrivateRabbit {
    ports: Ports,
    instance: Instance,
    /// Erlang's name server, kept apart because a node would otherwise leave one behind as a daemon. Dropped after the node.
    _names: Instance,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    api: u16,
    distribution: u16,
    names: u16,
}

impl PrivateRabbit {
    /// Starts one that keeps its data over [`kill`](Self::kill) and [`start_again`](Self::start_again).
    ///
    /// # Panics
    /// It cannot be found or does not start.
    pub async fn start() -> Self {
        or_fail(Self::try_start().await)
    }

    pub(crate) async fn try_start() -> Result<Self, Error> {
        let server = programs::RABBITMQ.find()?;
        let epmd = programs::EPMD.find()?;
        let ports = Ports { amqp: free_port()?, api: free_port()?, distribution: free_port()?, names: free_port()? };
        let names = Instance::new("epmd", folder("epmd")?, (Signal::KILL, "KILL"), move || {
            let mut command = Command::new(&epmd);
            command.args(["-port", &ports.names.to_string(), "-address", "127.0.0.1"]).current_dir("/");
            command
        });
        names.spawn()?;
        let port = ports.names;
        let listening =
            || async move { TcpStream::connect(("127.0.0.1", port)).await.map(drop).map_err(|e| e.to_string()) };
        names.wait_ready(Duration::from_secs(10), listening).await?;

        let folder = folder("rabbitmq")?;
        write_configuration(&folder, ports).map_err(Error::while_doing("writing RabbitMQ's configuration"))?;
        let home = folder.clone();
        let instance = Instance::new("rabbitmq-server", folder, (Signal::TERM, "TERM"), move || {
            let mut command = Command::new(&server);
            command
                .current_dir(&home)
                .env("HOME", &home)
                // Debian's file would set the node's name and folders.
                .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
                .env("RABBITMQ_NODENAME", format!("weft{}@localhost", ports.amqp))
                .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
                .env("RABBITMQ_LOG_BASE", home.join("log"))
                .env("RABBITMQ_LOGS", "-")
                .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("enabled_plugins"))
                .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq.conf"))
                .env("RABBITMQ_ADVANCED_CONFIG_FILE", home.join("advanced.config"))
                .env("RABBITMQ_DIST_PORT", ports.distribution.to_string())
                .env("ERL_EPMD_PORT", ports.names.to_string())
                .env("ERL_EPMD_ADDRESS", "127.0.0.1")
                // Makes the script become the server instead of waiting beside it, so that signals reach the server.
                .env("RABBITMQ_ALLOW_INPUT", "1")
                .env(
                    "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                    // Two schedulers that do not spin while idle: the tests need the processors.
                    "-noinput -kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
                );
            command
        });
        let rabbit = Self { ports, instance, _names: names };
        rabbit.try_start_again().await?;
        Ok(rabbit)
    }

    async fn try_start_again(&self) -> Result<(), Error> {
        self.instance.spawn()?;
        let api = Api::new(&self.api_url())?;
        let amqp = self.ports.amqp;
        let ready = || {
            let api = api.clone();
            async move {
                greet(amqp).await?;
                // The HTTP listener opens last; with it the vhosts are up and can be made.
                api.get::<Value>(&["vhosts"]).await.map(drop).map_err(|error| error.to_string())
            }
        };
        self.instance.wait_ready(Duration::from_secs(90), ready).await
    }

    /// `amqp://user:password@127.0.0.1:PORT/%2F`: the default vhost, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://{USER}:{USER}@127.0.0.1:{}/%2F", self.ports.amqp)
    }

    /// The management API, with user and password.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{USER}:{USER}@127.0.0.1:{}", self.ports.api)
    }

    /// A fresh vhost on this broker.
    ///
    /// # Panics
    /// The broker does not answer.
    pub async fn vhost(&self) -> Vhost {
        or_fail(Vhost::create(&self.url(), &self.api_url()).await)
    }

    /// The server's version, such as `3.10.8`.
    ///
    /// # Panics
    /// The broker does not answer.
    pub async fn version(&self) -> String {
        let overview: Value = or_fail(async { Api::new(&self.api_url())?.get(&["overview"]).await }.await);
        overview.get("rabbitmq_version").and_then(Value::as_str).unwrap_or("unknown").to_owned()
    }

    /// The AMQP port, for a [`Proxy`](crate::Proxy) before it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// SIGKILL, and the wait for the end.
    pub fn kill(&self) {
        self.instance.kill();
    }

    /// SIGSTOP: connections stay open, nothing answers (not even heartbeats).
    pub fn pause(&self) {
        self.instance.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.instance.resume();
    }

    /// Raises the memory alarm, which stops every publisher, or clears it.
    ///
    /// # Panics
    /// The broker's own tool cannot be run or says no.
    pub async fn alarm(&self, on: bool) {
        let limit = if on { "1" } else { HIGH_WATERMARK };
        or_fail(self.control(&["set_vm_memory_high_watermark", "absolute", limit]).await);
    }

    /// Holds the process of a classic queue, so that it confirms nothing that is published to it, or lets it go on: then it
    /// takes and confirms what came meanwhile. All other queues are as ever.
    ///
    /// # Panics
    /// The broker's own tool cannot be run or says no; there is no such queue.
    pub async fn hold_queue(&self, vhost: &Vhost, queue: &str, held: bool) {
        let what = if held { "suspend" } else { "resume" };
        let script = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>)), \
             ok = sys:{what}(amqqueue:get_pid(Q)).",
            vhost.name
        );
        or_fail(self.control(&["eval", &script]).await);
    }

    /// Sets how long a delivery may stay unacked before its channel is closed (30 min unless told), and looks often.
    ///
    /// # Panics
    /// The broker's own tool cannot be run or says no.
    pub async fn time_consumers_out_after(&self, limit: Duration) {
        let set = format!(
            "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, 200).",
            limit.as_millis()
        );
        or_fail(self.control(&["eval", &set]).await);
    }

    /// Runs `rabbitmqctl`, which takes a second or two.
    async fn control(&self, args: &[&str]) -> Result<(), Error> {
        let mut command = tokio::process::Command::new(programs::RABBITMQCTL.find()?);
        command
            .args(["-n", &format!("weft{}@localhost", self.ports.amqp)])
            .args(args)
            .current_dir(self.instance.folder())
            .env("HOME", self.instance.folder())
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("ERL_EPMD_PORT", self.ports.names.to_string())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let doing = || format!("running rabbitmqctl {}", args.join(" "));
        let output = command.output().await.map_err(Error::while_doing(doing()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::new(format!("{}: {}", doing(), String::from_utf8_lossy(&output.stderr).trim())))
    }

    /// Asks it to end in good order and waits.
    ///
    /// # Panics
    /// It has not ended after a minute.
    pub async fn stop(&self) {
        or_fail(self.instance.stop().await);
    }

    /// Starts it on the same ports and data and waits until it answers AMQP and HTTP.
    ///
    /// # Panics
    /// It runs already, or does not start.
    pub async fn start_again(&self) {
        or_fail(self.try_start_again().await);
    }

    /// Whether the process is there (a paused one is).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.instance.is_running()
    }
}

fn write_configuration(folder: &std::path::Path, ports: Ports) -> std::io::Result<()> {
    let Ports { amqp, api, .. } = ports;
    let configuration = format!(
        "listeners.tcp.default = 127.0.0.1:{amqp}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {api}\n\
         default_user = {USER}\n\
         default_pass = {USER}\n\
         num_acceptors.tcp = 2\n\
         collect_statistics_interval = 500\n\
         disk_free_limit.absolute = 16MB\n\
         vm_memory_high_watermark.absolute = {HIGH_WATERMARK}\n"
    );
    std::fs::write(folder.join("rabbitmq.conf"), configuration)?;
    // Quorum queues count their messages at this tick (ms); the default of 5 s would make tests wait.
    std::fs::write(folder.join("advanced.config"), "[{rabbit, [{quorum_tick_interval, 500}]}].\n")?;
    std::fs::write(folder.join("enabled_plugins"), "[rabbitmq_management].\n")
}

/// The first half of an AMQP handshake: the protocol header, answered by `connection.start` (class 10, method 10).
async fn greet(port: u16) -> Result<(), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        let mut head = [0; 11];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head)
    };
    let head = exchange.await.map_err(|error| error.to_string())?;
    match (head.first(), head.get(7..)) {
        (Some(1), Some([0, 10, 0, 10])) => Ok(()),
        _ => Err(format!("an answer that is no AMQP: {head:?}")),
    }
}
