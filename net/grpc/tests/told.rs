//! What a service is told of its calls, for whoever counts them.

mod support;

use std::future::poll_fn;
use std::pin::{Pin, pin};

use grpc::{CallEvent, Code, Limits, Messages, Method};
use support::{World, answer, call, client, framed, request, server};

const PUT: &str = "/etcdserverpb.KV/Put";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";

fn received(count: u64, bytes: u64) -> CallEvent {
    CallEvent::Received(Messages { count, bytes })
}

fn sent(count: u64, bytes: u64) -> CallEvent {
    CallEvent::Sent(Messages { count, bytes })
}

fn handled(code: Code, nanos: u64) -> CallEvent {
    CallEvent::Handled { code, nanos }
}

/// Calls `path` with `message` and compares what is told.
fn check(path: &'static str, message: &'static [u8], method: Method, expected: &[CallEvent]) {
    let world = World::default();
    let expected: Vec<_> = expected.iter().map(|event| (method, *event)).collect();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let answer = call(&requests, request(path, &[]), framed(message)).await;
        answer.unwrap();
        assert_eq!(*server.seen.told.borrow(), expected);
    });
}

#[test]
fn a_call_is_told_of_from_its_message_to_its_end() {
    check(
        PUT,
        b"hello",
        Method::Put,
        &[
            CallEvent::Started,
            received(1, 5),
            sent(1, 5),
            handled(Code::Ok, 0),
        ],
    );
    check(
        COMPACT,
        b"",
        Method::Compact,
        &[
            CallEvent::Started,
            received(1, 0),
            handled(Code::Unknown, 0),
        ],
    );
}

#[test]
fn an_answer_in_parts_is_one_message() {
    // Three parts of two buffers of a KiB.
    let told = [
        CallEvent::Started,
        received(1, 5),
        sent(1, 6144),
        handled(Code::Ok, 0),
    ];
    check(HASH_KV, &[3, 2, 1, 0, 0], Method::HashKv, &told);
}

#[test]
fn messages_of_a_batch_count_each() {
    // Four messages, in batches of three: 4, 8, 12 and 16 bytes.
    let mut order = Vec::new();
    order.extend(4u32.to_be_bytes());
    order.extend(3u32.to_be_bytes());
    let told = [
        CallEvent::Started,
        received(1, 8),
        sent(4, 40),
        handled(Code::Ok, 0),
    ];
    check(KEEP_ALIVE, order.leak(), Method::LeaseKeepAlive, &told);
}

#[test]
fn what_ends_a_call_from_outside_is_its_code() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        // Its deadline.
        let late = request(RANGE, &[("grpc-timeout", "1S")]);
        call(&requests, late, framed(b"x")).await.unwrap();
        // The caller.
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(WATCH, &[]), false).unwrap();
        stream.send_data(framed(b"abc"), false).unwrap();
        world.sleep(1000).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        world.sleep(1000).await;
        // The end of the connection.
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(TXN, &[]), false).unwrap();
        stream.send_data(framed(b"y"), true).unwrap();
        world.sleep(1000).await;
        server.shutdown.begin();
        assert_eq!(answer(response).await.unwrap().status().0, "14");
        let told = server.seen.told.borrow().clone();
        let expected = [
            (Method::Range, CallEvent::Started),
            (Method::Range, received(1, 1)),
            (
                Method::Range,
                handled(Code::DeadlineExceeded, 1_000_000_000),
            ),
            (Method::Watch, CallEvent::Started),
            (Method::Watch, received(1, 3)),
            (Method::Watch, sent(1, 3)),
            (Method::Watch, handled(Code::Canceled, 1000)),
            (Method::Txn, CallEvent::Started),
            (Method::Txn, received(1, 1)),
            (Method::Txn, handled(Code::Unavailable, 500_001_000)),
        ];
        assert_eq!(told, expected);
    });
}

#[test]
fn calls_of_a_connection_that_is_lost_are_cancelled() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, mut connection) = h2::client::handshake(io).await.unwrap();
        let clock = world.clone();
        world.spawn(async move {
            let mut lost = pin!(clock.sleep(1000));
            poll_fn(|cx| {
                drop(Pin::new(&mut connection).poll(cx));
                lost.as_mut().poll(cx)
            })
            .await;
        });
        let mut sender = requests.clone().ready().await.unwrap();
        let (_response, mut stream) = sender.send_request(request(TXN, &[]), false).unwrap();
        stream.send_data(framed(b"y"), true).unwrap();
        world.sleep(2000).await;
        let last = server.seen.told.borrow().last().copied();
        assert_eq!(last, Some((Method::Txn, handled(Code::Canceled, 1000))));
    });
}
