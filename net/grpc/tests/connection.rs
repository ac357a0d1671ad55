//! Connections as peers see them: calls, limits, time, and the end.

mod support;

use std::io::Write;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use grpc::{Clock, Limits};
use http::Request;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{
    World, answer, call, check_refused, client, client_of, flagged, framed, numbered, request,
    server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
const SECOND: u64 = 1_000_000_000;

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

/// A client that does not cut off a server which sends small answers faster than they are read.
fn patient() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder.data_frame_budget(16 << 20);
    builder
}

#[test]
fn a_unary_call_is_answered() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let headers = [
            ("token", "t.1"),
            ("hasleader", "true"),
            ("client-api-version", "3.7"),
        ];
        let answer = call(&requests, request(PUT, &headers), framed(b"hello"))
            .await
            .unwrap();
        assert_eq!(answer.body, framed(b"hello"));
        assert_eq!(answer.status(), ("0".into(), String::new()));
        assert_eq!(answer.headers["content-type"], "application/grpc");
        let context = server.seen.contexts.borrow()[0].clone();
        assert_eq!(context.token.as_deref(), Some(&b"t.1"[..]));
        assert!(context.requires_leader);
        assert_eq!(context.client_api_version.unwrap(), "3.7");
        assert_eq!(context.deadline_nanos, None);
        assert_eq!(&*context.peer, "test");
    });
}

#[test]
fn an_empty_message_and_one_in_pieces_arrive_whole() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let empty = call(&requests, request(PUT, &[]), framed(b""))
            .await
            .unwrap();
        assert_eq!(empty.body, framed(b""));
        for step in [1, 3, 5, 6, 1000] {
            let message: Vec<u8> = (0..200u8).collect();
            let mut sender = requests.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(request(PUT, &[]), false).unwrap();
            for piece in framed(&message).chunks(step) {
                stream
                    .send_data(Bytes::copy_from_slice(piece), false)
                    .unwrap();
                world.sleep(1000).await;
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert_eq!(answer(response).await.unwrap().body, framed(&message));
        }
    });
}

#[test]
fn large_messages_pass_both_ways() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let message = vec![3; 2 * 1024 * 1024];
        let answer = call(&requests, request(PUT, &[]), framed(&message))
            .await
            .unwrap();
        assert_eq!(answer.body, framed(&message));
        assert_eq!(answer.status().0, "0");
    });
}

#[test]
fn refusals_say_why() {
    let world = World::default();
    world.clone().run(async move {
        let limits = Limits {
            message_bytes_max: 1000,
            ..Limits::default()
        };
        let (server, io) = server(&world, limits);
        let (requests, _) = client(&world, io).await;
        let check = |path: &'static str, headers: &'static [(&str, &str)], body, code, text| {
            let requests = requests.clone();
            async move { check_refused(&requests, request(path, headers), body, code, text).await }
        };
        let ok = framed(b"x");
        check(
            "/etcdserverpb.KV/Get",
            &[],
            ok.clone(),
            "12",
            "unknown method Get for service etcdserverpb.KV",
        )
        .await;
        check("/x.Y/Get", &[], ok.clone(), "12", "unknown service x.Y").await;
        check(
            "/Get",
            &[],
            ok.clone(),
            "12",
            "malformed method name: \"/Get\"",
        )
        .await;
        let large = "grpc: received message larger than max (1001 vs. 1000)";
        check(PUT, &[], framed(&[0; 1001]), "8", large).await;
        // The announced length alone is enough.
        let announced = Bytes::from_static(&[0, 255, 255, 255, 255]);
        let large = "grpc: received message larger than max (4294967295 vs. 1000)";
        check(PUT, &[], announced, "8", large).await;
        check(
            PUT,
            &[],
            flagged(7, b"x"),
            "13",
            "grpc: received unexpected payload format 7",
        )
        .await;
        let flag = "grpc: compressed flag set with identity or empty encoding";
        check(PUT, &[], flagged(1, b"x"), "13", flag).await;
        let encoding = "grpc: Decompressor is not installed for grpc-encoding \"snappy\"";
        check(
            PUT,
            &[("grpc-encoding", "snappy")],
            ok.clone(),
            "12",
            encoding,
        )
        .await;
        check(
            PUT,
            &[],
            Bytes::new(),
            "13",
            "grpc: the request has no message",
        )
        .await;
        check(PUT, &[], ok.slice(..3), "13", "unexpected EOF").await;
        let two = [framed(b"x"), framed(b"y")].concat();
        check(
            PUT,
            &[],
            two.into(),
            "13",
            "grpc: the request has more than one message",
        )
        .await;
        check(
            PUT,
            &[("grpc-timeout", "soon")],
            ok.clone(),
            "13",
            "malformed grpc-timeout: \"soon\"",
        )
        .await;
        check("/etcdserverpb.KV/Compact", &[], ok, "2", "50 % \u{e9}").await;
        assert_eq!(server.seen.started.get(), 1);
        let unimplemented = call(&requests, request("/x.Y/Z", &[]), framed(b""))
            .await
            .unwrap();
        assert_eq!(unimplemented.headers["grpc-accept-encoding"], "gzip");
        // The connection is as good as before.
        let answer = call(&requests, request(PUT, &[]), framed(b"z"))
            .await
            .unwrap();
        assert_eq!(answer.body, framed(b"z"));
    });
}

