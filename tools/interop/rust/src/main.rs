//! Runs the crate `etcd-client` against a server: `scenarios HOST:PORT`.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions,
    LeaseTimeToLiveOptions, LockOptions, ProclaimOptions, PutOptions, ResignOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchFilterType, WatchOptions, WatchResponse,
    WatchStream,
};

const LIMIT: Duration = Duration::from_secs(15);

type Outcome = Result<(), Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(endpoint) = std::env::args().nth(1) else {
        eprintln!("usage: scenarios HOST:PORT");
        return ExitCode::from(2);
    };
    let client = match Client::connect([endpoint], None).await {
        Ok(client) => client,
        Err(error) => {
            eprintln!("cannot connect: {error}");
            return ExitCode::FAILURE;
        }
    };
    // An assertion that fails ends the program; its text names the scenario's line.
    let outcome = tokio::time::timeout(4 * LIMIT, scenarios(client)).await;
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("FAILED: a scenario hangs");
            ExitCode::FAILURE
        }
    }
}

async fn scenarios(mut client: Client) -> Outcome {
    key_values(&mut client).await?;
    println!("ok     key_values");
    errors(&mut client).await?;
    println!("ok     errors");
    transactions(&mut client).await?;
    println!("ok     transactions");
    watches(&mut client).await?;
    println!("ok     watches");
    compacted_watch(&mut client).await?;
    println!("ok     compacted_watch");
    leases(&mut client).await?;
    println!("ok     leases");
    locks(&mut client).await?;
    println!("ok     locks");
    contenders(&mut client).await?;
    println!("ok     contenders");
    elections(&mut client).await?;
    println!("ok     elections");
    maintenance(&mut client).await?;
    println!("ok     maintenance");
    Ok(())
}

async fn clear(client: &mut Client, prefix: &str) -> Outcome {
    client
        .delete(prefix, Some(DeleteOptions::new().with_prefix()))
        .await?;
    Ok(())
}

async fn put(client: &mut Client, key: &str, value: &str) -> Result<i64, Error> {
    let answer = client.put(key, value, None).await?;
    Ok(answer.header().map_or(0, |header| header.revision()))
}

async fn value(client: &mut Client, key: &str) -> Result<Option<String>, Error> {
    let answer = client.get(key, None).await?;
    Ok(answer
        .kvs()
        .first()
        .map(|kv| String::from_utf8_lossy(kv.value()).into_owned()))
}

async fn key_values(client: &mut Client) -> Outcome {
    clear(client, "rs/kv/").await?;
    let first = put(client, "rs/kv/a", "1").await?;
    let options = PutOptions::new().with_prev_key();
    let mut answer = client.put("rs/kv/a", "2", Some(options)).await?;
    assert_eq!(answer.take_prev_key().unwrap().value(), b"1");
    put(client, "rs/kv/b", "3").await?;
    put(client, "rs/kv/c", "4").await?;

    let options = GetOptions::new()
        .with_prefix()
        .with_limit(2)
        .with_sort(SortTarget::Key, SortOrder::Descend);
    let page = client.get("rs/kv/", Some(options)).await?;
    assert!(page.more());
    assert_eq!(page.count(), 3);
    assert_eq!(page.kvs()[0].key(), b"rs/kv/c");

    let options = GetOptions::new().with_revision(first);
    let old = client.get("rs/kv/a", Some(options)).await?;
    assert_eq!(old.kvs()[0].value(), b"1");
    assert_eq!(old.kvs()[0].version(), 1);

    let options = GetOptions::new().with_prefix().with_count_only();
    assert_eq!(client.get("rs/kv/", Some(options)).await?.count(), 3);
    let options = GetOptions::new().with_prefix().with_keys_only();
    assert!(
        client.get("rs/kv/", Some(options)).await?.kvs()[0]
            .value()
            .is_empty()
    );
    let options = GetOptions::new().with_serializable();
    assert_eq!(client.get("rs/kv/a", Some(options)).await?.kvs().len(), 1);

    let options = DeleteOptions::new().with_prefix().with_prev_key();
    let deleted = client.delete("rs/kv/", Some(options)).await?;
    assert_eq!(deleted.deleted(), 3);
    assert_eq!(deleted.prev_kvs()[2].value(), b"4");
    assert_eq!(client.delete("rs/kv/a", None).await?.deleted(), 0);
    Ok(())
}

