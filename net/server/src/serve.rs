//! A member as a process: opens the node, listens, serves connections, and ends on a signal.
//!
//! The first core opens the member and accepts connections; the others are threads that join it and serve what
//! they are handed. A signal drains all of them.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use grpc::mapping::RequestLimits;
use grpc::{Limits, Shutdown, serve_connection};
use reactor::{
    Address, Class, CoreThread, Listener, RunOptions, Signal, Stream, Timestamp, World, spawn_core,
};
use serde_json::Value;

use crate::config::url::{Endpoint, Url};
use crate::config::{Config, MetricsDetail};
use crate::cores::{self, HOME, LINK_CAPACITY, Seat};
use crate::exit::Exit;
use crate::identity::Identity;
use crate::log::{Logger, Outputs};
use crate::node::{CheckpointOptions, Node, NodeOptions};
use crate::notify::{Notice, Notifier};
use crate::peer::PeerService;
use crate::services::{EtcdService, MetricsService};

/// Calls that still run are ended this long after the signal.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// The process ends at the latest this long after the signal, whatever still runs.
const STOP_TIMEOUT: Duration = Duration::from_millis(1800);
/// A clean stop writes a checkpoint if no more than this is dirty: half a second on a slow disk.
const STOP_CHECKPOINT_BYTES_MAX: u64 = 32 << 20;
/// Pause after a failed accept, so that a full file table does not make the loop spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Between two looks whether a core has ended.
const CORE_END_PAUSE: Duration = Duration::from_millis(1);

/// What all connections of a core share.
struct Process {
    world: World,
    node: Node,
    logger: Rc<Logger>,
    shutdown: Shutdown,
    limits: Rc<Limits>,
}

/// Runs a member until it is told to end or fails: on this core, and on as many more as the configuration
/// says, which run as `cores_run`. The first answer can be had when the line `ready to serve client requests` has
/// been logged.
///
/// # Errors
/// Why it did not start, or what failed; with the exit code that goes with it.
pub async fn serve(
    world: World,
    config: Config,
    outputs: Outputs,
    notifier: Notifier,
    cores_run: RunOptions,
) -> Result<(), Exit> {
    let clock = world.clone();
    let logger = Rc::new(outputs.logger(move || clock.unix_time()));
    let identity = Identity::of_new_cluster(
        &config.initial_advertise_peer_urls,
        &config.initial_cluster_token,
    );
    log_start(&logger, &world, &config);
    let mut signals = world.signals();
    let mut seats = cores::seats(config.cores.unwrap_or(1), LINK_CAPACITY).into_iter();
    let Some(seat) = seats.next() else {
        unreachable!("a member has at least one core")
    };
    let options = node_options(&config, identity);
    let opened = Node::open_home(world.clone(), seat, options, logger.clone());
    let node = opened.await.map_err(Exit::from)?;
    if config.metrics == MetricsDetail::Extensive {
        node.board().metrics.show_extensive();
    }
    let threads = start_cores(seats, &config, &outputs, &cores_run)?;
    let process = Process::new(&node, &config);
    let clients = process
        .listen_all("--listen-client-urls", &config.listen_client_urls)
        .await?;
    let peers = process
        .listen_all("--listen-peer-urls", &config.listen_peer_urls)
        .await?;
    let observers = process
        .listen_all("--listen-metrics-urls", &config.listen_metrics_urls)
        .await?;
    node.ready().await.map_err(|what| exit_of(&node, what))?;
    if let Some(home) = node.home() {
        home.publish_attributes();
    }
    let service = process.service(&config);
    let sockets = Rc::new(RefCell::new(Vec::new()));
    for listener in clients {
        let address = listener.local_address().to_string();
        note_socket(&sockets, listener.local_address());
        process.accept(listener, service.clone(), Spreading::OverCores);
        logger.info(
            "serving client traffic insecurely; this is strongly discouraged!",
            &[("traffic", "grpc+http".into()), ("address", address.into())],
        );
    }
    let peer_service = PeerService::new(node.clone());
    for listener in peers {
        let address = listener.local_address().to_string();
        note_socket(&sockets, listener.local_address());
        process.accept(listener, peer_service.clone(), Spreading::Not);
        logger.info("serving peer traffic", &[("address", address.into())]);
    }
    let metrics_service = MetricsService::new(node.clone());
    for listener in observers {
        let address = listener.local_address().to_string();
        note_socket(&sockets, listener.local_address());
        process.accept(listener, metrics_service.clone(), Spreading::Not);
        let fields = [("address", address.into())];
        logger.info("serving metrics", &fields);
    }
    logger.info("ready to serve client requests", &[]);
    notifier.tell(Notice::Ready, &logger);
    let ended = wait_for_end(&world, &mut signals, &node, &logger).await;
    notifier.tell(Notice::Stopping, &logger);
    let result = match ended {
        Ok(()) => process.drain(threads).await,
        Err(exit) => Err(exit),
    };
    for path in sockets.take() {
        // A socket file that is left behind would only be replaced by the next start.
        if let Err(error) = world.remove_file(&path).await {
            logger.warn(
                "cannot remove the socket",
                &[("error", error.to_string().into())],
            );
        }
    }
    result
}