#[test]
fn other_content_types_are_not_calls() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let plain = |method: &str, path: &str, content_type: &str| {
            Request::builder()
                .method(method)
                .uri(format!("http://test{path}"))
                .header("content-type", content_type)
                .body(())
                .unwrap()
        };
        let json = plain("POST", PUT, "application/json");
        let answer = call(&requests, json, framed(b"x")).await.unwrap();
        assert_eq!(answer.http_status, 415);
        let near = plain("POST", PUT, "application/grpcx");
        assert_eq!(
            call(&requests, near, framed(b"x"))
                .await
                .unwrap()
                .http_status,
            415
        );
        let proto = plain("POST", PUT, "application/grpc+proto");
        assert_eq!(
            call(&requests, proto, framed(b"x")).await.unwrap().body,
            framed(b"x")
        );
        let get = plain("GET", "/version?a=b", "text/plain");
        let answer = call(&requests, get, Bytes::from_static(b"body"))
            .await
            .unwrap();
        assert_eq!(answer.http_status, 200);
        assert_eq!(answer.body, "GET http://test/version?a=b body");
    });
}

#[test]
fn gzip_requests_are_unpacked_within_bounds() {
    let world = World::default();
    world.clone().run(async move {
        let limits = Limits {
            message_bytes_max: 10_000,
            ..Limits::default()
        };
        let (_server, io) = server(&world, limits);
        let (requests, _) = client(&world, io).await;
        let gzipped = || request(PUT, &[("grpc-encoding", "gzip")]);
        let message = vec![9; 10_000];
        let body = flagged(1, &gzip(&message));
        let answer = call(&requests, gzipped(), body).await.unwrap();
        assert_eq!(answer.body, framed(&message));
        // A message without the flag is taken as it is.
        let answer = call(&requests, gzipped(), framed(b"plain")).await.unwrap();
        assert_eq!(answer.body, framed(b"plain"));
        let bomb = flagged(1, &gzip(&vec![0; 1_000_000]));
        let text = "grpc: received message after decompression larger than max 10000";
        check_refused(&requests, gzipped(), bomb, "8", text).await;
        let broken = call(&requests, gzipped(), flagged(1, b"nonsense"))
            .await
            .unwrap();
        assert_eq!(broken.status().0, "13");
    });
}