/// The gRPC code and text of an error.
fn status(error: Error) -> (i32, String) {
    match error {
        Error::GRpcStatus(status) => (status.code() as i32, status.message().to_owned()),
        other => panic!("not a status: {other}"),
    }
}

async fn errors(client: &mut Client) -> Outcome {
    let check = |error: Error, code: i32, text: &str| {
        assert_eq!(status(error), (code, text.to_owned()));
    };
    let error = client.put("", "x", None).await.unwrap_err();
    check(error, 3, "etcdserver: key is not provided");
    let future = GetOptions::new().with_revision(1 << 40);
    let error = client.get("rs/a", Some(future)).await.unwrap_err();
    check(
        error,
        11,
        "etcdserver: mvcc: required revision is a future revision",
    );
    let leased = PutOptions::new().with_lease(77);
    let error = client.put("rs/a", "x", Some(leased)).await.unwrap_err();
    check(error, 5, "etcdserver: requested lease not found");
    let error = client.lease_revoke(77).await.unwrap_err();
    check(error, 5, "etcdserver: requested lease not found");
    let large = vec![b'v'; 1_572_864];
    let error = client.put("rs/a", large, None).await.unwrap_err();
    check(error, 3, "etcdserver: request is too large");
    Ok(())
}

async fn transactions(client: &mut Client) -> Outcome {
    clear(client, "rs/txn/").await?;
    let modified = put(client, "rs/txn/a", "1").await?;
    let transaction = |revision: i64, new: &str| {
        Txn::new()
            .when([Compare::mod_revision(
                "rs/txn/a",
                CompareOp::Equal,
                revision,
            )])
            .and_then([
                TxnOp::put("rs/txn/a", new, None),
                TxnOp::get("rs/txn/", Some(GetOptions::new().with_prefix())),
            ])
            .or_else([TxnOp::get("rs/txn/a", None)])
    };
    let answer = client.txn(transaction(modified, "2")).await?;
    assert!(answer.succeeded());
    let responses = answer.op_responses();
    let TxnOpResponse::Get(seen) = &responses[1] else {
        panic!("{responses:?}");
    };
    assert_eq!(seen.kvs()[0].value(), b"2");
    assert_eq!(seen.kvs()[0].mod_revision(), modified + 1);

    let answer = client.txn(transaction(modified, "3")).await?;
    assert!(!answer.succeeded());
    let responses = answer.op_responses();
    let TxnOpResponse::Get(seen) = &responses[0] else {
        panic!("{responses:?}");
    };
    assert_eq!(seen.kvs()[0].value(), b"2");

    let nested = Txn::new().and_then([
        TxnOp::txn(
            Txn::new()
                .when([Compare::value("rs/txn/a", CompareOp::NotEqual, "2")])
                .or_else([TxnOp::delete("rs/txn/a", None)]),
        ),
        TxnOp::put("rs/txn/b", "nested", None),
    ]);
    assert!(client.txn(nested).await?.succeeded());
    assert_eq!(value(client, "rs/txn/a").await?, None);
    assert_eq!(value(client, "rs/txn/b").await?.as_deref(), Some("nested"));
    Ok(())
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, Error> {
    let answer = tokio::time::timeout(LIMIT, stream.message())
        .await
        .expect("a watch stays silent")?;
    Ok(answer.expect("a watch stream ended"))
}

async fn watches(client: &mut Client) -> Outcome {
    clear(client, "rs/watch/").await?;
    let options = WatchOptions::new()
        .with_prefix()
        .with_prev_key()
        .with_watch_id(7);
    let mut stream = client.watch("rs/watch/", Some(options)).await?;
    let created = next(&mut stream).await?;
    assert!(created.created() && !created.canceled() && created.events().is_empty());
    assert_eq!(created.watch_id(), 7);

    let first = put(client, "rs/watch/a", "1").await?;
    put(client, "rs/watch/a", "2").await?;
    client.delete("rs/watch/a", None).await?;
    let mut events = Vec::new();
    while events.len() < 3 {
        events.extend_from_slice(next(&mut stream).await?.events());
    }
    assert_eq!(events[0].event_type(), EventType::Put);
    assert!(events[0].prev_kv().is_none());
    assert_eq!(events[1].prev_kv().unwrap().value(), b"1");
    assert_eq!(events[2].event_type(), EventType::Delete);
    assert_eq!(events[2].prev_kv().unwrap().value(), b"2");
    assert_eq!(events[2].kv().unwrap().mod_revision(), first + 2);

    stream.request_progress().await?;
    let progress = next(&mut stream).await?;
    assert!(progress.events().is_empty());
    assert_eq!(progress.watch_id(), -1);
    assert!(progress.header().unwrap().revision() >= first + 2);

    // A second watch on the same stream, from the past, without deletes.
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(first)
        .with_filters([WatchFilterType::NoDelete])
        .with_watch_id(8);
    stream.watch("rs/watch/", Some(options)).await?;
    let mut past = Vec::new();
    let created = next(&mut stream).await?;
    assert!(created.created());
    while past.len() < 2 {
        past.extend_from_slice(next(&mut stream).await?.events());
    }
    assert_eq!(past[1].kv().unwrap().value(), b"2");

    stream.cancel(7).await?;
    let canceled = next(&mut stream).await?;
    assert!(canceled.canceled());
    assert_eq!(canceled.watch_id(), 7);
    put(client, "rs/watch/b", "3").await?;
    let live = next(&mut stream).await?;
    assert_eq!(live.watch_id(), 8);
    assert_eq!(live.events()[0].kv().unwrap().value(), b"3");
    Ok(())
}

async fn compacted_watch(client: &mut Client) -> Outcome {
    let first = put(client, "rs/compacted", "1").await?;
    let second = put(client, "rs/compacted", "2").await?;
    client.compact(second, None).await?;
    let options = WatchOptions::new().with_start_revision(first);
    let mut stream = client.watch("rs/compacted", Some(options)).await?;
    let mut answer = next(&mut stream).await?;
    if answer.created() && !answer.canceled() {
        answer = next(&mut stream).await?;
    }
    assert!(answer.canceled());
    assert_eq!(answer.compact_revision(), second);
    let options = GetOptions::new().with_revision(first);
    let error = client.get("rs/compacted", Some(options)).await.unwrap_err();
    let text = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(status(error), (11, text.to_owned()));
    Ok(())
}

async fn leases(client: &mut Client) -> Outcome {
    let lease = client.lease_grant(600, None).await?.id();
    let options = || Some(PutOptions::new().with_lease(lease));
    client.put("rs/lease/a", "1", options()).await?;
    client.put("rs/lease/b", "2", options()).await?;
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let answer = client.lease_time_to_live(lease, Some(options)).await?;
    assert_eq!(answer.granted_ttl(), 600);
    assert!(answer.ttl() > 590);
    assert_eq!(answer.keys().len(), 2);
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await?;
    for _ in 0..3 {
        keeper.keep_alive().await?;
        let answer = answers
            .message()
            .await?
            .expect("the keep-alive stream ended");
        assert_eq!((answer.id(), answer.ttl()), (lease, 600));
    }
    let listed = client.leases().await?;
    assert!(listed.leases().iter().any(|entry| entry.id() == lease));
    client.lease_revoke(lease).await?;
    assert_eq!(value(client, "rs/lease/a").await?, None);

    let short = client.lease_grant(2, None).await?.id();
    let options = PutOptions::new().with_lease(short);
    client.put("rs/lease/c", "3", Some(options)).await?;
    let begin = Instant::now();
    while value(client, "rs/lease/c").await?.is_some() {
        assert!(begin.elapsed() < LIMIT, "a lease of 2 s does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        begin.elapsed() > Duration::from_millis(1500),
        "expired early"
    );
    Ok(())
}

/// So many wait for one lock at once.
const CONTENDERS: usize = 1000;

async fn session(client: &mut Client) -> Result<i64, Error> {
    Ok(client.lease_grant(600, None).await?.id())
}

async fn locks(client: &mut Client) -> Outcome {
    let (first, second) = (session(client).await?, session(client).await?);
    let held = |lease| Some(LockOptions::new().with_lease(lease));
    let answer = client.lock("rs/lock", held(first)).await?;
    let key = answer.key().to_vec();
    assert!(
        value(client, std::str::from_utf8(&key).unwrap())
            .await?
            .is_some()
    );
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.lock("rs/lock", held(second)).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "two hold one lock");
    // A session that is lost hands over as well as an unlock.
    client.lease_revoke(first).await?;
    let answer = tokio::time::timeout(LIMIT, waiting).await;
    let answer = answer.expect("no hand-over").expect("no panic")?;
    client.unlock(answer.key()).await?;
    let prefix = GetOptions::new().with_prefix();
    assert_eq!(client.get("rs/lock/", Some(prefix)).await?.count(), 0);
    Ok(())
}

/// Each of many gets the lock once, in the order in which they came, and nobody while another has it.
async fn contenders(client: &mut Client) -> Outcome {
    let holder = session(client).await?;
    let held = |lease| Some(LockOptions::new().with_lease(lease));
    let first = client.lock("rs/many", held(holder)).await?;
    let owners = Rc::new(RefCell::new(Vec::new()));
    let local = tokio::task::LocalSet::new();
    let keys = |count: usize| {
        let mut client = client.clone();
        async move {
            let begin = Instant::now();
            let all = || Some(GetOptions::new().with_prefix().with_count_only());
            while client.get("rs/many/", all()).await?.count() < count as i64 {
                assert!(begin.elapsed() < LIMIT, "not all came in");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok::<(), Error>(())
        }
    };
    let mut tasks = Vec::new();
    for number in 0..CONTENDERS {
        let lease = session(&mut client.clone()).await?;
        let (mut client, owners) = (client.clone(), Rc::clone(&owners));
        tasks.push(local.spawn_local(async move {
            let answer = client.lock("rs/many", held(lease)).await?;
            owners.borrow_mut().push(number);
            client.unlock(answer.key()).await?;
            Ok::<(), Error>(())
        }));
        // So that the order is known at all.
        if number % 50 == 0 {
            local.run_until(keys(number + 2)).await?;
        }
    }
    local.run_until(keys(CONTENDERS + 1)).await?;
    assert!(owners.borrow().is_empty(), "two hold one lock");
    let in_order = GetOptions::new().with_prefix();
    let in_order = in_order.with_sort(SortTarget::Create, SortOrder::Ascend);
    let queue = client.get("rs/many/", Some(in_order)).await?;
    let queue: Vec<Vec<u8>> = queue.kvs().iter().map(|kv| kv.key().to_vec()).collect();
    assert_eq!(queue[0], first.key());
    client.unlock(first.key()).await?;
    for task in tasks {
        let outcome = tokio::time::timeout(2 * LIMIT, local.run_until(task)).await;
        outcome
            .expect("a contender waits for ever")
            .expect("no panic")?;
    }
    let owners = owners.borrow();
    assert_eq!(owners.len(), CONTENDERS);
    // Those that came 50 apart came one after the other, and so they held the lock.
    let places: Vec<usize> = (0..CONTENDERS)
        .step_by(50)
        .map(|number| owners.iter().position(|owner| *owner == number).unwrap())
        .collect();
    assert!(
        places.is_sorted(),
        "not first come, first served: {places:?}"
    );
    Ok(())
}

async fn elections(client: &mut Client) -> Outcome {
    let (first, second) = (session(client).await?, session(client).await?);
    let none = client.leader("rs/election").await.unwrap_err();
    assert!(none.to_string().contains("no leader"), "{none}");
    let answer = client.campaign("rs/election", "one", first).await?;
    let mut seen = client.observe("rs/election").await?;
    let leader = answer.leader().expect("a leader key").clone();
    let mut next = async || {
        let answer = tokio::time::timeout(LIMIT, seen.message()).await;
        let answer = answer.expect("nothing is observed")?.expect("a leader");
        let kv = answer.kv().expect("a key");
        Ok::<_, Error>(String::from_utf8_lossy(kv.value()).into_owned())
    };
    assert_eq!(next().await?, "one");
    let options = || Some(ProclaimOptions::new().with_leader(leader.clone()));
    client.proclaim("one more", options()).await?;
    assert_eq!(next().await?, "one more");
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { other.campaign("rs/election", "two", second).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "two lead");
    let options = ResignOptions::new().with_leader(leader.clone());
    client.resign(Some(options)).await?;
    let answer = tokio::time::timeout(LIMIT, waiting).await;
    answer.expect("no hand-over").expect("no panic")?;
    assert_eq!(next().await?, "two");
    let options = ProclaimOptions::new().with_leader(leader);
    let refused = client.proclaim("gone", Some(options)).await.unwrap_err();
    assert!(refused.to_string().contains("not leader"), "{refused}");
    client.lease_revoke(second).await?;
    client.lease_revoke(first).await?;
    Ok(())
}

async fn maintenance(client: &mut Client) -> Outcome {
    let status = client.status().await?;
    assert_eq!(status.version(), "3.7.3");
    assert!(status.db_size() > 0);
    assert_eq!(
        Some(status.leader()),
        status.header().map(|header| header.member_id())
    );
    let members = client.member_list().await?;
    assert_eq!(members.members().len(), 1);
    assert_eq!(members.members()[0].name(), "default");
    Ok(())
}
