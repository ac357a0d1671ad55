//! What needs a process of its own: signals, a killed lock holder, refused system calls, exhausted descriptors.
//!
//! A child is this test program again, told by an environment variable which part to play.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use reactor::driver::DriverKind;
use reactor::{
    Address, AlignedBuffer, Class, DriverChoice, OpenOptions, PanicPolicy, RunOptions, Signal,
    World, run, spawn_core,
};

use crate::{Scratch, options};

const ROLE: &str = "REACTOR_TEST_ROLE";
const DRIVERS: [&str; 2] = ["uring", "fallback"];

fn choice(name: &str) -> DriverChoice {
    if name == "uring" {
        DriverChoice::Uring
    } else {
        DriverChoice::Fallback
    }
}

/// A child that plays a role; it is killed when dropped.
struct Player {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _input: ChildStdin,
}

impl Player {
    fn start(role: &str, driver: &str, path: &Path) -> Player {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::child", "--nocapture"])
            .env(ROLE, role)
            .env("DRIVER", driver)
            .env("FILE", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Player {
            child,
            lines,
            _input: input,
        }
    }

    /// Waits for a line that ends with `text`.
    fn expect(&mut self, text: &str) {
        for line in self.lines.by_ref() {
            if line.unwrap().ends_with(text) {
                return;
            }
        }
        panic!("the child ended without {text:?}");
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) takes no pointers; the child has not been reaped, so the number is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{text}").unwrap();
    out.flush().unwrap();
}

/// Plays the role that the environment names; as a test of its own it does nothing.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let driver = choice(&std::env::var("DRIVER").unwrap());
    let path = std::path::PathBuf::from(std::env::var("FILE").unwrap());
    match role.as_str() {
        "signals" => run(&options(driver), play_signals).unwrap(),
        "signals elsewhere" => play_signals_elsewhere(driver),
        "panic elsewhere" => play_panic_elsewhere(driver),
        "refused elsewhere" => play_refused_elsewhere(),
        "writer" => run(&options(driver), |world| play_writer(world, path)).unwrap(),
        "listener" => run(&options(driver), |world| play_listener(world, path)).unwrap(),
        "heir" => play_heir(&path),
        "crowd" => run(&options(driver), play_crowd).unwrap(),
        other => panic!("no role {other}"),
    }
}

async fn play_signals(world: World) {
    let mut signals = world.signals();
    // Let the request reach the driver.
    world.sleep(Duration::from_millis(1)).await;
    say("ready");
    loop {
        let signal = signals.next().await.unwrap();
        say(&format!("got {signal:?}"));
        if signal == Signal::Terminate {
            return;
        }
    }
}

#[test]
fn signals_arrive() {
    for driver in DRIVERS {
        let mut player = Player::start("signals", driver, Path::new(""));
        player.expect("ready");
        player.signal(libc::SIGHUP);
        player.expect("got HangUp");
        player.signal(libc::SIGINT);
        player.expect("got Interrupt");
        player.signal(libc::SIGHUP);
        player.expect("got HangUp");
        player.signal(libc::SIGTERM);
        player.expect("got Terminate");
        assert!(player.child.wait().unwrap().success());
    }
}

/// The second of three cores asks for the signals; the first thread, which the kernel prefers, sleeps in a join, and
/// the third never rests.
fn play_signals_elsewhere(driver: DriverChoice) {
    let restless = spawn_core("restless", options(driver), |world| async move {
        loop {
            world.sleep(Duration::from_micros(50)).await;
        }
    })
    .unwrap();
    spawn_core("listening", options(driver), play_signals)
        .unwrap()
        .join();
    assert!(!restless.is_finished());
}

#[test]
fn signals_reach_the_core_that_asked() {
    for driver in DRIVERS {
        let mut player = Player::start("signals elsewhere", driver, Path::new(""));
        player.expect("ready");
        for _ in 0..20 {
            player.signal(libc::SIGHUP);
            player.expect("got HangUp");
        }
        player.signal(libc::SIGTERM);
        player.expect("got Terminate");
        assert!(player.child.wait().unwrap().success());
    }
}

