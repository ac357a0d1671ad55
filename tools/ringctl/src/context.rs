//! What a command needs to know of how it was called.

use std::env;
use std::io::{self, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::time::Instant;

use crate::cli::environment::{self, Oddity};
use crate::cli::parse::Invocation;
use crate::client::tls;
use crate::client::{Client, Config, Deadline, Login, discovery};
use crate::exit::{self, Exit, arguments};
use crate::log;
use crate::out;
use crate::print::Printer;
use crate::style::Style;

/// The call.
#[derive(Debug)]
pub(crate) struct Context {
    /// Whose habits to follow.
    pub(crate) style: Style,
    /// Command, flags, arguments.
    pub(crate) invocation: Invocation,
    /// The words of the call as they came.
    pub(crate) words: Vec<String>,
    environment_read: bool,
}

impl Context {
    /// A call, before its environment is looked at.
    pub(crate) fn new(style: Style, invocation: Invocation, words: Vec<String>) -> Self {
        Self {
            style,
            invocation,
            words,
            environment_read: false,
        }
    }

    /// The arguments.
    pub(crate) fn arguments(&self) -> &[String] {
        &self.invocation.arguments
    }

    /// When a short command that begins now gives up.
    pub(crate) fn deadline(&self) -> Deadline {
        Some(Instant::now() + self.invocation.duration("command-timeout"))
    }

    /// A client and a printer.
    pub(crate) async fn connect(&mut self) -> Result<(Client, Printer), Exit> {
        let (config, printer) = self.settings().await?;
        Ok((client(config).await?, printer))
    }

    /// The configuration of a client, and a printer.
    pub(crate) async fn settings(&mut self) -> Result<(Config, Printer), Exit> {
        self.read_environment()?;
        let flags = &self.invocation;
        if flags.truth("debug") {
            for flag in crate::cli::tree::GLOBAL {
                out::error(&format!(
                    "{}={}",
                    environment::variable(flag.name),
                    flags.shown(flag.name)
                ));
            }
        }
        let endpoints = self.endpoints().await?;
        let tls = self.tls()?;
        let login = self.login("user", "password", "Password: ")?;
        let flags = &self.invocation;
        let login = match flags.text("auth-jwt-token") {
            token if token.is_empty() => login,
            token => Some(Login::Token(token)),
        };
        let printer = Printer::new(&flags.text("write-out"), flags.truth("hex"))?;
        let config = Config {
            style: self.style,
            logger: "etcd-client",
            endpoints,
            tls: tls::load(&tls).map_err(|text| Exit::new(exit::ARGUMENTS, text))?,
            dial_timeout: flags.duration("dial-timeout"),
            keepalive: (
                flags.duration("keepalive-time"),
                flags.duration("keepalive-timeout"),
            ),
            bytes_max: (
                bytes(flags.number("max-request-bytes")),
                bytes(flags.number("max-recv-bytes")),
            ),
            login,
        };
        Ok((config, printer))
    }

    /// Sets flags that were not given from the environment.
    pub(crate) fn read_environment(&mut self) -> Result<(), Exit> {
        if std::mem::replace(&mut self.environment_read, true) {
            return Ok(());
        }
        let oddities = environment::apply(&mut self.invocation, env::vars_os());
        for oddity in oddities {
            match (self.style, oddity) {
                (Style::Etcdctl, Oddity::Invalid { .. }) => {}
                (Style::Etcdctl, Oddity::Unrecognized(variable)) => {
                    log::line("warn", "", "unrecognized environment variable", |object| {
                        object.string("environment-variable", &variable)
                    });
                }
                (Style::Etcdctl, Oddity::Shadowed(variable)) => {
                    let text = "conflicting environment variable is shadowed by corresponding command-line flag \
                                (either unset environment variable or disable flag))";
                    log::line("fatal", "", text, |object| {
                        object.string("environment-variable", &variable)
                    });
                    return Err(Exit::silent(exit::ERROR));
                }
                (Style::Ringctl, Oddity::Invalid { name, error }) => {
                    return arguments(format!("{name}: {error}"));
                }
                (Style::Ringctl, Oddity::Unrecognized(variable)) => {
                    if !environment::harmless(&Oddity::Unrecognized(variable.clone())) {
                        out::error(&format!(
                            "Warning: no flag belongs to the environment variable {variable}"
                        ));
                    }
                }
                (Style::Ringctl, Oddity::Shadowed(_)) => {}
            }
        }
        Ok(())
    }

    /// The endpoints: from DNS if a domain is given, else from the flag.
    async fn endpoints(&self) -> Result<Vec<String>, Exit> {
        let flags = &self.invocation;
        let domain = flags.text("discovery-srv");
        let mut found = Vec::new();
        if !domain.is_empty() {
            let service = flags.text("discovery-srv-name");
            let all = discovery::endpoints(&domain, &service).await;
            found = all.map_err(|text| Exit::new(exit::ERROR, text))?;
            if !flags.truth("insecure-discovery") {
                found.retain(|endpoint| {
                    let secure = !endpoint.starts_with("http://");
                    if !secure {
                        out::error(&format!(
                            "ignoring discovered insecure endpoint \"{endpoint}\""
                        ));
                    }
                    secure
                });
            }
        }
        if found.is_empty() {
            found = flags
                .list("endpoints")
                .iter()
                .map(|endpoint| endpoint.trim().to_owned())
                .collect();
        }
        Ok(found)
    }

    fn tls(&self) -> Result<tls::Options, Exit> {
        let flags = &self.invocation;
        let file = |name: &str| match flags.text(name) {
            empty if empty.is_empty() && flags.given(name) => {
                arguments(format!("empty string is passed to --{name} option"))
            }
            file => Ok(file),
        };
        let discovered = !flags.truth("insecure-discovery");
        Ok(tls::Options {
            certificate: file("cert")?,
            key: file("key")?,
            authorities: file("cacert")?,
            server_name: if discovered {
                flags.text("discovery-srv")
            } else {
                String::new()
            },
            insecure_transport: flags.truth("insecure-transport"),
            skip_verify: flags.truth("insecure-skip-tls-verify"),
        })
    }

    /// Whom the flags of these names say to log in as.
    pub(crate) fn login(
        &self,
        user: &str,
        password: &str,
        prompt: &str,
    ) -> Result<Option<Login>, Exit> {
        let (user, password) = (self.invocation.text(user), self.invocation.text(password));
        if user.is_empty() {
            return Ok(None);
        }
        let (name, password) = match user.split_once(':') {
            _ if !password.is_empty() => (user, password),
            Some((name, password)) => (name.to_owned(), password.to_owned()),
            None => {
                let asked = ask_secret(prompt)
                    .map_err(|error| Exit::new(exit::ERROR, error.to_string()))?;
                (user, asked)
            }
        };
        Ok(Some(Login::Password { name, password }))
    }
}

fn bytes(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// A client, or the end of the program.
pub(crate) async fn client(config: Config) -> Result<Client, Exit> {
    Client::new(config)
        .await
        .map_err(|failure| Exit::failed(exit::CONNECTION, &failure))
}

/// Reads a line from standard input without showing it.
pub(crate) fn ask_secret(prompt: &str) -> io::Result<String> {
    let (input, mut output) = (io::stdin(), io::stdout());
    write!(output, "{prompt}")?;
    output.flush()?;
    let shown = if input.is_terminal() {
        let shown = tcgetattr(&input)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&input, OptionalActions::Flush, &hidden)?;
        Some(shown)
    } else {
        None
    };
    let mut line = String::new();
    let read = input.read_line(&mut line);
    if let Some(shown) = shown {
        tcsetattr(&input, OptionalActions::Flush, &shown)?;
        writeln!(output)?;
    }
    match read? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}
