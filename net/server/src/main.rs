//! The binary: reads the command line and runs what it asks for.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use reactor::{DriverChoice, RunOptions};
use ringd::config::text::{self, Program};
use ringd::config::{self, Config, IoDriver, LogLevel, Request, surroundings};
use ringd::exit::{self, Exit};
use ringd::log::Outputs;
use ringd::notify::{self, Notifier};
use ringd::{etcdutl, inspect, memory, restore, salvage, serve};

/// Most cores that are used without being asked for.
const CORES_DEFAULT_MAX: usize = 16;
/// The last lines of the log have so long to be written.
const LOG_END_MAX: Duration = Duration::from_secs(1);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let name = name.to_string_lossy();
    let program = Program::of(&name);
    let arguments = words
        .map(|word| word.into_string())
        .collect::<Result<Vec<_>, _>>();
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(word) => return ended(Exit::config(format!("argument {word:?} is not UTF-8"))),
    };
    if Path::new(name.as_ref())
        .file_stem()
        .is_some_and(|name| name == "etcdutl")
    {
        return run_etcdutl(&arguments);
    }
    let result = match arguments.first().map(String::as_str) {
        Some("inspect") => inspect::run(&arguments[1..]),
        Some("salvage") => salvage::run(&arguments[1..]),
        Some("restore") => restore::run(&arguments[1..]).map(|said| print!("{said}")),
        Some("check-config") => check_config(&arguments[1..]),
        _ => run_server(program, &arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => ended(exit),
    }
}

fn ended(exit: Exit) -> ExitCode {
    eprintln!("ringd: {}", exit.message);
    ExitCode::from(exit.code as u8)
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

fn parse(arguments: &[String]) -> Result<Request, config::ConfigErrors> {
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => environment.push((name, value)),
            (Ok(name), Err(value)) if name.starts_with("ETCD_") => {
                let mistake = format!("environment variable {name}={value:?} is not UTF-8");
                return Err(config::ConfigErrors(vec![mistake]));
            }
            // Somebody else's.
            _ => {}
        }
    }
    config::parse(arguments, &environment)
}

fn run_server(program: Program, arguments: &[String]) -> Result<(), Exit> {
    match parse(arguments) {
        Ok(Request::Help) => {
            print!("{}", text::help());
            Ok(())
        }
        Ok(Request::Version) => {
            print!("{}", text::version(program));
            Ok(())
        }
        Ok(Request::Serve(config)) => run_member(*config),
        Err(errors) => Err(Exit::config(format!(
            "{errors}\n(ringd --help lists the flags)"
        ))),
    }
}

/// Tells everything that is wrong with a configuration, and creates nothing.
fn check_config(arguments: &[String]) -> Result<(), Exit> {
    let mistakes = match parse(arguments) {
        Ok(Request::Serve(config)) => {
            for notice in &config.notices {
                let fields = notice.fields.iter();
                let fields: Vec<String> = fields
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                println!("note: {} ({})", notice.message, fields.join(", "));
            }
            let problems = surroundings::check(&config).into_iter();
            problems.map(|problem| problem.message).collect()
        }
        Ok(Request::Help | Request::Version) => Vec::new(),
        Err(errors) => errors.0,
    };
    if mistakes.is_empty() {
        println!("the configuration is good");
        return Ok(());
    }
    Err(Exit {
        code: exit::REFUSED,
        message: format!("mistakes in the configuration:\n{}", mistakes.join("\n")),
    })
}

/// All problems at once, with the code of the first.
fn refuse(problems: Vec<Exit>) -> Result<(), Exit> {
    let Some(first) = problems.first() else {
        return Ok(());
    };
    let code = first.code;
    let messages: Vec<String> = problems
        .into_iter()
        .map(|problem| problem.message)
        .collect();
    let message = messages.join("\n");
    Err(Exit { code, message })
}

fn run_member(mut config: Config) -> Result<(), Exit> {
    refuse(surroundings::check(&config))?;
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
    let (outputs, writers) = Outputs::open(&config.log).map_err(Exit::config)?;
    let logger = outputs.system_logger();
    let notifier = Notifier::new(std::env::var_os(notify::VARIABLE));
    let cores_run = options.clone();
    let result = reactor::run(&options, |world| {
        serve::serve(world, config, outputs, notifier, cores_run)
    });
    let result = match result {
        Ok(result) => result,
        Err(error) => Err(Exit::system(error.to_string())),
    };
    if let Err(exit) = &result {
        let fields = [("exit-code", exit.code.into())];
        logger.line(LogLevel::Fatal, &exit.message, &fields);
    }
    writers.finish(LOG_END_MAX);
    result
}

/// As many as the process may use, within reason.
fn cores_by_default() -> u16 {
    reactor::usable_processors().clamp(1, CORES_DEFAULT_MAX) as u16
}