#[test]
fn a_deadline_ends_the_call() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        for (timeout, nanos) in [("3S", 3 * SECOND), ("250m", SECOND / 4)] {
            let before = world.now_nanos();
            let range = request(RANGE, &[("grpc-timeout", timeout)]);
            let text = "context deadline exceeded";
            check_refused(&requests, range, framed(b""), "4", text).await;
            assert_eq!(world.now_nanos() - before, nanos);
            assert_eq!(server.seen.running.get(), 0);
        }
        let streams = request(WATCH, &[("grpc-timeout", "1S")]);
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, _open) = sender.send_request(streams, false).unwrap();
        assert_eq!(answer(response).await.unwrap().status().0, "4");
        // A deadline that is kept has no effect later.
        let put = request(PUT, &[("grpc-timeout", "1S")]);
        call(&requests, put, framed(b"x")).await.unwrap();
        world.sleep(5 * SECOND).await;
        let answer = call(&requests, request(PUT, &[]), framed(b"y"))
            .await
            .unwrap();
        assert_eq!(answer.body, framed(b"y"));
    });
}

#[test]
fn a_reset_drops_the_handler() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        for path in [RANGE, WATCH, SNAPSHOT] {
            let mut sender = requests.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(request(path, &[]), false).unwrap();
            stream.send_data(framed(b"x"), true).unwrap();
            world.sleep(1000).await;
            if path != WATCH {
                assert_eq!(server.seen.running.get(), 1, "{path}");
            }
            stream.send_reset(h2::Reason::CANCEL);
            drop(response);
            world.sleep(1000).await;
            assert_eq!(server.seen.running.get(), 0, "{path}");
        }
    });
}

#[test]
fn handlers_are_dropped_with_their_connection() {
    let world = World::default();
    world.clone().run(async move {
        let (server, mut io) = server(&world, Limits::default());
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        world.sleep(1000).await;
        assert!(!world.is_finished(server.task));
        drop(io);
        world.sleep(1000).await;
        assert!(world.is_finished(server.task));
    });
}

#[test]
fn a_stream_carries_messages_both_ways() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(WATCH, &[]), false).unwrap();
        stream.send_data(framed(b"first"), false).unwrap();
        let (parts, mut body) = response.await.unwrap().into_parts();
        assert_eq!(parts.headers["content-type"], "application/grpc");
        assert_eq!(body.data().await.unwrap().unwrap(), framed(b"first"));
        for round in 0..100u32 {
            // Two messages in one frame, the second one cut.
            let message = round.to_be_bytes();
            let both = [framed(&message), framed(b"cut")].concat();
            let (head, tail) = both.split_at(both.len() - 2);
            stream
                .send_data(Bytes::copy_from_slice(head), false)
                .unwrap();
            let mut received = body.data().await.unwrap().unwrap().to_vec();
            stream
                .send_data(Bytes::copy_from_slice(tail), false)
                .unwrap();
            received.extend(body.data().await.unwrap().unwrap());
            assert_eq!(received, both);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn a_burst_of_small_messages_is_no_abuse() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, closed) = client_of(&world, io, &patient()).await;
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(WATCH, &[]), false).unwrap();
        for _ in 0..20_000 {
            stream.send_data(framed(b"tiny"), false).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(answer(response).await.unwrap().body.len(), 20_000 * 9);
        assert!(!closed.get());
    });
}

#[test]
fn a_slow_reader_makes_the_sender_wait() {
    let world = World::default();
    world.clone().run(async move {
        let limits = Limits {
            stream_send_bytes_max: 64 * 1024,
            ..Limits::default()
        };
        let (server, io) = server(&world, limits);
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 20);
        let (requests, _) = client_of(&world, io, &builder).await;
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(SNAPSHOT, &[]), false).unwrap();
        stream.send_data(framed(b""), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        world.sleep(SECOND).await;
        // The peer's window is full; only what the window holds plus one message was built.
        let sent = server.seen.sent.get();
        assert!((60..=70).contains(&sent), "{sent}");
        assert!(server.seen.pending_bytes.get() <= 128 * 1024);
        world.sleep(SECOND).await;
        assert_eq!(server.seen.sent.get(), sent);
        let mut taken = 0;
        while taken < 4 << 20 {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            taken += data.len();
        }
        assert!(server.seen.sent.get() > sent + 100);
    });
}

