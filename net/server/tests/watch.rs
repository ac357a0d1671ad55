//! Watches of a whole member over HTTP/2, in the simulation: what a client gets when answers are gathered, when its
//! window is narrow, and when it cancels in the middle.

mod member;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use engine::command::*;
use grpc::mapping::RequestLimits;
use grpc::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};
use grpc::{Limits, Shutdown, serve_connection};
use h2::{RecvStream, SendStream};
use http::Request;
use member::{answer, small};
use prost::Message;
use reactor::sim::{Simulation, SimulationOptions, Step};
use reactor::{Address, Class, World};
use ringd::log::Logger;
use ringd::node::{Node, NodeOptions};
use ringd::services::EtcdService;

const WATCHERS: i64 = 40;
const PUTS: i64 = 120;
const KEY: &[u8] = b"watched";
const VALUE_BYTES: usize = 100;

async fn put(node: &Node, number: i64) {
    put_of(node, number, VALUE_BYTES).await;
}

async fn put_of(node: &Node, number: i64, value_bytes: usize) {
    let put = Put {
        key: Bytes::from_static(KEY),
        value: Bytes::from(vec![number as u8; value_bytes]),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let put = answer(node, Operation::Write(Command::Put(put))).await;
    put.expect("written");
}

/// A member with its client API, and a client of it in the same world.
fn run<F: Future<Output = ()> + 'static>(client: impl FnOnce(World, Node) -> F + 'static) {
    run_with(small(), client);
}

fn run_with<F: Future<Output = ()> + 'static>(
    options: NodeOptions,
    client: impl FnOnce(World, Node) -> F + 'static,
) {
    let mut simulation = Simulation::new(1, SimulationOptions::calm());
    let host = simulation.add_host("member");
    let core = simulation.start_core(host, |world| async move {
        let logger = Rc::new(Logger::with(|_| {}));
        let node = Node::open(world.clone(), options, logger).await;
        let node = node.unwrap_or_else(|error| panic!("{error}"));
        node.ready().await.expect("ready");
        client(world, node).await;
    });
    for _ in 0..8_000_000 {
        if simulation.main_ended(core) {
            return;
        }
        assert!(!matches!(simulation.step(), Step::Idle));
    }
    panic!("the client does not end");
}

/// The client's end of a watch stream.
struct Client {
    requests: SendStream<Bytes>,
    answers: RecvStream,
    received: Vec<u8>,
    frames: usize,
}

impl Client {
    /// Opens a stream on a connection of its own.
    async fn open(world: &World, node: &Node, window: u32) -> Client {
        let address = Address::Tcp("10.0.0.1:2379".parse().expect("an address"));
        let listener = world.listen(&address).await.expect("listens");
        let connecting = world.connect(listener.local_address());
        let near = connecting.await.expect("connects");
        let far = listener.accept().await.expect("accepts");
        let shutdown = Shutdown::new();
        let service = EtcdService::new(node.clone(), RequestLimits::default(), shutdown.clone());
        let limits = Rc::new(Limits::default());
        let peer = Rc::from("client");
        let served = serve_connection(world.clone(), far, peer, service, limits, shutdown);
        world.spawn(Class::Request, served);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        builder.data_frame_budget(64 << 20);
        let (requests, connection) = builder.handshake(near).await.expect("shakes hands");
        world.spawn(Class::Request, async move { drop(connection.await) });
        let mut requests = requests.ready().await.expect("ready");
        let request = Request::post("http://member/etcdserverpb.Watch/Watch")
            .header("content-type", "application/grpc")
            .body(())
            .expect("a request");
        let (response, requests) = requests.send_request(request, false).expect("sent");
        let answers = response.await.expect("answered").into_body();
        Client {
            requests,
            answers,
            received: Vec::new(),
            frames: 0,
        }
    }

    fn send(&mut self, request: RequestUnion) {
        let message = WatchRequest {
            request_union: Some(request),
        };
        let message = message.encode_to_vec();
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        self.requests.send_data(framed.into(), false).expect("sent");
    }

    fn create(&mut self, watch_id: i64) {
        self.send(RequestUnion::CreateRequest(WatchCreateRequest {
            key: Bytes::from_static(KEY),
            watch_id,
            ..WatchCreateRequest::default()
        }));
    }

    async fn next(&mut self) -> WatchResponse {
        loop {
            if let Some(length) = self.received.get(1..5).map(|mut length| length.get_u32()) {
                let end = 5 + length as usize;
                if self.received.len() >= end {
                    let message = WatchResponse::decode(&self.received[5..end]);
                    self.received.drain(..end);
                    return message.expect("a watch answer");
                }
            }
            let data = poll_fn(|context| self.answers.poll_data(context)).await;
            let data = data.expect("the stream goes on").expect("data");
            let flow = self.answers.flow_control();
            flow.release_capacity(data.len()).expect("released");
            self.received.extend_from_slice(&data);
            self.frames += 1;
        }
    }

    /// Creates watchers 1 to `count`.
    async fn create_all(&mut self, count: i64) {
        for id in 1..=count {
            self.create(id);
        }
        for id in 1..=count {
            let created = self.next().await;
            assert!(created.created && created.watch_id == id, "{created:?}");
        }
    }
}

