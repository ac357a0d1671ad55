//! A world for tests: tasks on one thread, a clock that moves when nothing else does, an in-memory
//! connection with a server on one end and an `h2` client on the other.
#![allow(dead_code, unreachable_pub)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use grpc::{
    CallContext, CallEvent, Clock, Code, HttpRequest, HttpResponse, Limits, MessageBatch,
    MessageParts, Method, PartSink, RequestStream, ResponseSink, Service, Shutdown, Status,
    UnaryAnswer,
};
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use tokio::io::DuplexStream;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks and virtual time.
#[derive(Clone, Default)]
pub struct World(Rc<Inner>);

#[derive(Default)]
struct Inner {
    tasks: RefCell<Vec<Option<Task>>>,
    ready: Arc<Mutex<Vec<usize>>>,
    now: Cell<u64>,
    next_sleeper: Cell<u64>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
}

struct TaskWaker {
    index: usize,
    ready: Arc<Mutex<Vec<usize>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().push(self.index);
    }
}

impl World {
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> usize {
        let mut tasks = self.0.tasks.borrow_mut();
        tasks.push(Some(Box::pin(future)));
        self.0.ready.lock().unwrap().push(tasks.len() - 1);
        tasks.len() - 1
    }

    pub fn is_finished(&self, task: usize) -> bool {
        self.0.tasks.borrow()[task].is_none()
    }

    /// Runs until `main` has finished; time jumps to the next sleeper when no task is ready.
    pub fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> T {
        let result: Rc<RefCell<Option<T>>> = Rc::default();
        let place = Rc::clone(&result);
        self.spawn(async move {
            let value = main.await;
            *place.borrow_mut() = Some(value);
        });
        loop {
            self.turn();
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            let next = self.0.sleepers.borrow_mut().pop_first();
            let ((at, _), waker) = next.expect("nothing is ready and nobody sleeps");
            self.0.now.set(self.0.now.get().max(at));
            waker.wake();
        }
    }

    fn turn(&self) {
        loop {
            let mut ready = std::mem::take(&mut *self.0.ready.lock().unwrap());
            ready.dedup();
            if ready.is_empty() {
                return;
            }
            for index in ready {
                let Some(mut task) = self.0.tasks.borrow_mut()[index].take() else {
                    continue;
                };
                let waker = TaskWaker {
                    index,
                    ready: Arc::clone(&self.0.ready),
                };
                let waker = Waker::from(Arc::new(waker));
                if task
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
                {
                    self.0.tasks.borrow_mut()[index] = Some(task);
                }
            }
        }
    }

    pub async fn sleep(&self, nanos: u64) {
        self.sleep_until(self.now_nanos() + nanos).await;
    }
}

impl Clock for World {
    fn now_nanos(&self) -> u64 {
        self.0.now.get()
    }

    fn sleep_until(&self, nanos: u64) -> impl Future<Output = ()> + 'static {
        let world = self.clone();
        let id = world.0.next_sleeper.get();
        world.0.next_sleeper.set(id + 1);
        let mut sleep = Sleep {
            world,
            at: nanos,
            id,
        };
        poll_fn(move |cx| sleep.poll(cx))
    }
}

struct Sleep {
    world: World,
    at: u64,
    id: u64,
}

impl Sleep {
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.world.now_nanos() >= self.at {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        self.world
            .0
            .sleepers
            .borrow_mut()
            .insert((self.at, self.id), waker);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.world
            .0
            .sleepers
            .borrow_mut()
            .remove(&(self.at, self.id));
    }
}

/// What the test service has seen.
#[derive(Default)]
pub struct Seen {
    pub running: Cell<usize>,
    pub running_max: Cell<usize>,
    pub started: Cell<usize>,
    pub contexts: RefCell<Vec<CallContext>>,
    pub pending_bytes: Cell<usize>,
    pub sent: Cell<usize>,
    /// What was told of calls, in order.
    pub told: RefCell<Vec<(Method, CallEvent)>>,
    pub release: RefCell<Vec<Waker>>,
    pub released: Cell<bool>,
}

