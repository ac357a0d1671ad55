//! Listeners and streams.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use reactor::{Address, Class, Listener, Stream, World};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Scratch, both};

both!(
    echoes_over_tcp,
    echoes_over_a_unix_socket,
    echoes_on_a_thousand_connections,
    transfers_much_both_ways,
    closes_one_half,
    sees_a_reset,
    a_dropped_stream_delivers_what_was_written,
    a_slow_reader_stops_the_writer,
    a_dropped_accept_loses_no_connection,
    connections_wait_until_they_are_accepted,
    a_refused_connection_is_an_error,
    a_cancelled_connection_attempt_ends,
    the_socket_file_of_a_dead_listener_is_replaced,
    vectored_writes_keep_their_order,
    lends_received_bytes,
    a_reader_that_goes_away_leaves_the_core_in_order,
);

async fn listen(world: &World) -> Rc<Listener> {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Rc::new(world.listen(&any.into()).await.unwrap())
}

fn tcp(listener: &Listener) -> SocketAddr {
    match listener.local_address() {
        Address::Tcp(address) => *address,
        other => panic!("{other} is not a TCP address"),
    }
}

/// Answers each connection with its own bytes until it closes its half.
fn spawn_echo(world: &World, listener: Rc<Listener>) {
    let clone = world.clone();
    world.spawn(Class::Request, async move {
        loop {
            let mut stream = listener.accept().await.unwrap();
            clone.spawn(Class::Request, async move {
                let mut buffer = vec![0; 32 << 10];
                loop {
                    match stream.read(&mut buffer).await {
                        Ok(0) => break,
                        Ok(count) => {
                            if stream.write_all(&buffer[..count]).await.is_err() {
                                return;
                            }
                        }
                        Err(_) => return,
                    }
                }
                stream.close().await.ok();
            });
        }
    });
}

async fn round_trip(stream: &mut Stream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, bytes);
}

async fn echoes_over_tcp(world: World) {
    let listener = listen(&world).await;
    let address = listener.local_address().clone();
    assert_ne!(tcp(&listener).port(), 0);
    spawn_echo(&world, listener);
    let mut stream = world.connect(&address).await.unwrap();
    assert_eq!(*stream.peer_address(), address);
    for length in [1, 10, 1000, 100_000] {
        round_trip(&mut stream, &vec![length as u8; length]).await;
    }
}

async fn echoes_over_a_unix_socket(world: World) {
    let scratch = Scratch::in_dir(std::path::Path::new("/tmp"));
    let address = Address::Unix(scratch.join("s"));
    let listener = Rc::new(world.listen(&address).await.unwrap());
    assert_eq!(*listener.local_address(), address);
    spawn_echo(&world, listener);
    let mut stream = world.connect(&address).await.unwrap();
    round_trip(&mut stream, b"over a path").await;
}

async fn echoes_on_a_thousand_connections(world: World) {
    raise_descriptor_limit();
    let listener = listen(&world).await;
    let address = listener.local_address().clone();
    spawn_echo(&world, listener);
    let mut tasks = Vec::new();
    for number in 0..1000u32 {
        let (world_of_task, address) = (world.clone(), address.clone());
        tasks.push(world.spawn_joinable(Class::Request, async move {
            let mut stream = world_of_task.connect(&address).await.unwrap();
            for round in 0..5 {
                round_trip(&mut stream, format!("{number}:{round}").as_bytes()).await;
            }
            stream
        }));
    }
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(task.await.unwrap());
    }
    // All at once, while all are open.
    for stream in &mut streams {
        stream.write_all(&[7; 300]).await.unwrap();
    }
    for stream in &mut streams {
        let mut answer = [0; 300];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [7; 300]);
    }
}

fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the result.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(result, 0);
    limit.rlim_cur = limit.rlim_max.min(20_000);
    // SAFETY: `limit` is a valid value.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(result, 0);
}

/// Byte `position` of a long reproducible stream.
fn byte_at(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 13) as u8
}

