//! One HTTP/2 connection, and calls on it.
//!
//! ```text
//! HEADERS :path, grpc-timeout, token   →   HEADERS content-type
//! DATA flag:u8 length:u32 message …    →   DATA flag:u8 length:u32 message …
//!                                          HEADERS grpc-status, grpc-message
//! ```

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::endpoint::{Address, Demand, Endpoint};
use super::status::{Code, Status, decode_message};
use super::tls::{self, Tls};

/// Bytes a server may send ahead, per call and in all: a snapshot should not wait for us.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Servers refuse clients that probe more often.
const KEEPALIVE_MIN: Duration = Duration::from_secs(10);
/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;
/// The version that servers are told.
const API_VERSION: &str = "3.7.3";

/// A connection's bytes, encrypted or not.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialError {
    /// For people.
    pub(crate) cause: String,
    /// As Go's client words it.
    pub(crate) go: String,
}

impl DialError {
    /// What to do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        let says = |word: &str| self.cause.contains(word);
        if says("CertificateRequired") || says("certificate required") {
            "The server wants to know who asks: give a certificate with --cert and --key."
        } else if says("TLS handshake") {
            "Name the authority that signed the server's certificate with --cacert; without TLS the endpoint begins with http://."
        } else if says("does not answer as") {
            "Is this the client port (2379), and does the server want TLS? Then the endpoint begins with https://."
        } else if says("socket address") {
            "An endpoint is host:port, http://host:port, https://host:port or unix:///path."
        } else if says("lookup") {
            "Check the name in --endpoints or ETCDCTL_ENDPOINTS."
        } else {
            "Is the server up? Name its address with --endpoints or ETCDCTL_ENDPOINTS; start one with `ringd`."
        }
    }
}

/// An error of the system without its number, as Go writes it.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Channel {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    probe: JoinHandle<()>,
    origin: String,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.probe.abort();
        self.driver.abort();
    }
}

impl Channel {
    /// Connects, encrypts if the endpoint or the flags want it, and greets.
    ///
    /// # Errors
    /// Nothing listens there, it does not answer in time, or it is no such server.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        tls: Option<&Tls>,
        limit: Duration,
        keepalive: (Duration, Duration),
    ) -> Result<Self, DialError> {
        let dialled = timeout(limit, Self::dial(endpoint, tls, keepalive)).await;
        dialled.unwrap_or_else(|_| {
            Err(DialError {
                cause: format!("no answer within {}", crate::go::duration::show(limit)),
                go: "transport: Error while dialing: context deadline exceeded".to_owned(),
            })
        })
    }

    async fn dial(
        endpoint: &Endpoint,
        tls: Option<&Tls>,
        keepalive: (Duration, Duration),
    ) -> Result<Self, DialError> {
        let (scheme, transport) = transport(endpoint, tls, &[b"h2"]).await?;
        let (sender, mut connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(transport)
            .await
            .map_err(|error| DialError {
                cause: format!("it speaks no HTTP/2: {error}"),
                go: format!("error reading server preface: {error}"),
            })?;
        let mut pings = connection.ping_pong();
        let driver = tokio::spawn(connection);
        // Only an answer shows that the other side speaks HTTP/2, too, and takes our certificate.
        if let Some(pings) = &mut pings
            && let Err(error) = pings.ping(Ping::opaque()).await
        {
            let error = match driver.await {
                Ok(Err(error)) => error,
                _ => error,
            };
            // A server that misses our certificate says so and hangs up: which of both is seen first is chance.
            let hung_up = error.get_io().is_some_and(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
                )
            });
            let cause = if scheme == "https" && hung_up {
                format!("the server hung up; is a client certificate required? ({error})")
            } else {
                format!("it does not answer as an etcd server: {error}")
            };
            return Err(DialError {
                cause,
                go: format!("error reading server preface: {error}"),
            });
        }
        let probe = tokio::spawn(probe(pings, keepalive, driver.abort_handle()));
        let origin = format!("{scheme}://{}", endpoint.authority);
        Ok(Self {
            sender,
            driver,
            probe,
            origin,
        })
    }

    /// Whether calls can still begin on it.
    pub(crate) fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }
}