/// A core panics outside of any task while the first one does something else.
fn play_panic_elsewhere(driver: DriverChoice) {
    let aborting = RunOptions {
        panics: PanicPolicy::Abort,
        ..options(driver)
    };
    let _doomed = spawn_core("doomed", aborting, |_| -> std::future::Ready<()> {
        panic!("as planned")
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_panic_on_any_core_ends_the_process() {
    for driver in DRIVERS {
        let mut player = Player::start("panic elsewhere", driver, Path::new(""));
        let status = player.child.wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{driver}: {status}");
    }
}

fn play_refused_elsewhere() {
    refuse_io_uring();
    let error = spawn_core("refused", options(DriverChoice::Uring), |_| async {})
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    say(&error.to_string());
    spawn_core(
        "falls back",
        options(DriverChoice::Auto),
        |world| async move {
            assert_eq!(world.driver_kind(), DriverKind::Fallback);
        },
    )
    .unwrap()
    .join();
}

#[test]
fn a_refused_driver_is_reported_to_whoever_starts_the_core() {
    let mut player = Player::start("refused elsewhere", "uring", Path::new(""));
    player.expect("kernel.io_uring_disabled");
    assert!(player.child.wait().unwrap().success());
}

async fn play_writer(world: World, path: std::path::PathBuf) {
    let create = OpenOptions {
        read: true,
        write: true,
        direct: true,
        lock: true,
        create_new: true,
        len_to_reserve: Some(64 << 20),
    };
    let file = world.open(path, create).await.unwrap();
    for lane in 0..16u64 {
        let file = file.clone();
        world.spawn(Class::Consensus, async move {
            loop {
                let buffer = AlignedBuffer::zeroed(1 << 20);
                file.write_at(buffer, lane << 20).await.unwrap();
            }
        });
    }
    world.sleep(Duration::from_millis(20)).await;
    say("locked");
    std::future::pending().await
}

fn lock_options() -> OpenOptions {
    OpenOptions {
        read: true,
        write: true,
        lock: true,
        ..OpenOptions::default()
    }
}

#[test]
fn a_live_holder_is_named_and_a_killed_one_waited_for() {
    for driver in DRIVERS {
        for _ in 0..3 {
            let scratch = Scratch::new();
            let path = scratch.join("data");
            let mut player = Player::start("writer", driver, &path);
            player.expect("locked");
            let process = player.child.id();
            let file_path = path.clone();
            run(&options(choice(driver)), move |world| async move {
                let began = Instant::now();
                let error = world.open(&file_path, lock_options()).await.err().unwrap();
                assert_eq!(error.kind(), ErrorKind::ResourceBusy);
                assert!(error.to_string().contains(&process.to_string()), "{error}");
                assert!(began.elapsed() < Duration::from_secs(5));
            })
            .unwrap();
            player.signal(libc::SIGKILL);
            // Not reaped yet, or hardly: the lock may still be there.
            run(&options(choice(driver)), move |world| async move {
                let opened = loop {
                    match world.open(&path, lock_options()).await {
                        // The kill has not taken effect yet.
                        Err(error) if error.kind() == ErrorKind::ResourceBusy => {}
                        opened => break opened,
                    }
                };
                let file = opened.unwrap();
                // Nothing of the dead process lands any more.
                file.write_at_and_sync(AlignedBuffer::padded_from(&[1; 4096]), 0)
                    .await
                    .unwrap();
                world.sleep(Duration::from_millis(50)).await;
                assert_eq!(file.read_at(4096, 0).await.unwrap(), vec![1; 4096]);
            })
            .unwrap();
        }
    }
}

/// Locks the file, leaves it open in a child process, and ends: the lock outlives its holder.
fn play_heir(path: &Path) {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.lock().unwrap();
    // SAFETY: fcntl(2) with F_SETFD takes no pointers.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(result, 0);
    // The shell leaves its child behind.
    let shell = Command::new("sh")
        .args(["-c", "sleep 1 &"])
        .stdout(Stdio::null())
        .status();
    assert!(shell.unwrap().success());
}

#[test]
fn the_lock_of_a_dead_process_is_waited_for() {
    let scratch = Scratch::new();
    let path = scratch.join("data");
    let mut player = Player::start("heir", "fallback", &path);
    assert!(player.child.wait().unwrap().success());
    let began = Instant::now();
    run(&options(DriverChoice::Fallback), move |world| async move {
        world.open(&path, lock_options()).await.unwrap();
    })
    .unwrap();
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_millis(300) && waited < Duration::from_secs(20),
        "{waited:?}"
    );
}

/// Has the kernel answer io_uring_setup on this thread with EPERM, as the default profile of a container does.
fn refuse_io_uring() {
    const SYSCALL_NUMBER_OFFSET: u32 = 0;
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut program = [
        instruction(
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
            SYSCALL_NUMBER_OFFSET,
        ),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: prctl(2): the first call takes no pointer, the second a filter that outlives it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter
            ),
            0
        );
    }
}