#[test]
fn batches_are_the_same_bytes_as_single_messages_however_narrow_the_window() {
    let count = 600;
    let expected: Vec<u8> = (0..count)
        .flat_map(|number| framed(&numbered(number)))
        .collect();
    for (per_batch, window) in [
        (0, 65_535),
        (1, 7),
        (7, 3),
        (100, 65_535),
        (100, 10),
        (600, 333),
    ] {
        let expected = expected.clone();
        let world = World::default();
        world.clone().run(async move {
            let (server, io) = server(&world, Limits::default());
            let mut builder = patient();
            builder.initial_window_size(window);
            let (requests, _) = client_of(&world, io, &builder).await;
            let order = [count.to_be_bytes(), u32::to_be_bytes(per_batch)].concat();
            let answer = call(&requests, request(KEEP_ALIVE, &[]), framed(&order)).await;
            let answer = answer.unwrap();
            assert_eq!(answer.status().0, "0");
            assert!(answer.body == expected, "{per_batch} in {window}");
            // Beyond the window no more than one batch waits.
            let pending = server.seen.pending_bytes.get();
            let longest = numbered(49).len() + 5;
            assert!(pending <= window as usize + per_batch as usize * longest);
        });
    }
}

#[test]
fn a_thousand_calls_run_at_once() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client_of(&world, io, &patient()).await;
        let mut responses = Vec::new();
        for number in 0..1000u32 {
            let mut sender = requests.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(request(TXN, &[]), false).unwrap();
            stream
                .send_data(framed(&number.to_be_bytes()), true)
                .unwrap();
            responses.push(response);
        }
        world.sleep(SECOND).await;
        assert_eq!(server.seen.running.get(), 1000);
        server.seen.release();
        for (number, response) in responses.into_iter().enumerate() {
            let answer = answer(response).await.unwrap();
            assert_eq!(answer.body, framed(&(number as u32).to_be_bytes()));
        }
        assert_eq!(server.seen.running.get(), 0);
    });
}

#[test]
fn streams_above_the_limit_wait_or_are_refused() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(
            &world,
            Limits {
                streams_max: 10,
                ..Limits::default()
            },
        );
        let (requests, _) = client(&world, io).await;
        // The client learns the limit with the server's settings.
        call(&requests, request(PUT, &[]), framed(b""))
            .await
            .unwrap();
        for _ in 0..50 {
            let (world, requests) = (world.clone(), requests.clone());
            world.spawn(async move {
                drop(call(&requests, request(TXN, &[]), framed(b"")).await);
            });
        }
        world.sleep(SECOND).await;
        assert_eq!(server.seen.running.get(), 10);
        server.seen.release();
        world.sleep(SECOND).await;
        assert!(server.seen.running_max.get() <= 10);
    });
}

#[test]
fn a_flood_of_resets_is_cut_off() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, closed) = client(&world, io).await;
        let mut sent = 0;
        while !closed.get() && sent < 10_000 {
            let Ok(mut sender) = requests.clone().ready().await else {
                break;
            };
            let Ok((_, mut stream)) = sender.send_request(request(RANGE, &[]), false) else {
                break;
            };
            drop(stream.send_data(framed(b""), true));
            // The request is accepted before it is reset.
            world.sleep(1000).await;
            stream.send_reset(h2::Reason::CANCEL);
            world.sleep(1000).await;
            sent += 1;
        }
        world.sleep(SECOND).await;
        assert!(closed.get());
        assert!((200..=210).contains(&sent), "{sent}");
        assert!(world.is_finished(server.task));
        assert_eq!(server.seen.running.get(), 0);
    });
}

#[test]
fn callers_that_also_finish_calls_may_reset_many() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, closed) = client(&world, io).await;
        for _ in 0..600 {
            call(&requests, request(PUT, &[]), framed(b""))
                .await
                .unwrap();
            let mut sender = requests.clone().ready().await.unwrap();
            let (_, mut stream) = sender.send_request(request(RANGE, &[]), false).unwrap();
            stream.send_data(framed(b""), true).unwrap();
            world.sleep(1000).await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        assert!(!closed.get());
    });
}

