//! What a unary call costs the server, without a kernel in the picture.
//!
//! Server and clients share a thread and talk through memory; the time inside the server's future is
//! divided by the calls. Arguments: connections, streams per connection, calls, bytes per value.
//!
//! ```text
//! cargo run --release -p grpc --example echo_bench -- 8 16 400000 256
//! ```

#[path = "../tests/support/mod.rs"]
mod support;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::command::{Command, Operation, Reply};
use grpc::mapping::{Header, RequestLimits, encode_reply, operation};
use grpc::proto::etcdserverpb::PutRequest;
use grpc::{
    CallContext, HttpRequest, HttpResponse, Limits, Method, RequestStream, ResponseSink, Service,
    Shutdown, Status, UnaryAnswer,
};
use prost::Message;
use support::{World, answer, client_of, framed, request};

/// Decodes and checks a put and answers it with a constant.
struct Echo;

impl Service for Echo {
    async fn unary(
        self: Rc<Self>,
        _context: CallContext,
        method: Method,
        message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        match operation(method, message, &RequestLimits::default())? {
            Operation::Write(Command::Put(put)) => {
                std::hint::black_box(put);
                let header = Header {
                    cluster_id: 1 << 60,
                    member_id: 2,
                    revision: 77_777,
                    raft_term: 2,
                };
                Ok(encode_reply(&header, &Reply::Put { prev_kv: None }).into())
            }
            other => panic!("{other:?}"),
        }
    }

    async fn stream(
        self: Rc<Self>,
        _context: CallContext,
        _method: Method,
        _requests: RequestStream,
        _responses: ResponseSink,
    ) -> Result<(), Status> {
        Ok(())
    }

    async fn http(self: Rc<Self>, _request: HttpRequest) -> HttpResponse {
        HttpResponse::new(Bytes::new())
    }
}

/// A future that adds up the time spent in it.
struct Timed<F> {
    future: Pin<Box<F>>,
    spent: Rc<Cell<Duration>>,
    polls: Rc<Cell<u64>>,
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let begin = Instant::now();
        let result = self.future.as_mut().poll(cx);
        self.spent.set(self.spent.get() + begin.elapsed());
        self.polls.set(self.polls.get() + 1);
        result
    }
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().expect("a number"));
    let mut next = |default| arguments.next().unwrap_or(default);
    let (connections, streams, calls, value_bytes) = (next(8), next(16), next(400_000), next(256));
    let world = World::default();
    let spent: Rc<Cell<Duration>> = Rc::default();
    let polls: Rc<Cell<u64>> = Rc::default();
    let begin = Instant::now();
    let (counted_spent, counted_polls) = (Rc::clone(&spent), Rc::clone(&polls));
    world.clone().run(async move {
        let put = PutRequest {
            key: Bytes::from_static(b"/registry/pods/default/some-pod-name"),
            value: vec![7; value_bytes].into(),
            ..Default::default()
        };
        let body = framed(&put.encode_to_vec());
        let running = Rc::new(Cell::new(connections * streams));
        for _ in 0..connections {
            let (near, far) = tokio::io::duplex(256 * 1024);
            let future = Box::pin(grpc::serve_connection(
                world.clone(),
                far,
                Rc::from("bench"),
                Rc::new(Echo),
                Rc::new(Limits::default()),
                Shutdown::new(),
            ));
            let (spent, polls) = (Rc::clone(&counted_spent), Rc::clone(&counted_polls));
            world.spawn(Timed {
                future,
                spent,
                polls,
            });
            let mut builder = h2::client::Builder::new();
            builder.data_frame_budget(16 << 20);
            let (requests, _) = client_of(&world, near, &builder).await;
            for _ in 0..streams {
                let (requests, running, body) =
                    (requests.clone(), Rc::clone(&running), body.clone());
                world.spawn(async move {
                    for _ in 0..calls / connections / streams {
                        let mut sender = requests.clone().ready().await.expect("a connection");
                        let request = request("/etcdserverpb.KV/Put", &[]);
                        let (response, mut stream) =
                            sender.send_request(request, false).expect("a stream");
                        stream.send_data(body.clone(), true).expect("room");
                        let answer = answer(response).await.expect("an answer");
                        assert_eq!(answer.status().0, "0");
                    }
                    running.set(running.get() - 1);
                });
            }
        }
        while running.get() > 0 {
            world.sleep(1).await;
        }
    });
    let calls = calls / connections / streams * connections * streams;
    println!(
        "{connections} × {streams}: {:.2} µs per call in the server, {:.1} calls per turn, {:.2} s in all",
        spent.get().as_secs_f64() * 1e6 / calls as f64,
        calls as f64 / polls.get() as f64,
        begin.elapsed().as_secs_f64(),
    );
}