#[test]
fn a_refused_io_uring_is_replaced_and_said() {
    // The filter binds this thread only.
    let thread = std::thread::spawn(|| {
        refuse_io_uring();
        let error = run(&options(DriverChoice::Uring), |_| async {}).unwrap_err();
        assert!(error.to_string().contains("seccomp"), "{error}");
        run(&RunOptions::default(), |world| async move {
            assert_eq!(world.driver_kind(), DriverKind::Fallback);
            let refusal = world.driver_refusal().expect("the reason");
            assert!(
                refusal.contains("io_uring_setup") && refusal.contains("seccomp"),
                "{refusal}"
            );
            let listener = world
                .listen(&Address::Tcp("127.0.0.1:0".parse().unwrap()))
                .await
                .unwrap();
            world.connect(listener.local_address()).await.unwrap();
            listener.accept().await.unwrap();
        })
        .unwrap();
    });
    thread.join().unwrap();
    run(&RunOptions::default(), |world| async move {
        assert_eq!(world.driver_kind(), DriverKind::Uring);
        assert_eq!(world.driver_refusal(), None);
    })
    .unwrap();
}

/// Accepts with too few descriptors: the listener must survive it.
async fn play_crowd(world: World) {
    let listener = world
        .listen(&Address::Tcp("127.0.0.1:0".parse().unwrap()))
        .await
        .unwrap();
    let Address::Tcp(address) = listener.local_address().clone() else {
        unreachable!()
    };
    let clients: Vec<_> = (0..10)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = |count| {
        let limit = libc::rlimit {
            rlim_cur: count,
            rlim_max: 4096,
        };
        // SAFETY: `limit` is a valid value.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    };
    limit(open + 2);
    let mut accepted = Vec::new();
    let short = async {
        loop {
            accepted.push(listener.accept().await.unwrap());
        }
    };
    let stuck: Result<(), _> = world.timeout(Duration::from_millis(100), short).await;
    assert!(stuck.is_err());
    assert!(
        accepted.len() < clients.len(),
        "{} accepted",
        accepted.len()
    );
    limit(4096);
    while accepted.len() < clients.len() {
        accepted.push(listener.accept().await.unwrap());
    }
    say("all accepted");
}

#[test]
fn exhausted_descriptors_are_waited_out() {
    for driver in DRIVERS {
        let mut player = Player::start("crowd", driver, Path::new(""));
        player.expect("all accepted");
        assert!(player.child.wait().unwrap().success());
    }
}

async fn play_listener(world: World, path: std::path::PathBuf) {
    let address = Address::Tcp(path.to_str().unwrap().parse().unwrap());
    let listener = world.listen(&address).await.unwrap();
    say(&format!("at {}", listener.local_address()));
    loop {
        let stream = listener.accept().await.unwrap();
        world.spawn(Class::Request, async move {
            tokio::io::AsyncReadExt::read_u8(&mut { stream }).await.ok();
        });
    }
}

#[test]
fn the_address_of_a_killed_process_is_free_soon() {
    for driver in DRIVERS {
        // An ephemeral port that was free a moment ago.
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        for _ in 0..5 {
            let mut player = Player::start("listener", driver, Path::new(&address.to_string()));
            player.expect(&format!("at {address}"));
            let _client = std::net::TcpStream::connect(address).unwrap();
            player.signal(libc::SIGKILL);
            player.child.wait().unwrap();
        }
    }
}