#[test]
fn garbage_is_closed_without_an_answer() {
    let check = |bytes: &'static [u8], at_most: u64| {
        let world = World::default();
        world.clone().run(async move {
            let (server, mut io) = server(&world, Limits::default());
            io.write_all(bytes).await.unwrap();
            let mut received = Vec::new();
            io.read_to_end(&mut received).await.unwrap();
            assert!(received.is_empty(), "{bytes:?}");
            assert!(world.now_nanos() <= at_most, "{bytes:?}");
            assert!(world.is_finished(server.task));
        });
    };
    check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0);
    check(b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 0);
    check(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 0);
    // Half a preface, or nothing at all, is waited for only so long.
    check(b"PRI * HTTP/2.0\r\n\r\nSM", 5 * SECOND);
    check(b"", 5 * SECOND);
}

#[test]
fn broken_http2_is_answered_with_its_error() {
    let world = World::default();
    world.clone().run(async move {
        // A frame of 16 KiB and a byte, then plain nonsense after the preface.
        let oversized = [&[0, 0x40, 1, 0, 0, 0, 0, 0, 1][..], &[0; 0x4001]].concat();
        for frame in [&oversized[..], b"GET / HTTP/1.1\r\n\r\n"] {
            let (server, mut io) = server(&world, Limits::default());
            let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            io.write_all(preface).await.unwrap();
            io.write_all(frame).await.unwrap();
            let mut received = Vec::new();
            io.read_to_end(&mut received).await.unwrap();
            // GOAWAY with FRAME_SIZE_ERROR stands at the end.
            let goaway = &received[received.len() - 17..];
            assert_eq!(goaway[3], 7);
            assert_eq!(goaway[16], 6);
            assert!(world.is_finished(server.task));
        }
    });
}

#[test]
fn a_frame_that_never_ends_is_given_up() {
    let world = World::default();
    world.clone().run(async move {
        let (server, mut io) = server(&world, Limits::default());
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        io.write_all(preface).await.unwrap();
        world.sleep(100 * SECOND).await;
        assert!(
            !world.is_finished(server.task),
            "silence between frames is allowed"
        );
        // A header block whose end never comes, drop by drop.
        io.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82])
            .await
            .unwrap();
        for _ in 0..3 {
            world.sleep(4 * SECOND).await;
            assert!(world.now_nanos() > 110 * SECOND || !world.is_finished(server.task));
            if io
                .write_all(&[0, 0, 1, 9, 0, 0, 0, 0, 1, 0x82])
                .await
                .is_err()
            {
                break;
            }
        }
        world.sleep(SECOND).await;
        assert!(world.is_finished(server.task));
    });
}

#[test]
fn a_message_that_never_ends_is_given_up() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(PUT, &[]), false).unwrap();
        stream
            .send_data(framed(&[0; 100]).slice(..50), false)
            .unwrap();
        let answer = answer(response).await.unwrap();
        let text = "grpc: the request did not arrive in time";
        assert_eq!(answer.status(), ("4".into(), text.into()));
        assert_eq!(world.now_nanos(), 60 * SECOND);
        assert_eq!(server.seen.started.get(), 0);
    });
}

/// A deadline has one text, and does not give a message more time than others have.
#[test]
fn a_deadline_passes_while_the_message_is_missing() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let expired = "context deadline exceeded";
        let late = "grpc: the request did not arrive in time";
        for (timeout, sent, seconds, text) in [
            ("0n", 0, 0, expired),
            ("0S", 105, 0, expired),
            ("5S", 0, 5, expired),
            ("5S", 50, 5, expired),
            ("1H", 50, 60, late),
        ] {
            let before = world.now_nanos();
            let put = request(PUT, &[("grpc-timeout", timeout)]);
            let mut sender = requests.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(put, false).unwrap();
            let message = framed(&[0; 100]).slice(..sent);
            stream.send_data(message, sent == 105).unwrap();
            let answer = answer(response).await.unwrap();
            assert_eq!(answer.status(), ("4".into(), text.into()), "{timeout}");
            assert_eq!(world.now_nanos() - before, seconds * SECOND, "{timeout}");
        }
        assert_eq!(server.seen.started.get(), 0);
    });
}