/// Starts the cores beside the first one.
fn start_cores(
    seats: impl Iterator<Item = Seat>,
    config: &Config,
    outputs: &Outputs,
    run: &RunOptions,
) -> Result<Vec<CoreThread>, Exit> {
    let start = |seat: Seat| {
        let name = format!("ringd-core-{}", seat.core());
        let (config, outputs) = (config.clone(), outputs.clone());
        let main = move |world| serve_core(world, seat, config, outputs);
        spawn_core(&name, run.clone(), main)
            .map_err(|error| Exit::system(format!("cannot start {name}: {error}")))
    };
    seats.map(start).collect()
}

/// One of the further cores: serves what it is handed until the member has ended.
async fn serve_core(world: World, seat: Seat, config: Config, outputs: Outputs) {
    let identity = Identity::of_new_cluster(
        &config.initial_advertise_peer_urls,
        &config.initial_cluster_token,
    );
    let clock = world.clone();
    let logger = outputs.logger(move || clock.unix_time());
    let options = node_options(&config, identity);
    let joined = Node::join(world.clone(), seat, options, Rc::new(logger));
    let Some(node) = joined.await else {
        return;
    };
    let process = Process::new(&node, &config);
    let service = process.service(&config);
    while let Some(stream) = node.next_connection().await {
        process.serve_stream(stream, service.clone());
    }
    process.shutdown.begin();
    node.ended().await;
}

/// Unix sockets are removed at the end.
fn note_socket(sockets: &Rc<RefCell<Vec<std::path::PathBuf>>>, address: &Address) {
    if let Address::Unix(path) = address {
        sockets.borrow_mut().push(path.clone());
    }
}

fn node_options(config: &Config, identity: Identity) -> NodeOptions {
    let texts = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect();
    NodeOptions {
        must_exist: config.initial_cluster_existing,
        name: config.name.clone(),
        client_urls: texts(&config.advertise_client_urls),
        peer_urls: texts(&config.initial_advertise_peer_urls),
        quota_bytes: config.quota_bytes,
        election_timeout: config.election_timeout,
        heartbeat_interval: config.heartbeat_interval,
        request_timeout: Duration::from_secs(5) + config.election_timeout * 2,
        watch_progress_interval: config.watch_progress_interval,
        auto_compaction: config.auto_compaction,
        log: config.sizes.log(),
        store: config.sizes.store(config.memory_bytes),
        checkpoints: CheckpointOptions {
            stop_dirty_bytes_max: STOP_CHECKPOINT_BYTES_MAX,
            ..config.sizes.checkpoints(config.memory_bytes)
        },
        scrub_interval: config.scrub_interval,
        placement: config.placement,
        slow_apply: config.slow_apply,
        slow_call: config.slow_call,
        ..NodeOptions::new(config.data_dir.clone(), identity)
    }
}

fn connection_limits(config: &Config) -> Limits {
    let defaults = Limits::default();
    Limits {
        message_bytes_max: config.max_request_bytes + 512 * 1024,
        streams_max: config.max_concurrent_streams.min(defaults.streams_max),
        keepalive_interval: config.keepalive_interval,
        keepalive_timeout: config.keepalive_timeout,
        drain_timeout: DRAIN_TIMEOUT,
        ..defaults
    }
}

