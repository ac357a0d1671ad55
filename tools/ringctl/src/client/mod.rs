//! The client's side of gRPC to an etcd v3 server.
//!
//! A [`Client`] owns one connection to the first endpoint that answers, logs in if it is told to, tries
//! again what may be tried again, and turns a status into the error that etcdctl would print. It refuses
//! to know commands and formats.
//!
//! ```text
//! endpoint (address, TLS or not) → channel (HTTP/2, one call = one stream) → Client (retry, token)
//!                                                                          → watch, lease: kept streams
//! ```

pub(crate) mod channel;
pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod lease;
pub(crate) mod metrics;
pub(crate) mod status;
pub(crate) mod tls;
pub(crate) mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use grpc::Method;
use grpc::proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::log;
use crate::style::Style;
use channel::{Call, Channel, DialError, Metadata};
use endpoint::Endpoint;
use status::{Code, Status};

/// How often a call that may be repeated is tried.
const ATTEMPTS: u32 = 100;
/// Pause before a repetition.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// Pause between rounds of connecting, at first and at most.
const DIAL_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Largest request and answer unless told otherwise.
const SEND_BYTES_MAX: usize = 2 * 1024 * 1024;
const RECEIVE_BYTES_MAX: usize = i32::MAX as usize;

/// When a call gives up; `None` waits for ever.
pub(crate) type Deadline = Option<Instant>;

/// Whom to log in as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// A token that somebody else issued.
    Token(String),
    /// Name and password.
    Password { name: String, password: String },
}

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Whose habits to follow when a server is not there.
    pub(crate) style: Style,
    /// The name under which etcdctl's log speaks of this client.
    pub(crate) logger: &'static str,
    /// Servers of one cluster.
    pub(crate) endpoints: Vec<String>,
    /// Certificates.
    pub(crate) tls: Option<tls::Tls>,
    /// How long one connection may take.
    pub(crate) dial_timeout: Duration,
    /// How long a connection may be silent, and a probe unanswered.
    pub(crate) keepalive: (Duration, Duration),
    /// Largest request and answer in bytes, 0 for the defaults.
    pub(crate) bytes_max: (usize, usize),
    /// Whom to log in as.
    pub(crate) login: Option<Login>,
}

impl Config {
    /// The same for one of the endpoints.
    pub(crate) fn only(&self, endpoint: &str) -> Self {
        let endpoints = vec![endpoint.to_owned()];
        Self {
            endpoints,
            ..self.clone()
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The server, or the way to it, said so.
    Status(Status),
    /// Time ran out.
    Deadline,
    /// No server can be reached; one error for each endpoint.
    Unreachable(Vec<(String, DialError)>),
    /// The configuration makes no sense.
    Configuration(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Status(status) => status.fmt(f),
            Failure::Deadline => f.write_str("context deadline exceeded"),
            Failure::Configuration(text) => f.write_str(text),
            Failure::Unreachable(endpoints) => {
                let causes: Vec<String> = endpoints
                    .iter()
                    .map(|(endpoint, error)| format!("cannot reach {endpoint}: {}", error.cause))
                    .collect();
                f.write_str(&causes.join("\n       "))?;
                let mut remedies: Vec<&str> = Vec::new();
                for remedy in endpoints.iter().map(|(_, error)| error.remedy()) {
                    if !remedies.contains(&remedy) {
                        remedies.push(remedy);
                    }
                }
                remedies
                    .iter()
                    .try_for_each(|remedy| write!(f, "\n{remedy}"))
            }
        }
    }
}

impl Failure {
    /// One line for an endpoint whose name stands beside it.
    pub(crate) fn reason(&self) -> String {
        match self {
            Failure::Unreachable(endpoints) => {
                let causes = endpoints.iter().map(|(_, error)| error.cause.as_str());
                causes.collect::<Vec<_>>().join("; ")
            }
            _ => self.to_string(),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(status)
    }
}

/// Whether a call may be repeated when the server became unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing, or repeating it does no harm.
    Safe,
    /// A second time could change something twice.
    Never,
}

/// A connection to a cluster.
#[derive(Debug)]
pub(crate) struct Client {
    config: Config,
    endpoints: Vec<Endpoint>,
    channel: RefCell<Option<Rc<Channel>>>,
    token: RefCell<Option<String>>,
    /// Whether a server was there once; then its return is worth waiting for.
    connected: Cell<bool>,
}

impl Client {
    /// A client that connects with its first call; only a login connects at once.
    ///
    /// # Errors
    /// No endpoint, limits that contradict each other, or a login that failed.
    pub(crate) async fn new(config: Config) -> Result<Self, Failure> {
        let (send, receive) = config.bytes_max;
        if receive > 0 && send > receive {
            return Err(Failure::Configuration(format!(
                "gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)"
            )));
        }
        if config.endpoints.is_empty() {
            let text = "at least one Endpoint is required in client config";
            return Err(Failure::Configuration(text.to_owned()));
        }
        let client = Self {
            endpoints: config
                .endpoints
                .iter()
                .map(|text| Endpoint::parse(text))
                .collect(),
            channel: RefCell::default(),
            token: RefCell::default(),
            connected: Cell::new(false),
            config,
        };
        client.log_in().await?;
        Ok(client)
    }

