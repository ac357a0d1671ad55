//! What a connection costs that only stands there. Alone in its process, because it looks at the
//! process's memory.

mod support;

use grpc::Limits;
use support::{World, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CONNECTIONS: usize = 4000;
const BYTES_PER_CONNECTION_MAX: usize = 20 * 1024;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<usize>().unwrap() * 1024
}

#[test]
fn an_idle_connection_costs_little() {
    let world = World::default();
    world.clone().run(async move {
        let before = resident_bytes();
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let (server, mut io) = server(&world, Limits::default());
            // Preface, empty settings, and the acknowledgement of the server's.
            io.write_all(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0",
            )
            .await
            .unwrap();
            world.sleep(1000).await;
            let mut greeting = [0; 256];
            let count = io.read(&mut greeting).await.unwrap();
            assert!(count > 9);
            connections.push((server, io));
        }
        let per_connection = (resident_bytes() - before) / CONNECTIONS;
        println!("{per_connection} bytes per idle connection, both ends of its pipe included");
        assert!(
            per_connection <= BYTES_PER_CONNECTION_MAX,
            "{per_connection}"
        );
        assert!(
            connections
                .iter()
                .all(|(server, _)| !world.is_finished(server.task))
        );
    });
}