/// Connects, and encrypts if the endpoint or the flags want it. `protocols` are offered inside TLS.
pub(crate) async fn transport(
    endpoint: &Endpoint,
    tls: Option<&Tls>,
    protocols: &[&[u8]],
) -> Result<(&'static str, Box<dyn Transport>), DialError> {
    let transport = connect(endpoint).await?;
    let handshake = |cause: String| DialError {
        go: format!("transport: authentication handshake failed: {cause}"),
        cause: format!("TLS handshake failed: {cause}"),
    };
    let Some(tls) = wanted(endpoint, tls).map_err(handshake)? else {
        return Ok(("http", transport));
    };
    let name = tls.server_name.as_deref().unwrap_or(endpoint.host());
    let name =
        ServerName::try_from(name.to_owned()).map_err(|error| handshake(error.to_string()))?;
    let mut config = (*tls.config).clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, transport)
        .await;
    Ok((
        "https",
        Box::new(stream.map_err(|error| handshake(error.to_string()))?),
    ))
}

fn wanted(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Option<Tls>, String> {
    match endpoint.demand {
        Demand::Refused => Ok(None),
        Demand::Open => Ok(tls.cloned()),
        Demand::Required => tls.cloned().map_or_else(tls::default, Ok).map(Some),
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Box<dyn Transport>, DialError> {
    let (network, name, connected) = match &endpoint.address {
        Address::Tcp(address) => {
            let connected = TcpStream::connect(address).await.and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn Transport>)
            });
            ("tcp", address.clone(), connected)
        }
        Address::Unix(path) => {
            let connected = UnixStream::connect(path)
                .await
                .map(|stream| Box::new(stream) as Box<dyn Transport>);
            ("unix", path.display().to_string(), connected)
        }
    };
    connected.map_err(|error| DialError {
        cause: error.to_string().to_lowercase(),
        go: format!(
            "transport: Error while dialing: dial {network} {name}: connect: {}",
            os_text(&error)
        ),
    })
}

/// Ends the connection when it does not answer a probe in time.
async fn probe(
    pings: Option<PingPong>,
    (period, limit): (Duration, Duration),
    driver: AbortHandle,
) {
    let Some(mut pings) = pings.filter(|_| !period.is_zero()) else {
        return;
    };
    loop {
        sleep(period.max(KEEPALIVE_MIN)).await;
        match timeout(limit, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return driver.abort(),
        }
    }
}

/// What a call carries beside its messages.
#[derive(Debug)]
pub(crate) struct Metadata {
    /// Who asks.
    pub(crate) token: Option<String>,
    /// Whether to end when the server has lost its leader.
    pub(crate) leader: bool,
    /// When the answer is no longer of use.
    pub(crate) deadline: Option<Instant>,
    /// Largest answer taken.
    pub(crate) receive_bytes_max: usize,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call {
    requests: SendStream<Bytes>,
    answers: Answers,
    buffer: BytesMut,
    receive_bytes_max: usize,
}

#[derive(Debug)]
enum Answers {
    Waiting(ResponseFuture),
    Open(RecvStream),
}

impl Call {
    /// Opens a call; nothing is asked yet.
    ///
    /// # Errors
    /// `Unavailable` if the connection is gone.
    pub(crate) async fn start(
        channel: &Channel,
        path: &str,
        metadata: Metadata,
    ) -> Result<Self, Status> {
        let mut sender = channel
            .sender
            .clone()
            .ready()
            .await
            .map_err(|error| broken(&error))?;
        let mut request = Request::post(format!("{}{path}", channel.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("ringctl/", env!("CARGO_PKG_VERSION")))
            .header("client-api-version", API_VERSION);
        if let Some(token) = metadata.token {
            request = request.header("token", token);
        }
        if metadata.leader {
            request = request.header("hasleader", "true");
        }
        if let Some(deadline) = metadata.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            request = request.header(
                "grpc-timeout",
                format!("{}m", left.as_millis().clamp(1, 99_999_999)),
            );
        }
        let request = request.body(()).map_err(|error| {
            Status::new(Code::INTERNAL, format!("cannot be asked for: {error}"))
        })?;
        let (answers, requests) = sender
            .send_request(request, false)
            .map_err(|error| broken(&error))?;
        Ok(Self {
            requests,
            answers: Answers::Waiting(answers),
            buffer: BytesMut::new(),
            receive_bytes_max: metadata.receive_bytes_max,
        })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// It is larger than `bytes_max`, or the connection is gone.
    pub(crate) fn send<Q: Message>(&mut self, request: &Q, bytes_max: usize) -> Result<(), Status> {
        let length = request.encoded_len();
        if length > bytes_max {
            let text = format!("trying to send message larger than max ({length} vs. {bytes_max})");
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, text));
        }
        let mut frame = Vec::with_capacity(PREFIX_BYTES + length);
        frame.push(0);
        // The check above keeps it below 4 GiB.
        frame.extend_from_slice(&(length as u32).to_be_bytes());
        request
            .encode(&mut frame)
            .expect("a vector takes everything");
        self.requests
            .send_data(frame.into(), false)
            .map_err(|error| broken(&error))
    }