async fn transfers_much_both_ways(world: World) {
    const BYTES: usize = 24 << 20;
    let listener = listen(&world).await;
    let address = listener.local_address().clone();
    spawn_echo(&world, listener);
    let stream = world.connect(&address).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let writer = world.spawn_joinable(Class::Request, async move {
        let bytes: Vec<u8> = (0..BYTES).map(byte_at).collect();
        for piece in bytes.chunks(77_777) {
            writing.write_all(piece).await.unwrap();
        }
        writing.shutdown().await.unwrap();
    });
    let mut position = 0;
    let mut buffer = vec![0; 50_000];
    loop {
        let count = reading.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        for (index, &byte) in buffer[..count].iter().enumerate() {
            assert_eq!(byte, byte_at(position + index), "byte {}", position + index);
        }
        position += count;
    }
    assert_eq!(position, BYTES);
    writer.await.unwrap();
}

async fn closes_one_half(world: World) {
    let listener = listen(&world).await;
    let mut client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let mut server = listener.accept().await.unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    assert_eq!(
        server.read(&mut [0; 8]).await.unwrap(),
        0,
        "the end is seen again"
    );
    server.write_all(b"answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

async fn sees_a_reset(world: World) {
    let listener = listen(&world).await;
    let client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let mut server = listener.accept().await.unwrap();
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the pointer and length describe `at_once`.
    let result = unsafe {
        let pointer = (&raw const at_once).cast();
        let length = size_of::<libc::linger>() as libc::socklen_t;
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            pointer,
            length,
        )
    };
    assert_eq!(result, 0);
    drop(client);
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // A write is taken at first; its failure is reported by a later one.
    let failed = world.timeout(Duration::from_secs(10), async {
        loop {
            if let Err(error) = server.write_all(b"too late").await {
                return error;
            }
            world.sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(failed.await.unwrap().kind(), ErrorKind::BrokenPipe);
}

async fn a_dropped_stream_delivers_what_was_written(world: World) {
    let listener = listen(&world).await;
    let mut client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let mut server = listener.accept().await.unwrap();
    server.write_all(&vec![5; 100_000]).await.unwrap();
    drop(server);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all)
    });
    while !reader.is_finished() {
        world.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(reader.join().unwrap().unwrap(), vec![5; 100_000]);
}

async fn a_slow_reader_stops_the_writer(world: World) {
    let listener = listen(&world).await;
    let client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let mut server = listener.accept().await.unwrap();
    let forever = async {
        loop {
            server.write_all(&[0; 4096]).await.unwrap();
        }
    };
    let stopped: Result<(), _> = world.timeout(Duration::from_millis(300), forever).await;
    assert!(stopped.is_err());
    assert!(
        server.unsent_bytes() <= 128 << 10,
        "{}",
        server.unsent_bytes()
    );
    drop(client);
}

async fn a_dropped_accept_loses_no_connection(world: World) {
    let listener = listen(&world).await;
    let mut clients = Vec::new();
    for number in 0..50u8 {
        // An accept that is polled and dropped, sometimes after the connection has come.
        let short = Duration::from_micros(u64::from(number % 5) * 200);
        let attempt = world.timeout(short, listener.accept());
        let mut client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
        client.write_all(&[number]).unwrap();
        let early = attempt.await;
        clients.push((client, early.ok()));
    }
    let mut seen = Vec::new();
    for (_, early) in &mut clients {
        let mut stream = match early.take() {
            Some(accepted) => accepted.unwrap(),
            None => {
                let accepted = world
                    .timeout(Duration::from_secs(10), listener.accept())
                    .await;
                accepted.expect("no connection is lost").unwrap()
            }
        };
        seen.push(stream.read_u8().await.unwrap());
    }
    seen.sort();
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
}

async fn connections_wait_until_they_are_accepted(world: World) {
    let listener = listen(&world).await;
    // Starts the multishot accept, then leaves more connections waiting than are taken in advance.
    let none = world
        .timeout(Duration::from_millis(1), listener.accept())
        .await;
    assert!(none.is_err());
    let clients: Vec<_> = (0..200)
        .map(|_| std::net::TcpStream::connect(tcp(&listener)).unwrap())
        .collect();
    world.sleep(Duration::from_millis(20)).await;
    for _ in &clients {
        let accepted = world
            .timeout(Duration::from_secs(10), listener.accept())
            .await;
        drop(accepted.expect("every connection is accepted").unwrap());
    }
    let more = world
        .timeout(Duration::from_millis(20), listener.accept())
        .await;
    assert!(more.is_err());
    let late = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let accepted = world
        .timeout(Duration::from_secs(10), listener.accept())
        .await;
    accepted.unwrap().unwrap();
    drop(late);
}

async fn a_refused_connection_is_an_error(world: World) {
    let listener = listen(&world).await;
    let address = listener.local_address().clone();
    drop(listener);
    let error = world.timeout(Duration::from_secs(5), async {
        loop {
            // The listener closes in the background.
            if let Err(error) = world.connect(&address).await {
                return error;
            }
        }
    });
    assert_eq!(error.await.unwrap().kind(), ErrorKind::ConnectionRefused);
    let missing = world
        .connect(&Address::Unix("/nonexistent/socket".into()))
        .await;
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
}

async fn a_cancelled_connection_attempt_ends(world: World) {
    // A listener whose queue is full: further attempts hang.
    let full = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: listen(2) takes no pointers.
    assert_eq!(unsafe { libc::listen(full.as_raw_fd(), 0) }, 0);
    let address: Address = full.local_addr().unwrap().into();
    let mut connected = Vec::new();
    for _ in 0..5 {
        let attempt = world
            .timeout(Duration::from_millis(30), world.connect(&address))
            .await;
        connected.extend(attempt.ok());
    }
    assert!(connected.len() < 5, "the queue never filled");
}

async fn the_socket_file_of_a_dead_listener_is_replaced(world: World) {
    let scratch = Scratch::in_dir(std::path::Path::new("/tmp"));
    let path = scratch.join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let address = Address::Unix(path.clone());
    let listener = world.listen(&address).await.unwrap();
    let taken = world.listen(&address).await.err().unwrap();
    assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    drop(listener);
    let gone = async {
        while path.exists() {
            world.sleep(Duration::from_millis(1)).await;
        }
    };
    world
        .timeout(Duration::from_secs(5), gone)
        .await
        .expect("the file goes with the listener");
}

async fn vectored_writes_keep_their_order(world: World) {
    let listener = listen(&world).await;
    let mut client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let mut server = listener.accept().await.unwrap();
    let count = std::future::poll_fn(|context| {
        let slices = [
            IoSlice::new(b"one "),
            IoSlice::new(b""),
            IoSlice::new(b"two"),
        ];
        Pin::new(&mut server).poll_write_vectored(context, &slices)
    })
    .await
    .unwrap();
    assert_eq!(count, 7);
    server.write_all(b" three").await.unwrap();
    server.close().await.unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "one two three");
}

async fn lends_received_bytes(world: World) {
    let listener = listen(&world).await;
    let mut client = std::net::TcpStream::connect(tcp(&listener)).unwrap();
    let mut server = listener.accept().await.unwrap();
    client.write_all(b"abcdef").unwrap();
    assert_eq!(&server.fill_buf().await.unwrap()[..2], b"ab");
    server.consume(2);
    let mut rest = [0; 4];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"cdef");
    drop(client);
    assert!(server.fill_buf().await.unwrap().is_empty());
}

async fn a_reader_that_goes_away_leaves_the_core_in_order(world: World) {
    let listener = listen(&world).await;
    let address = tcp(&listener);
    for _ in 0..300 {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let mut server = listener.accept().await.unwrap();
        // A receive in flight when the stream is dropped, with bytes on the way.
        std::future::poll_fn(|context| {
            let mut bytes = [0; 8];
            let mut buffer = tokio::io::ReadBuf::new(&mut bytes);
            let read = tokio::io::AsyncRead::poll_read(Pin::new(&mut server), context, &mut buffer);
            assert!(read.is_pending());
            Poll::Ready(())
        })
        .await;
        client.write_all(b"late").unwrap();
        drop(server);
        let mut rest = Vec::new();
        world.yield_now().await;
        let reader = std::thread::spawn(move || client.read_to_end(&mut rest).map(drop));
        while !reader.is_finished() {
            world.sleep(Duration::from_micros(200)).await;
        }
        // The peer sees the end, or a reset because its bytes were not read.
        let _ended = reader.join().unwrap();
    }
}