#[test]
fn unfinished_messages_share_a_budget() {
    let world = World::default();
    world.clone().run(async move {
        let limits = Limits {
            message_bytes_max: 100_000,
            ..Limits::default()
        };
        let (_server, io) = server(&world, limits);
        let (requests, _) = client(&world, io).await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            let mut sender = requests.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(request(PUT, &[]), false).unwrap();
            stream
                .send_data(framed(&[0; 100_000]).slice(..90_000), false)
                .unwrap();
            answers.push((response, stream));
            world.sleep(1000).await;
        }
        let (last, _stream) = answers.pop().unwrap();
        let text = "grpc: too many bytes of unfinished requests on this connection";
        assert_eq!(
            answer(last).await.unwrap().status(),
            ("8".into(), text.into())
        );
        let (first, mut stream) = answers.remove(0);
        stream
            .send_data(Bytes::from(vec![0; 10_005]), true)
            .unwrap();
        assert_eq!(answer(first).await.unwrap().body.len(), 100_005);
    });
}

#[test]
fn sane_pings_are_answered_and_never_punished() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (_requests, mut connection) = h2::client::handshake(io).await.unwrap();
        let mut pings = connection.ping_pong().unwrap();
        let task = world.spawn(async move { drop(connection.await) });
        for _ in 0..1000 {
            pings.ping(h2::Ping::opaque()).await.unwrap();
        }
        assert!(!world.is_finished(task));
    });
}

#[test]
fn a_silent_peer_is_pinged_and_a_dead_one_left() {
    let world = World::default();
    world.clone().run(async move {
        let limits = Limits {
            keepalive_interval: Duration::from_secs(100),
            ..Limits::default()
        };
        // A client that answers pings stays.
        let (alive, io) = server(&world, limits.clone());
        let (_requests, closed) = client(&world, io).await;
        world.sleep(1000 * SECOND).await;
        assert!(!closed.get());
        assert!(!world.is_finished(alive.task));
        // One that does not goes, an interval and the time for an answer after it was heard last.
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
        let window = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
        for heard_at in [0, 50, 99, 110] {
            let (dead, mut io) = server(&world, limits.clone());
            io.write_all(preface).await.unwrap();
            world.sleep(heard_at * SECOND).await;
            io.write_all(window).await.unwrap();
            world.sleep(119 * SECOND).await;
            assert!(!world.is_finished(dead.task), "heard at {heard_at} s");
            world.sleep(2 * SECOND).await;
            assert!(world.is_finished(dead.task), "heard at {heard_at} s");
        }
    });
}

#[test]
fn a_shutdown_lets_calls_finish_and_ends_the_rest() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, closed) = client(&world, io).await;
        let mut running = Vec::new();
        let paths = [
            TXN,
            RANGE,
            "/v3electionpb.Election/Observe",
            "/grpc.health.v1.Health/Watch",
        ];
        for path in paths {
            let mut sender = requests.clone().ready().await.unwrap();
            let (response, mut stream) = sender.send_request(request(path, &[]), false).unwrap();
            stream.send_data(framed(b"x"), true).unwrap();
            running.push(response);
        }
        world.sleep(1000).await;
        assert_eq!(server.seen.running.get(), 4);
        let before = world.now_nanos();
        server.shutdown.begin();
        world.sleep(100_000_000).await;
        server.seen.release();
        let mut running = running.into_iter();
        let stopped = ("14".to_owned(), "etcdserver: server stopped".to_owned());
        let finished = answer(running.next().unwrap()).await.unwrap();
        assert_eq!(finished.body, framed(b"x"));
        let cut = answer(running.next().unwrap()).await.unwrap();
        assert_eq!(cut.status(), stopped);
        assert_eq!(world.now_nanos() - before, SECOND / 2);
        assert_eq!(
            answer(running.next().unwrap()).await.unwrap().status(),
            stopped
        );
        assert_eq!(
            answer(running.next().unwrap()).await.unwrap().status(),
            stopped
        );
        world.sleep(SECOND).await;
        assert!(closed.get());
        assert!(world.is_finished(server.task));
    });
}

