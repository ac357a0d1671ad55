//! Endpoints from DNS: the SRV records `_etcd-client-ssl._tcp` and `_etcd-client._tcp` of a domain.
//!
//! ```text
//! id:u16 flags:u16 questions:u16 answers:u16 authorities:u16 additions:u16
//! question: name type:u16 class:u16
//! answer:   name type:u16 class:u16 ttl:u32 length:u16 data
//! SRV data: priority:u16 weight:u16 port:u16 name
//! name:     (length:u8 label)* 0, or two bytes 11xxxxxx xxxxxxxx that point to the rest of a name
//! ```

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

const RESOLVER_FILE: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// How long a name server may take, and how often each is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Bytes of the largest answer over UDP.
const ANSWER_BYTES_MAX: usize = 65_535;
const HEADER_BYTES: usize = 12;
const TYPE_SRV: u16 = 33;
const CLASS_INTERNET: u16 = 1;
const RECURSION_DESIRED: u16 = 0x0100;
/// Pointers in one name; more is a loop.
const POINTERS_MAX: usize = 64;

/// The endpoints of a domain; `service` is put behind the service name.
///
/// # Errors
/// No name server answers, or there are no such records.
pub(crate) async fn endpoints(domain: &str, service: &str) -> Result<Vec<String>, String> {
    let servers = name_servers(&fs::read_to_string(RESOLVER_FILE).unwrap_or_default());
    find(domain, service, &servers).await
}

async fn find(domain: &str, service: &str, servers: &[SocketAddr]) -> Result<Vec<String>, String> {
    let behind = if service.is_empty() {
        String::new()
    } else {
        format!("-{service}")
    };
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for (scheme, name) in [("https", "etcd-client-ssl"), ("http", "etcd-client")] {
        let name = format!("_{name}{behind}._tcp.{domain}");
        match ask(&name, servers).await {
            Ok(targets) => found.extend(
                targets
                    .iter()
                    .map(|(host, port)| format!("{scheme}://{host}:{port}")),
            ),
            Err(error) => errors.push(format!(
                "error querying DNS SRV records for {name}: {error}"
            )),
        }
    }
    if found.is_empty() {
        Err(errors.join("; "))
    } else {
        Ok(found)
    }
}

fn name_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next()?.parse::<IpAddr>().ok())
            .flatten()
    });
    addresses
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

async fn ask(name: &str, servers: &[SocketAddr]) -> Result<Vec<(String, u16)>, String> {
    let id = std::process::id() as u16;
    let question = question(id, name).ok_or("it is no domain name")?;
    let mut last = format!("no name server in {RESOLVER_FILE}");
    for server in servers.iter().cycle().take(servers.len() * ROUNDS) {
        match timeout(PATIENCE, exchange(server, &question)).await {
            Ok(Ok(answer)) => match targets(id, &answer) {
                Ok(targets) if targets.is_empty() => return Err("no such record".to_owned()),
                Ok(targets) => return Ok(targets),
                Err(error) => last = format!("{server}: {error}"),
            },
            Ok(Err(error)) => last = format!("{server}: {error}"),
            Err(_) => last = format!("{server}: no answer within {PATIENCE:?}"),
        }
    }
    Err(last)
}

async fn exchange(server: &SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let local = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; ANSWER_BYTES_MAX];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&TYPE_SRV.to_be_bytes());
    bytes.extend_from_slice(&CLASS_INTERNET.to_be_bytes());
    Some(bytes)
}