fn log_start(logger: &Logger, world: &World, config: &Config) {
    let urls = |urls: &[Url]| Value::from(urls.iter().map(Url::as_str).collect::<Vec<_>>());
    for notice in &config.notices {
        logger.line(notice.level, &notice.message, &notice.fields);
    }
    if let Some(reason) = world.driver_refusal() {
        logger.warn(
            "io_uring is not available: using epoll and threads",
            &[("reason", reason.into())],
        );
    }
    logger.info(
        "starting ringd",
        &[
            ("etcd-version", crate::services::ETCD_VERSION.into()),
            ("ringd-version", env!("CARGO_PKG_VERSION").into()),
            ("name", config.name.as_str().into()),
            ("cores", config.cores.unwrap_or(1).into()),
            ("data-dir", config.data_dir.display().to_string().into()),
            ("io-driver", format!("{:?}", world.driver_kind()).into()),
            ("advertise-client-urls", urls(&config.advertise_client_urls)),
            ("listen-client-urls", urls(&config.listen_client_urls)),
            ("listen-peer-urls", urls(&config.listen_peer_urls)),
        ],
    );
}

/// Waits for SIGTERM or SIGINT (`Ok`), or for the node to fail.
async fn wait_for_end(
    world: &World,
    signals: &mut reactor::Signals,
    node: &Node,
    logger: &Logger,
) -> Result<(), Exit> {
    let failed = world.spawn_joinable(Class::Consensus, {
        let node = node.clone();
        async move { node.failed().await }
    });
    let mut failed = std::pin::pin!(failed);
    loop {
        let mut signal = std::pin::pin!(signals.next());
        let event = std::future::poll_fn(|context| {
            use std::future::Future;
            if let std::task::Poll::Ready(what) = failed.as_mut().poll(context) {
                return std::task::Poll::Ready(Err(exit_of(node, what.unwrap_or_default())));
            }
            signal.as_mut().poll(context).map(Ok)
        })
        .await?;
        match event {
            Ok(Signal::HangUp) => {}
            Ok(signal) => {
                logger.info(
                    "received signal; shutting down",
                    &[("signal", signal_name(signal).into())],
                );
                return Ok(());
            }
            Err(error) => return Err(Exit::internal(format!("cannot wait for signals: {error}"))),
        }
    }
}

/// As etcd names it.
fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Terminate => "terminated",
        Signal::Interrupt => "interrupt",
        Signal::HangUp => "hangup",
    }
}

/// How the process ends when its node has failed with `what`.
fn exit_of(node: &Node, what: String) -> Exit {
    node.failure()
        .map_or_else(|| Exit::log_failed(what), Exit::from)
}

/// The core's clock, as connections see it.
#[derive(Clone)]
struct CoreClock(World);

impl grpc::Clock for CoreClock {
    fn now_nanos(&self) -> u64 {
        self.0.now().nanos()
    }

    fn sleep_until(&self, nanos: u64) -> impl Future<Output = ()> + 'static {
        self.0.sleep_until(Timestamp(nanos))
    }
}

/// Whether connections may be served by other cores than the one that accepts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spreading {
    Not,
    OverCores,
}

impl Process {
    fn new(node: &Node, config: &Config) -> Rc<Process> {
        Rc::new(Process {
            world: node.world().clone(),
            node: node.clone(),
            logger: node.logger().clone(),
            shutdown: Shutdown::new(),
            limits: Rc::new(connection_limits(config)),
        })
    }

    fn service(&self, config: &Config) -> Rc<EtcdService> {
        let limits = RequestLimits {
            write_bytes_max: config.max_request_bytes,
            txn_operations_max: config.max_txn_ops,
        };
        EtcdService::new(self.node.clone(), limits, self.shutdown.clone())
    }

    async fn listen_all(&self, flag: &str, urls: &[Url]) -> Result<Vec<Listener>, Exit> {
        let mut listeners = Vec::new();
        for url in urls {
            let endpoint = url.endpoint().map_err(Exit::config)?;
            for address in addresses(url, &endpoint) {
                let listener = self.world.listen(&address).await;
                // `localhost` may have no IPv6 address.
                if listener.is_err() && address.to_string().starts_with("[::1]") {
                    continue;
                }
                listeners.push(listener.map_err(|error| listen_failed(flag, url, &error))?);
            }
        }
        Ok(listeners)
    }