/// Notes the events of an answer; each watcher's next revision is the one after its last.
fn take(shown: &mut BTreeMap<i64, i64>, answer: &WatchResponse) {
    let next = shown.get_mut(&answer.watch_id).expect("a live watcher");
    assert!(!answer.events.is_empty(), "{answer:?}");
    for event in &answer.events {
        let kv = event.kv.as_ref().expect("a key-value");
        assert_eq!(kv.mod_revision, *next, "watcher {}", answer.watch_id);
        assert_eq!(kv.key.as_ref(), KEY);
        assert_eq!(kv.value.len(), VALUE_BYTES);
        *next += 1;
    }
    let header = answer.header.as_ref().expect("a header");
    assert!(header.revision >= *next - 1);
}

/// How many events short of all puts the watchers are together.
fn missing(shown: &BTreeMap<i64, i64>, end: i64) -> i64 {
    shown.values().map(|next| end - next).sum()
}

#[test]
fn every_watcher_is_shown_every_event_once_and_in_order_however_narrow_the_window() {
    for window in [1, 100, 5000, 65_535] {
        run(move |world, node| async move {
            let mut client = Client::open(&world, &node, window).await;
            let puts = if window == 1 { 4 } else { PUTS };
            client.create_all(WATCHERS).await;
            let first = node.applied().revision + 1;
            let mut shown: BTreeMap<_, _> = (1..=WATCHERS).map(|id| (id, first)).collect();
            let writer = node.clone();
            let writing = world.spawn_joinable(Class::Request, async move {
                for number in 0..puts {
                    put(&writer, number).await;
                }
            });
            // Not read for a while: what waits are cursors.
            world.sleep(Duration::from_secs(2)).await;
            while missing(&shown, first + puts) > 0 {
                let answer = client.next().await;
                take(&mut shown, &answer);
            }
            writing.await;
            client.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
            let progress = client.next().await;
            assert_eq!(progress.watch_id, -1);
            assert!(progress.events.is_empty());
            assert_eq!(
                progress.header.expect("a header").revision,
                first + puts - 1
            );
        });
    }
}

#[test]
fn the_answers_to_a_put_leave_together() {
    run(|world, node| async move {
        let mut client = Client::open(&world, &node, 1 << 20).await;
        client.create_all(WATCHERS).await;
        let first = node.applied().revision + 1;
        let mut shown: BTreeMap<_, _> = (1..=WATCHERS).map(|id| (id, first)).collect();
        let before = client.frames;
        for number in 0..10 {
            put(&node, number).await;
            while missing(&shown, first + number + 1) > 0 {
                let answer = client.next().await;
                take(&mut shown, &answer);
            }
        }
        assert_eq!(client.frames - before, 10, "a DATA frame each");
    });
}

#[test]
fn a_cancelled_watcher_is_shown_nothing_after_the_answer_that_ends_it() {
    for window in [1, 300, 2000] {
        run(move |world, node| async move {
            let mut client = Client::open(&world, &node, window).await;
            client.create_all(WATCHERS).await;
            let first = node.applied().revision + 1;
            let mut shown: BTreeMap<_, _> = (1..=WATCHERS).map(|id| (id, first)).collect();
            for number in 0..3 {
                put(&node, number).await;
            }
            // The first piece is stuck in the window, with answers to all of them.
            world.sleep(Duration::from_secs(1)).await;
            for watch_id in [7, 30] {
                client.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            world.sleep(Duration::from_secs(1)).await;
            for number in 3..6 {
                put(&node, number).await;
            }
            while missing(&shown, first + 6) > 0 {
                let answer = client.next().await;
                if answer.canceled {
                    let next = shown.remove(&answer.watch_id).expect("cancelled once");
                    assert!(next < first + 6, "it was cancelled before the last puts");
                } else {
                    take(&mut shown, &answer);
                }
            }
            assert_eq!(shown.len() as i64, WATCHERS - 2);
        });
    }
}

#[test]
fn history_is_shown_with_a_memory_that_holds_no_two_values() {
    // With the key and the header of its record a multiple of 8: so the record is not padded, and is its piece.
    const LARGE_BYTES: usize = 20_001;
    const WATCHERS_BEHIND: i64 = 3;
    let mut options = small();
    options.checkpoints.operations = 2;
    options.store.piece_bytes = 8 << 10;
    options.store.segment_bytes_first = 64 << 10;
    options.store.tail_bytes_max = 0;
    options.store.value_cache_bytes = 0;
    run_with(options, |world, node| async move {
        for number in 0..10 {
            put_of(&node, number, LARGE_BYTES).await;
        }
        let end = node.applied().revision + 1;
        // The last of them are written, and leave.
        world.sleep(Duration::from_secs(5)).await;
        let mut client = Client::open(&world, &node, 1 << 20).await;
        let first = end - 9;
        for watch_id in 1..=WATCHERS_BEHIND {
            client.send(RequestUnion::CreateRequest(WatchCreateRequest {
                key: Bytes::from_static(KEY),
                watch_id,
                start_revision: first,
                prev_kv: true,
                ..WatchCreateRequest::default()
            }));
        }
        let mut shown: BTreeMap<_, _> = (1..=WATCHERS_BEHIND).map(|id| (id, first)).collect();
        while missing(&shown, end) > 0 {
            let answer = client.next().await;
            let next = shown.get_mut(&answer.watch_id).expect("a live watcher");
            for event in &answer.events {
                let kv = event.kv.as_ref().expect("a key-value");
                let former = event.prev_kv.as_ref().expect("the value before it");
                assert_eq!(kv.mod_revision, *next);
                let number = (10 - (end - *next)) as u8;
                assert_eq!(kv.value, vec![number; LARGE_BYTES]);
                assert_eq!(former.value, vec![number - 1; LARGE_BYTES]);
                *next += 1;
            }
        }
    });
}