    async fn log_in(&self) -> Result<(), Failure> {
        let (name, password) = match &self.config.login {
            None => return Ok(()),
            Some(Login::Token(token)) => {
                self.token.replace(Some(token.clone()));
                return Ok(());
            }
            Some(Login::Password { name, password }) => (name.clone(), password.clone()),
        };
        if name.is_empty() || password.is_empty() {
            return Ok(());
        }
        let deadline = Some(Instant::now() + self.config.dial_timeout);
        let request = AuthenticateRequest { name, password };
        match self
            .unary::<_, AuthenticateResponse>(
                Method::Authenticate,
                &request,
                Repeat::Never,
                deadline,
            )
            .await
        {
            Ok(answer) => {
                self.token.replace(Some(answer.token));
                Ok(())
            }
            Err(Failure::Status(status))
                if status.message == "etcdserver: authentication is not enabled" =>
            {
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Asks once and waits for the answer.
    pub(crate) async fn unary<Q: Message, A: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        repeat: Repeat,
        deadline: Deadline,
    ) -> Result<A, Failure> {
        let mut attempt = 0;
        loop {
            let status = match self.attempt(method, request, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Status(status)) => status,
                Err(failure) => return Err(failure),
            };
            self.log_attempt(method, attempt, &status);
            attempt += 1;
            if deadline.is_some_and(|deadline| Instant::now() >= deadline)
                && status.code == Code::DEADLINE_EXCEEDED
            {
                return Err(Failure::Deadline);
            }
            if status.code != Code::UNAVAILABLE || repeat == Repeat::Never || attempt == ATTEMPTS {
                return Err(status.into());
            }
            self.channel.take();
            sleep(RETRY_PAUSE).await;
        }
    }

    fn log_attempt(&self, method: Method, attempt: u32, status: &Status) {
        if self.config.style != Style::Etcdctl {
            return;
        }
        log::line(
            "warn",
            self.config.logger,
            "retrying of unary invoker failed",
            |object| {
                object
                    .string(
                        "target",
                        &format!("etcd-endpoints://{}", self.config.endpoints.join(",")),
                    )
                    .string("method", method.path())
                    .number("attempt", attempt)
                    .string("error", &status.wire_text())
            },
        );
    }

    async fn attempt<Q: Message, A: Message + Default>(
        &self,
        method: Method,
        request: &Q,
        deadline: Deadline,
    ) -> Result<A, Failure> {
        let mut call = self.start(method, deadline).await?;
        let answer = async {
            call.send(request, self.send_bytes_max())?;
            call.finish()?;
            let answer = call.next().await?;
            // The status stands behind the answer.
            while call.next::<A>().await?.is_some() {}
            answer.ok_or_else(|| {
                Status::new(
                    Code::INTERNAL,
                    "the server ended the call without an answer",
                )
            })
        };
        Ok(within(deadline, answer).await?)
    }

    /// Opens a call. Its deadline is the server's matter, too.
    pub(crate) async fn start(&self, method: Method, deadline: Deadline) -> Result<Call, Failure> {
        loop {
            let channel = self.channel(deadline).await?;
            let metadata = Metadata {
                token: self.token.borrow().clone(),
                leader: method == Method::Watch || method == Method::LeaseKeepAlive,
                deadline,
                receive_bytes_max: match self.config.bytes_max.1 {
                    0 => RECEIVE_BYTES_MAX,
                    bytes => bytes,
                },
            };
            match within(deadline, Call::start(&channel, method.path(), metadata)).await {
                Ok(call) => return Ok(call),
                // The connection died while nobody used it: a new one.
                Err(status) if status.code == Code::UNAVAILABLE => {
                    self.channel.take();
                    sleep(RETRY_PAUSE).await;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }

    /// The size above which a request is not sent.
    pub(crate) fn send_bytes_max(&self) -> usize {
        match self.config.bytes_max.0 {
            0 => SEND_BYTES_MAX,
            bytes => bytes,
        }
    }

    /// Forgets the connection, so that the next call makes a new one.
    pub(crate) fn disconnect(&self) {
        self.channel.take();
    }

    async fn channel(&self, deadline: Deadline) -> Result<Rc<Channel>, Failure> {
        if let Some(channel) = self
            .channel
            .borrow()
            .as_ref()
            .filter(|channel| channel.is_open())
        {
            return Ok(channel.clone());
        }
        let channel = Rc::new(self.connect(deadline).await?);
        self.connected.set(true);
        self.channel.replace(Some(channel.clone()));
        Ok(channel)
    }

    /// Connects to the endpoint that answers first. `ringctl` gives up when none does; etcdctl waits.
    async fn connect(&self, deadline: Deadline) -> Result<Channel, Failure> {
        let mut pause = DIAL_PAUSE.0;
        loop {
            let errors = match within(deadline, async { Ok(self.dial().await) }).await {
                Ok(Ok(channel)) => return Ok(channel),
                Ok(Err(errors)) => errors,
                Err(_) => Vec::new(),
            };
            if self.config.style == Style::Ringctl && !self.connected.get() && !errors.is_empty() {
                return Err(Failure::Unreachable(errors));
            }
            let now = Instant::now();
            let left = deadline.map_or(Duration::MAX, |deadline| {
                deadline.saturating_duration_since(now)
            });
            sleep(pause.min(left)).await;
            if left <= pause {
                let text =
                    errors
                        .last()
                        .map_or("context deadline exceeded".to_owned(), |(_, error)| {
                            format!(
                                "latest balancer error: connection error: desc = {}",
                                crate::go::quote::quote(error.go.as_bytes())
                            )
                        });
                return Err(Status::new(Code::DEADLINE_EXCEEDED, text).into());
            }
            pause = (pause * 2).min(DIAL_PAUSE.1);
        }
    }

    async fn dial(&self) -> Result<Channel, Vec<(String, DialError)>> {
        let mut attempts = JoinSet::new();
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let (endpoint, tls) = (endpoint.clone(), self.config.tls.clone());
            let (timeout, keepalive) = (self.config.dial_timeout, self.config.keepalive);
            attempts.spawn(async move {
                (
                    at,
                    Channel::open(&endpoint, tls.as_ref(), timeout, keepalive).await,
                )
            });
        }
        let mut errors = Vec::new();
        while let Some(attempt) = attempts.join_next().await {
            match attempt {
                Ok((_, Ok(channel))) => return Ok(channel),
                Ok((at, Err(error))) => errors.push((self.config.endpoints[at].clone(), error)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Err(errors)
    }
}

/// Waits for `work` until the deadline.
async fn within<T>(
    deadline: Deadline,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(deadline) => match timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(Status::new(
                Code::DEADLINE_EXCEEDED,
                "context deadline exceeded",
            )),
        },
    }
}