impl Seen {
    pub fn release(&self) {
        self.released.set(true);
        self.release.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// - `Put` echoes, `Compact` fails with a status that needs encoding
/// - `Range` never answers, `Txn` answers once released
/// - `HashKv` answers in parts: `[parts, buffers of a part, KiB of a buffer, parts missing, fails]`
/// - `LeaseKeepAlive` is told two numbers: how many messages to send, how many of them in a batch
/// - `Watch` echoes each message, `Snapshot` sends 16 KiB messages for ever
/// - `Observe` waits for the shutdown, `HealthWatch` never ends
pub struct TestService {
    pub seen: Rc<Seen>,
}

/// A message that says which one it is, of a length of its own.
pub fn numbered(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(1 + number as usize % 50)
}

struct Running(Rc<Seen>);

impl Running {
    fn new(seen: &Rc<Seen>) -> Self {
        seen.started.set(seen.started.get() + 1);
        seen.running.set(seen.running.get() + 1);
        seen.running_max
            .set(seen.running_max.get().max(seen.running.get()));
        Running(Rc::clone(seen))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

impl Service for TestService {
    async fn unary(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        let _running = Running::new(&self.seen);
        self.seen.contexts.borrow_mut().push(context);
        match method {
            Method::Put => Ok(message.into()),
            Method::Compact => Err(Status::new(Code::Unknown, "50 % \u{e9}")),
            Method::Txn => {
                poll_fn(|cx| {
                    if self.seen.released.get() {
                        return Poll::Ready(());
                    }
                    self.seen.release.borrow_mut().push(cx.waker().clone());
                    Poll::Pending
                })
                .await;
                Ok(message.into())
            }
            Method::HashKv => Ok(UnaryAnswer::Parts(parts(&self.seen, &message))),
            _ => std::future::pending().await,
        }
    }

    async fn stream(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let _running = Running::new(&self.seen);
        self.seen.contexts.borrow_mut().push(context.clone());
        match method {
            Method::Watch => {
                while let Some(message) = requests.next().await? {
                    responses.send(message).await?;
                }
                Ok(())
            }
            Method::LeaseKeepAlive => {
                let Some(order) = requests.next().await? else {
                    return Ok(());
                };
                let [count, per_batch] = [0, 4].map(|at| (&order[at..]).get_u32());
                let mut batch = MessageBatch::default();
                let mut batched = 0;
                for number in 0..count {
                    let message = numbered(number);
                    if per_batch == 0 {
                        responses.send(message.into()).await?;
                        continue;
                    }
                    batch.push(message.len(), |out| out.extend_from_slice(&message))?;
                    batched += 1;
                    if batched == per_batch || number + 1 == count {
                        responses.send_batch(std::mem::take(&mut batch)).await?;
                        let pending = responses.pending_bytes();
                        let seen = &self.seen.pending_bytes;
                        seen.set(seen.get().max(pending));
                        batched = 0;
                    }
                }
                // An empty one sends nothing.
                responses.send_batch(MessageBatch::default()).await
            }
            Method::Snapshot => {
                let block = Bytes::from(vec![7; 16 * 1024]);
                loop {
                    responses.ready().await?;
                    self.seen.pending_bytes.set(responses.pending_bytes());
                    responses.send_now(block.clone())?;
                    self.seen.sent.set(self.seen.sent.get() + 1);
                }
            }
            Method::Observe => {
                responses.open()?;
                context.shutdown.begun().await;
                Err(grpc::status::STOPPED)
            }
            _ => {
                responses.open()?;
                std::future::pending().await
            }
        }
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        let text = format!(
            "{} {} {}",
            request.method(),
            request.uri(),
            String::from_utf8_lossy(request.body())
        );
        HttpResponse::new(Bytes::from(text))
    }

    fn note(&self, method: Method, event: CallEvent) {
        self.seen.told.borrow_mut().push((method, event));
    }
}

fn parts(seen: &Rc<Seen>, asked: &[u8]) -> MessageParts {
    let [parts, buffers, kibibytes, missing, fails] = *asked else {
        panic!("five bytes say what to answer with");
    };
    let buffer = Bytes::from(vec![parts; usize::from(kibibytes) << 10]);
    let bytes = u64::from(parts) * u64::from(buffers) * buffer.len() as u64;
    let running = Running::new(seen);
    MessageParts::new(bytes, async move |mut sink: PartSink| {
        for _ in missing..parts {
            let mut part = vec![Bytes::new()];
            part.resize(usize::from(buffers), buffer.clone());
            part[0] = buffer.clone();
            sink.send(part).await?;
            running.0.sent.set(running.0.sent.get() + 1);
        }
        match fails {
            0 => Ok(()),
            1 => Err(Status::new(Code::DataLoss, "the middle is damaged")),
            _ => sink.send(vec![Bytes::from_static(b"more")]).await,
        }
    })
}

/// A server on one end of a connection.
pub struct Server {
    pub seen: Rc<Seen>,
    pub shutdown: Shutdown,
    pub task: usize,
}

/// Starts a server; the other end is returned.
pub fn server(world: &World, limits: Limits) -> (Server, DuplexStream) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let seen: Rc<Seen> = Rc::default();
    let shutdown = Shutdown::new();
    let service = Rc::new(TestService {
        seen: Rc::clone(&seen),
    });
    let task = world.spawn(grpc::serve_connection(
        world.clone(),
        far,
        Rc::from("test"),
        service,
        Rc::new(limits),
        shutdown.clone(),
    ));
    (
        Server {
            seen,
            shutdown,
            task,
        },
        near,
    )
}

/// An `h2` client on `io`; `closed` is set when its connection has ended.
pub async fn client(world: &World, io: DuplexStream) -> (SendRequest<Bytes>, Rc<Cell<bool>>) {
    client_of(world, io, &h2::client::Builder::new()).await
}

pub async fn client_of(
    world: &World,
    io: DuplexStream,
    builder: &h2::client::Builder,
) -> (SendRequest<Bytes>, Rc<Cell<bool>>) {
    let (requests, connection) = builder.handshake(io).await.unwrap();
    let closed: Rc<Cell<bool>> = Rc::default();
    let flag = Rc::clone(&closed);
    world.spawn(async move {
        drop(connection.await);
        flag.set(true);
    });
    (requests, closed)
}

/// Frames `message` as gRPC does.
pub fn framed(message: &[u8]) -> Bytes {
    flagged(0, message)
}

pub fn flagged(flag: u8, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes.freeze()
}

/// A request for `path` with gRPC's headers and `headers`.
pub fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// The answer to a call.
#[derive(Debug)]
pub struct Answer {
    pub http_status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    /// Code and text, wherever they stand.
    pub fn status(&self) -> (String, String) {
        let find = |name| {
            let value = self.trailers.get(name).or_else(|| self.headers.get(name));
            value.map_or(String::new(), |value| {
                grpc::status::decode_message(value.as_bytes())
            })
        };
        (find("grpc-status"), find("grpc-message"))
    }
}

/// Reads a whole answer.
pub async fn answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.await?.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok(Answer {
        http_status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.freeze(),
        trailers,
    })
}

/// Sends `body` in one piece and reads the answer.
pub async fn call(
    requests: &SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
) -> Result<Answer, h2::Error> {
    let mut requests = requests.clone().ready().await?;
    let (response, mut stream) = requests.send_request(request, false)?;
    stream.send_data(body, true)?;
    answer(response).await
}

/// Asserts code and text of a call that must fail.
pub async fn check_refused(
    requests: &SendRequest<Bytes>,
    request: Request<()>,
    body: Bytes,
    code: &str,
    text: &str,
) {
    let answer = call(requests, request, body).await.unwrap();
    assert_eq!(answer.status(), (code.to_owned(), text.to_owned()));
    assert_eq!(answer.http_status, 200);
    assert!(answer.body.is_empty());
}
