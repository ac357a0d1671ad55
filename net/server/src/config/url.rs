//! Listener and advertised URLs: `http://HOST:PORT` and `unix://PATH`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where a listener binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP on an address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A checked URL, kept with the text it was written in (advertised verbatim, hashed into ids).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    scheme: Scheme,
    host: String,
    port: Option<u16>,
    path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Unix,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    /// Parses one URL.
    ///
    /// # Errors
    /// Says what is wrong; `https` and `unixs` are refused by name, because TLS is not there yet.
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!(
                "URL {text:?} has no scheme (expected http:// or unix://)"
            ));
        };
        match scheme {
            "http" => Self::parse_http(text, rest),
            "unix" => {
                if rest.is_empty() {
                    return Err(format!("URL {text:?} has no socket path"));
                }
                Ok(Url {
                    text: text.to_owned(),
                    scheme: Scheme::Unix,
                    host: String::new(),
                    port: None,
                    path: rest.to_owned(),
                })
            }
            "https" | "unixs" => Err(format!(
                "URL {text:?}: TLS listeners are not supported yet; use http:// or unix://"
            )),
            _ => Err(format!("URL {text:?}: scheme must be http or unix")),
        }
    }

    fn parse_http(text: &str, rest: &str) -> Result<Url, String> {
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if !path.is_empty() && path != "/" {
            return Err(format!("URL must not contain a path: {text:?}"));
        }
        if authority.contains('@') || text.contains('?') || text.contains('#') {
            return Err(format!("URL must be scheme://host:port only: {text:?}"));
        }
        let Some((host, port)) = authority.rsplit_once(':') else {
            return Err(format!(
                "URL {text:?} has no port (expected http://host:port)"
            ));
        };
        let port = port
            .parse::<u16>()
            .map_err(|_| format!("URL {text:?} has a bad port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("URL {text:?} has no host"));
        }
        Ok(Url {
            text: text.to_owned(),
            scheme: Scheme::Http,
            host: host.to_owned(),
            port: Some(port),
            path: String::new(),
        })
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the host is written as `localhost`.
    pub fn is_localhost(&self) -> bool {
        self.host == "localhost"
    }

    /// Where a listener for this URL binds. Names other than `localhost` are refused: a listener
    /// needs an address of this machine.
    ///
    /// # Errors
    /// Names the URL.
    pub fn endpoint(&self) -> Result<Endpoint, String> {
        match self.scheme {
            Scheme::Unix => Ok(Endpoint::Unix(PathBuf::from(&self.path))),
            Scheme::Http => {
                let ip = if self.host == "localhost" {
                    IpAddr::V4(Ipv4Addr::LOCALHOST)
                } else {
                    self.host
                        .parse()
                        .map_err(|_| format!("expected IP in URL for binding ({})", self.text))?
                };
                Ok(Endpoint::Tcp(SocketAddr::new(ip, self.port.unwrap_or(0))))
            }
        }
    }

    /// Host and port with a `localhost` written as its address, so that equal places compare equal.
    fn place(&self) -> (Scheme, String, Option<u16>, &str) {
        let host = if self.host == "localhost" {
            "127.0.0.1".to_owned()
        } else {
            self.host.clone()
        };
        (self.scheme, host, self.port, &self.path)
    }

    /// Whether both URLs name the same place.
    pub fn same_place(&self, other: &Url) -> bool {
        self.place() == other.place()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners() {
        let tcp = |s: &str| Endpoint::Tcp(s.parse().unwrap());
        let check = |text: &str, expected: Endpoint| {
            assert_eq!(
                Url::parse(text).unwrap().endpoint().unwrap(),
                expected,
                "{text}"
            );
        };
        check("http://127.0.0.1:2379", tcp("127.0.0.1:2379"));
        check("http://localhost:0", tcp("127.0.0.1:0"));
        check("http://[::1]:5", tcp("[::1]:5"));
        check("unix:///tmp/e.sock", Endpoint::Unix("/tmp/e.sock".into()));
        check("unix://e.sock:1", Endpoint::Unix("e.sock:1".into()));
    }

    #[test]
    fn refusals_name_the_reason() {
        let check = |text: &str, part: &str| {
            let error = Url::parse(text)
                .and_then(|u| u.endpoint().map(|_| ()))
                .unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        };
        check("127.0.0.1:2379", "no scheme");
        check("https://127.0.0.1:1", "TLS");
        check("http://127.0.0.1", "no port");
        check("http://127.0.0.1:99999", "bad port");
        check("http://example.org:1", "expected IP");
        check("http://127.0.0.1:1/a", "path");
        check("ftp://127.0.0.1:1", "http or unix");
    }
}
