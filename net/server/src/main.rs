//! The binary: reads the command line and runs what it asks for.

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use reactor::{DriverChoice, RunOptions};
use ringd::config::{self, Config, IoDriver, LogLevel, Request};
use ringd::exit::{self, Exit};
use ringd::log::Logger;
use ringd::{etcdutl, inspect, memory, restore, salvage, serve};

/// Most cores that are used without being asked for.
const CORES_DEFAULT_MAX: usize = 16;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let arguments: Vec<String> = words.collect();
    if Path::new(&program)
        .file_stem()
        .is_some_and(|name| name == "etcdutl")
    {
        return run_etcdutl(&arguments);
    }
    let result = match arguments.first().map(String::as_str) {
        Some("inspect") => inspect::run(&arguments[1..]),
        Some("salvage") => salvage::run(&arguments[1..]),
        Some("restore") => restore::run(&arguments[1..]).map(|said| print!("{said}")),
        _ => run_server(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("ringd: {}", exit.message);
            ExitCode::from(exit.code as u8)
        }
    }
}

fn run_etcdutl(arguments: &[String]) -> ExitCode {
    match etcdutl::run(arguments) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("Error: {}", failure.text);
            ExitCode::from(failure.code)
        }
    }
}

fn run_server(arguments: &[String]) -> Result<(), Exit> {
    let environment: Vec<(String, String)> = std::env::vars().collect();
    match config::parse(arguments, &environment) {
        Ok(Request::Help) => {
            print!("{}", config::help());
            Ok(())
        }
        Ok(Request::Version) => {
            println!("etcd Version: {}", ringd::services::ETCD_VERSION);
            println!("ringd Version: {}", env!("CARGO_PKG_VERSION"));
            println!("Rust Version: {}", env!("CARGO_PKG_RUST_VERSION"));
            println!(
                "OS/Arch: {}/{}",
                std::env::consts::OS,
                std::env::consts::ARCH
            );
            Ok(())
        }
        Ok(Request::Serve(config)) => run_member(*config),
        Err(errors) => Err(Exit::config(format!(
            "{errors}\n(ringd --help lists the flags)"
        ))),
    }
}

fn run_member(mut config: Config) -> Result<(), Exit> {
    config.memory_bytes = memory::usable_bytes().unwrap_or(0);
    config.cores.get_or_insert_with(cores_by_default);
    let driver = match config.io_driver {
        IoDriver::Auto => DriverChoice::Auto,
        IoDriver::Uring => DriverChoice::Uring,
        IoDriver::Fallback => DriverChoice::Fallback,
    };
    let options = RunOptions {
        driver,
        ..RunOptions::default()
    };
    let (level, output) = (config.log_level, config.log_output);
    let cores_run = options.clone();
    let result = reactor::run(&options, move |world| {
        let clock = world.clone();
        let logger = Rc::new(Logger::new(level, output, move || clock.unix_time()));
        if let Some(reason) = world.driver_refusal() {
            logger.warn(
                "io_uring is not available: using epoll and threads",
                &[("reason", reason.into())],
            );
        }
        async move {
            let result = serve::serve(world, config, logger.clone(), cores_run).await;
            if let Err(exit) = &result {
                logger.line(
                    LogLevel::Fatal,
                    &exit.message,
                    &[("exit-code", exit.code.into())],
                );
            }
            result
        }
    });
    match result {
        Ok(result) => result,
        Err(error) => Err(Exit {
            code: exit::SYSTEM,
            message: error.to_string(),
        }),
    }
}

/// As many as the process may use, within reason.
fn cores_by_default() -> u16 {
    reactor::usable_processors().clamp(1, CORES_DEFAULT_MAX) as u16
}