#[test]
fn an_idle_connection_ends_at_once_with_a_shutdown() {
    let world = World::default();
    world.clone().run(async move {
        let (http2, io) = server(&world, Limits::default());
        let (_requests, closed) = client(&world, io).await;
        let (unknown, _io) = server(&world, Limits::default());
        let (http1, mut io) = server(&world, Limits::default());
        io.write_all(b"GET /a HTTP/1.1\r\n\r\n").await.unwrap();
        world.sleep(1000).await;
        for server in [&http2, &unknown, &http1] {
            assert!(!world.is_finished(server.task));
            server.shutdown.begin();
        }
        world.sleep(1000).await;
        for server in [&http2, &unknown, &http1] {
            assert!(world.is_finished(server.task));
        }
        assert!(closed.get());
    });
}

/// What an HTTP/1 server answers to `sent`, read until it closes or `idle` passes.
fn http1(sent: &'static [u8]) -> String {
    let world = World::default();
    world.clone().run(async move {
        let (_server, mut io) = server(&world, Limits::default());
        for piece in sent.chunks(7) {
            if io.write_all(piece).await.is_err() {
                break;
            }
            world.sleep(1).await;
        }
        let mut received = Vec::new();
        let mut reading = pin!(io.read_to_end(&mut received));
        let mut timer = pin!(world.sleep(120 * SECOND));
        std::future::poll_fn(|cx| {
            if reading.as_mut().poll(cx).is_ready() {
                return std::task::Poll::Ready(());
            }
            timer.as_mut().poll(cx)
        })
        .await;
        String::from_utf8(received).unwrap()
    })
}

#[test]
fn http1_requests_are_answered_on_one_connection() {
    assert_eq!(
        http1(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
        "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nGET /version \
         HTTP/1.1 200 OK\r\ncontent-length: 11\r\nconnection: close\r\n\r\nPOST /x abc"
    );
    assert_eq!(
        http1(b"HEAD /version HTTP/1.0\r\n\r\n"),
        "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\n"
    );
    // Kept open until it is idle for too long.
    assert!(http1(b"GET / HTTP/1.1\r\n\r\n").ends_with("GET / "));
}

#[test]
fn http1_refusals_close_the_connection() {
    let check = |sent: &'static [u8], status: &str| {
        let received = http1(sent);
        assert!(
            received.starts_with(&format!("HTTP/1.1 {status}")),
            "{received}"
        );
        assert!(received.contains("connection: close\r\n"), "{received}");
    };
    check(b"GET / HTTP/9\r\n\r\n", "400");
    check(b"GET /\x01 HTTP/1.1\r\n\r\n", "400");
    check(b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc", "400");
    check(
        b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "400",
    );
    check(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "411",
    );
    check(
        b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        "413",
    );
}

#[test]
fn a_slow_http1_head_is_given_up() {
    let world = World::default();
    world.clone().run(async move {
        let (server, mut io) = server(&world, Limits::default());
        io.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        for _ in 0..4 {
            world.sleep(SECOND).await;
            io.write_all(b"a: b\r\n").await.unwrap();
        }
        world.sleep(2 * SECOND).await;
        assert!(world.is_finished(server.task));
    });
}

proptest! {
    #[test]
    fn no_bytes_make_a_connection_panic(
        preface in any::<bool>(),
        // Frames with plausible heads reach deeper than plain noise.
        frames in vec((0u8..11, any::<u8>(), 0u8..4, vec(any::<u8>(), 0..40)), 0..20),
        noise in vec(any::<u8>(), 0..60),
    ) {
        let mut bytes = Vec::new();
        if preface {
            bytes.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
            for (kind, flags, stream, payload) in frames {
                bytes.extend([0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream]);
                bytes.extend(payload);
            }
        }
        bytes.extend(noise);
        let world = World::default();
        world.clone().run(async move {
            let (server, mut io) = server(&world, Limits::default());
            for piece in bytes.chunks(17) {
                if io.write_all(piece).await.is_err() {
                    break;
                }
                world.sleep(1).await;
            }
            drop(io);
            world.sleep(100 * SECOND).await;
            assert!(world.is_finished(server.task));
            assert_eq!(server.seen.running.get(), 0);
        });
    }
}
