//! Answers that are sent while they are made.

mod support;

use grpc::Limits;
use support::{World, call, client, client_of, framed, request, server};

const PARTS: &str = "/etcdserverpb.Maintenance/HashKV";
const PUT: &str = "/etcdserverpb.KV/Put";
const SECOND: u64 = 1_000_000_000;

#[test]
fn parts_are_one_message() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        for [parts, buffers, kibibytes] in [[1, 1, 1], [3, 5, 7], [200, 3, 1]] {
            let asked = framed(&[parts, buffers, kibibytes, 0, 0]);
            let answer = call(&requests, request(PARTS, &[]), asked).await.unwrap();
            let bytes = usize::from(parts) * usize::from(buffers) * (usize::from(kibibytes) << 10);
            let expected = framed(&vec![parts; bytes]);
            assert!(answer.body == expected, "{} bytes", answer.body.len());
            assert_eq!(answer.status(), ("0".into(), String::new()));
            assert_eq!(answer.headers["content-type"], "application/grpc");
        }
        assert_eq!(server.seen.running.get(), 0);
    });
}

#[test]
fn an_answer_that_fails_in_the_middle_is_never_whole() {
    let world = World::default();
    world.clone().run(async move {
        let (_server, io) = server(&world, Limits::default());
        let (requests, _) = client(&world, io).await;
        let announced = |parts: u8| u32::from(parts) * 2048;
        // Damage before the first part: a refusal like any other.
        let first = call(&requests, request(PARTS, &[]), framed(&[4, 2, 1, 4, 1]));
        let first = first.await.unwrap();
        assert_eq!(
            first.status(),
            ("15".into(), "the middle is damaged".into())
        );
        assert!(first.body.is_empty() && first.trailers.is_empty());
        // Behind some.
        let cut = call(&requests, request(PARTS, &[]), framed(&[4, 2, 1, 1, 1]));
        let cut = cut.await.unwrap();
        assert_eq!(cut.status(), ("15".into(), "the middle is damaged".into()));
        assert_eq!(cut.body[1..5], announced(4).to_be_bytes());
        assert_eq!(cut.body.len(), 5 + 3 * 2048);
        // Shorter than announced, and longer: bugs of whoever measured, not answers.
        let short = call(&requests, request(PARTS, &[]), framed(&[4, 2, 1, 1, 0]));
        let short = short.await.unwrap();
        let text = "grpc: the message ended 2048 bytes before its end";
        assert_eq!(short.status(), ("13".into(), text.into()));
        let long = call(&requests, request(PARTS, &[]), framed(&[4, 2, 1, 0, 2]));
        let long = long.await.unwrap();
        let text = "grpc: the message is longer than announced";
        assert_eq!(long.status(), ("13".into(), text.into()));
        assert_eq!(long.body.len(), 5 + 4 * 2048);
    });
}

#[test]
fn a_reader_of_a_byte_per_second_makes_the_parts_wait() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let mut builder = h2::client::Builder::new();
        // Room that comes byte by byte is filled by frames of one byte, which this client does not mind.
        builder
            .initial_window_size(64 << 10)
            .initial_connection_window_size(1 << 20)
            .data_frame_budget(16 << 20);
        let (requests, _) = client_of(&world, io, &builder).await;
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(PARTS, &[]), false).unwrap();
        // 200 parts of 64 KiB.
        stream.send_data(framed(&[200, 8, 8, 0, 0]), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut taken = 0;
        for _ in 0..300 {
            world.sleep(SECOND).await;
            if taken == 0 {
                taken = body.data().await.unwrap().unwrap().len();
            }
            body.flow_control().release_capacity(1).unwrap();
            taken -= 1;
        }
        let sent = server.seen.sent.get();
        assert!(sent <= 3, "{sent} parts were made for 300 bytes");
        // Others on the connection are served meanwhile.
        let other = call(&requests, request(PUT, &[]), framed(b"x"))
            .await
            .unwrap();
        assert_eq!(other.body, framed(b"x"));
        assert_eq!(server.seen.running.get(), 1);
        // It goes away: nothing is left of what it asked for.
        drop(body);
        drop(stream);
        world.sleep(SECOND).await;
        assert_eq!(server.seen.running.get(), 0);
        assert_eq!(server.seen.sent.get(), sent);
    });
}

#[test]
fn a_client_that_cuts_the_connection_ends_its_parts() {
    let world = World::default();
    world.clone().run(async move {
        let (server, io) = server(&world, Limits::default());
        let (requests, closed) = client(&world, io).await;
        let mut sender = requests.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request(PARTS, &[]), false).unwrap();
        stream.send_data(framed(&[200, 8, 8, 0, 0]), true).unwrap();
        world.sleep(SECOND).await;
        assert_eq!(server.seen.running.get(), 1);
        drop((response, stream, sender, requests));
        world.sleep(SECOND).await;
        assert!(closed.get());
        assert_eq!(server.seen.running.get(), 0);
    });
}