/// The targets in an answer, the most wanted first.
fn targets(id: u16, answer: &[u8]) -> Result<Vec<(String, u16)>, &'static str> {
    const CUT: &str = "the answer is cut";
    let word = |at: usize| {
        answer
            .get(at..at + 2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let head = |index: usize| word(2 * index).ok_or(CUT);
    if head(0)? != id {
        return Err("the answer belongs to another question");
    }
    match head(1)? & 0x000f {
        0 => {}
        3 => return Ok(Vec::new()),
        _ => return Err("the name server reports an error"),
    }
    let mut at = HEADER_BYTES;
    for _ in 0..head(2)? {
        at = name_at(answer, at)?.1 + 4;
    }
    let mut targets = Vec::new();
    for _ in 0..head(3)? {
        at = name_at(answer, at)?.1;
        let (kind, length) = (word(at).ok_or(CUT)?, word(at + 8).ok_or(CUT)?);
        let data = at + 10;
        if kind == TYPE_SRV {
            let (priority, port) = (word(data).ok_or(CUT)?, word(data + 4).ok_or(CUT)?);
            let (host, _) = name_at(answer, data + 6)?;
            targets.push((priority, host, port));
        }
        at = data + usize::from(length);
    }
    targets.sort_by_key(|(priority, ..)| *priority);
    Ok(targets
        .into_iter()
        .map(|(_, host, port)| (host, port))
        .collect())
}

/// The name at `at`, and the place behind it.
fn name_at(answer: &[u8], mut at: usize) -> Result<(String, usize), &'static str> {
    const CUT: &str = "a name is cut";
    let mut labels = Vec::new();
    let mut behind = None;
    let mut pointers = 0;
    loop {
        let length = *answer.get(at).ok_or(CUT)?;
        match length {
            0 => return Ok((labels.join("."), behind.unwrap_or(at + 1))),
            1..64 => {
                let label = answer
                    .get(at + 1..at + 1 + usize::from(length))
                    .ok_or(CUT)?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
            192.. => {
                let low = *answer.get(at + 1).ok_or(CUT)?;
                behind.get_or_insert(at + 2);
                at = usize::from(length & 63) << 8 | usize::from(low);
                pointers += 1;
                if pointers > POINTERS_MAX {
                    return Err("a name points in circles");
                }
            }
            64..192 => return Err("a name has a label of an unknown kind"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with targets `a.x` and `b.x` whose names point into the question.
    fn answer(question: &[u8]) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[7] = 2;
        let domain = (question.len() - 4 - 3) as u8;
        for (priority, port, label) in [(20u8, 1u8, b'b'), (10, 2, b'a')] {
            bytes.extend_from_slice(&[192, 12, 0, 33, 0, 1, 0, 0, 0, 0, 0, 10]);
            bytes.extend_from_slice(&[0, priority, 0, 0, 0, port, 1, label, 192, domain]);
        }
        bytes
    }

    #[test]
    fn answers_are_read_in_the_order_of_their_priority() {
        let question = question(7, "_etcd-client._tcp.x").unwrap();
        let expected = vec![("a.x".to_owned(), 2), ("b.x".to_owned(), 1)];
        assert_eq!(targets(7, &answer(&question)), Ok(expected));
        assert!(targets(8, &answer(&question)).is_err());
    }

    #[test]
    fn no_answer_panics_when_it_is_cut_or_changed() {
        let whole = answer(&question(7, "_etcd-client._tcp.x").unwrap());
        for length in 0..whole.len() {
            targets(7, &whole[..length]).ok();
        }
        for at in 0..whole.len() {
            for value in [0, 1, 63, 64, 192, 255] {
                let mut changed = whole.clone();
                changed[at] = value;
                targets(7, &changed).ok();
            }
        }
        // A name that points to itself.
        assert!(name_at(&[192, 0], 0).is_err());
    }

    #[test]
    fn a_name_server_is_asked_for_both_services() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let found = runtime.block_on(async {
            let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = server.local_addr().unwrap();
            let serve = async {
                for _ in 0..2 {
                    let mut question = vec![0; 512];
                    let (length, client) = server.recv_from(&mut question).await.unwrap();
                    let mut reply = answer(&question[..length]);
                    if reply.windows(3).any(|bytes| bytes == b"ssl") {
                        reply[3] |= 3;
                    }
                    server.send_to(&reply, client).await.unwrap();
                }
            };
            let servers = [address];
            tokio::join!(serve, find("x", "", &servers)).1
        });
        assert_eq!(found.unwrap(), ["http://a.x:2", "http://b.x:1"]);
    }

    #[test]
    fn name_servers_come_from_the_file() {
        let servers =
            name_servers("# x\nnameserver 10.0.0.1\nsearch y\nnameserver ::1\nnameserver z\n");
        assert_eq!(
            servers,
            ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]
        );
    }
}