    fn accept<S: grpc::Service>(
        self: &Rc<Self>,
        listener: Listener,
        service: Rc<S>,
        spreading: Spreading,
    ) {
        let process = self.clone();
        drop(self.world.spawn(Class::Request, async move {
            let mut stopping = std::pin::pin!(process.shutdown.begun());
            loop {
                let mut accepted = std::pin::pin!(listener.accept());
                let stream = std::future::poll_fn(|context| {
                    use std::future::Future;
                    if stopping.as_mut().poll(context).is_ready() {
                        return std::task::Poll::Ready(None);
                    }
                    accepted.as_mut().poll(context).map(Some)
                })
                .await;
                match stream {
                    None => return,
                    Some(Ok(stream)) => process.place(stream, service.clone(), spreading),
                    Some(Err(error)) => {
                        process.logger.warn(
                            "cannot accept a connection",
                            &[("error", error.to_string().into())],
                        );
                        process.world.sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }));
    }

    /// Serves a connection here, or hands it to another core.
    fn place<S: grpc::Service>(
        self: &Rc<Self>,
        stream: Stream,
        service: Rc<S>,
        spreading: Spreading,
    ) {
        let core = match spreading {
            Spreading::Not => HOME,
            Spreading::OverCores => self.node.core_for_connection(),
        };
        let stream = match self.node.hand_over(stream, core) {
            Some(stream) => stream,
            None => return,
        };
        self.serve_stream(stream, service);
    }

    /// Serves a connection that was counted.
    fn serve_stream<S: grpc::Service>(self: &Rc<Self>, stream: Stream, service: Rc<S>) {
        let process = self.clone();
        drop(self.world.spawn(Class::Request, async move {
            let peer = Rc::from(stream.peer_address().to_string());
            let clock = CoreClock(process.world.clone());
            let (limits, shutdown) = (process.limits.clone(), process.shutdown.clone());
            serve_connection(clock, stream, peer, service, limits, shutdown).await;
            process.node.connection_ended();
        }));
    }

    /// Finishes what runs, closes the log, and returns within the stop timeout.
    async fn drain(&self, threads: Vec<CoreThread>) -> Result<(), Exit> {
        let drained = async {
            self.shutdown.begin();
            self.node.begin_drain();
            let connections = self.node.drained();
            if self
                .world
                .timeout(DRAIN_TIMEOUT * 2, connections)
                .await
                .is_err()
            {
                let left = self.node.connections();
                self.logger
                    .warn("connections did not end in time", &[("left", left.into())]);
            }
            self.node.stop().await;
            while threads.iter().any(|thread| !thread.is_finished()) {
                self.world.sleep(CORE_END_PAUSE).await;
            }
        };
        match self.world.timeout(STOP_TIMEOUT, drained).await {
            Ok(()) => {
                self.logger.info("the log is closed; goodbye", &[]);
                Ok(())
            }
            // Nothing is lost: the next start replays what was acknowledged.
            Err(_) => {
                self.logger.warn(
                    "the log was not closed in time; the next start replays it",
                    &[],
                );
                Ok(())
            }
        }
    }
}

/// Where a URL listens. `localhost` is both loopback addresses, as clients may choose either.
fn addresses(url: &Url, endpoint: &Endpoint) -> Vec<Address> {
    match endpoint {
        Endpoint::Unix(path) => vec![Address::Unix(path.clone())],
        Endpoint::Tcp(address) => {
            let mut addresses = vec![Address::Tcp(*address)];
            if url.is_localhost() && address.port() != 0 {
                let v6 = std::net::Ipv6Addr::LOCALHOST;
                addresses.push(Address::Tcp(SocketAddr::new(v6.into(), address.port())));
            }
            addresses
        }
    }
}

fn listen_failed(flag: &str, url: &Url, error: &io::Error) -> Exit {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process listens there: stop it or choose another port"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
        _ => "",
    };
    Exit::unavailable(format!("cannot listen on {url} ({flag}): {error}{hint}"))
}