    /// Says that no message follows.
    pub(crate) fn finish(&mut self) -> Result<(), Status> {
        self.requests
            .send_data(Bytes::new(), true)
            .map_err(|error| broken(&error))
    }

    /// The next answer, `None` when the server is done.
    ///
    /// May be dropped at any time without losing an answer.
    pub(crate) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        loop {
            if let Some(frame) = self.frame()? {
                let answer = A::decode(frame);
                return answer
                    .map(Some)
                    .map_err(|error| Status::new(Code::INTERNAL, error.to_string()));
            }
            let body = match &mut self.answers {
                Answers::Open(body) => body,
                Answers::Waiting(head) => {
                    let head = head.await.map_err(|error| broken(&error))?;
                    check_head(&head)?;
                    self.answers = Answers::Open(head.into_body());
                    continue;
                }
            };
            match body.data().await {
                Some(Ok(data)) => {
                    let released = body.flow_control().release_capacity(data.len());
                    released.map_err(|error| broken(&error))?;
                    self.buffer.extend_from_slice(&data);
                }
                Some(Err(error)) => return Err(broken(&error)),
                None => {
                    let trailers = body.trailers().await.map_err(|error| broken(&error))?;
                    return match trailers.as_ref().map_or(Ok(false), status_of) {
                        Ok(true) => Ok(None),
                        Ok(false) => Err(Status::new(
                            Code::INTERNAL,
                            "server closed the stream without sending trailers",
                        )),
                        Err(status) => Err(status),
                    };
                }
            }
        }
    }

    /// A whole message from what has arrived.
    fn frame(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if flag != 0 {
            let text = format!(
                "the server compressed an answer (flag {flag}) although it was not asked to"
            );
            return Err(Status::new(Code::INTERNAL, text));
        }
        if length > self.receive_bytes_max {
            let text = format!(
                "grpc: received message larger than max ({length} vs. {})",
                self.receive_bytes_max
            );
            return Err(Status::new(Code::RESOURCE_EXHAUSTED, text));
        }
        if self.buffer.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

/// An answer without messages has its status in its head; another kind of server has no status at all.
fn check_head<T>(head: &http::Response<T>) -> Result<(), Status> {
    status_of(head.headers())?;
    let content = head
        .headers()
        .get("content-type")
        .map_or(&b""[..], |value| value.as_bytes());
    if head.status().is_success() && content.starts_with(b"application/grpc") {
        return Ok(());
    }
    let code = match head.status().as_u16() {
        401 => Code::UNAUTHENTICATED,
        404 => Code::UNIMPLEMENTED,
        429 | 502..=504 => Code::UNAVAILABLE,
        _ => Code::UNKNOWN,
    };
    let text = format!(
        "unexpected HTTP status code received from server: {}",
        head.status()
    );
    Err(Status::new(code, text))
}

/// The status in headers or trailers: whether there is one, or the error it says.
fn status_of(headers: &HeaderMap) -> Result<bool, Status> {
    let Some(code) = headers.get("grpc-status") else {
        return Ok(false);
    };
    let code = code
        .to_str()
        .ok()
        .and_then(|code| code.parse().ok())
        .map_or(Code::UNKNOWN, Code);
    if code == Code::OK {
        return Ok(true);
    }
    let message = headers
        .get("grpc-message")
        .map_or(String::new(), |text| decode_message(text.as_bytes()));
    Err(Status::new(code, message))
}

fn broken(error: &h2::Error) -> Status {
    if error.is_remote() && error.reason() == Some(h2::Reason::CANCEL) {
        return Status::new(Code(1), "the server cancelled the call");
    }
    Status::new(
        Code::UNAVAILABLE,
        format!("error reading from server: {error}"),
    )
}
