//! Where a server listens, as `--endpoints` spells it.

use std::path::PathBuf;

/// What an endpoint says about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// `https`, `unixs`: always.
    Required,
    /// `http`: never, even with certificates given.
    Refused,
    /// Nothing: if certificates are given.
    Open,
}

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host and port.
    Tcp(String),
    /// A socket file.
    Unix(PathBuf),
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Where to connect.
    pub(crate) address: Address,
    /// Whether to speak TLS.
    pub(crate) demand: Demand,
    /// The name that requests carry and that a certificate must have.
    pub(crate) authority: String,
}

impl Endpoint {
    /// Reads `host:port`, `http://…`, `https://…`, `unix:…`, `unix://…` and `unixs://…`.
    pub(crate) fn parse(text: &str) -> Self {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme @ ("unix" | "unixs"), path)) => {
                (scheme, path.strip_prefix("//").unwrap_or(path))
            }
            _ => text.split_once("://").unwrap_or(("", text)),
        };
        let demand = match scheme {
            "https" | "unixs" => Demand::Required,
            "http" => Demand::Refused,
            _ => Demand::Open,
        };
        if scheme.starts_with("unix") {
            let path = PathBuf::from(rest);
            let name = path
                .file_name()
                .map_or("localhost".into(), |name| name.to_string_lossy());
            return Self {
                authority: name.into_owned(),
                address: Address::Unix(path.clone()),
                demand,
            };
        }
        let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        Self {
            address: Address::Tcp(host.to_owned()),
            demand,
            authority: host.to_owned(),
        }
    }

    /// The host alone, without brackets and port.
    pub(crate) fn host(&self) -> &str {
        let name = self.authority.as_str();
        if let Some(address) = name.strip_prefix('[') {
            return address.split(']').next().unwrap_or(address);
        }
        name.rsplit_once(':').map_or(name, |(host, _)| host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling() {
        let check = |text: &str, address: &str, demand, host: &str| {
            let endpoint = Endpoint::parse(text);
            assert_eq!(endpoint.address, Address::Tcp(address.to_owned()), "{text}");
            assert_eq!((endpoint.demand, endpoint.host()), (demand, host), "{text}");
        };
        check(
            "127.0.0.1:2379",
            "127.0.0.1:2379",
            Demand::Open,
            "127.0.0.1",
        );
        check("http://a:1/x", "a:1", Demand::Refused, "a");
        check("https://[::1]:2", "[::1]:2", Demand::Required, "::1");
        check("localhost", "localhost", Demand::Open, "localhost");
        let check = |text: &str, path: &str, demand| {
            let endpoint = Endpoint::parse(text);
            assert_eq!(endpoint.address, Address::Unix(path.into()), "{text}");
            assert_eq!(endpoint.demand, demand);
        };
        check("unix:///run/a.sock", "/run/a.sock", Demand::Open);
        check("unix://local.sock:0", "local.sock:0", Demand::Open);
        check("unix:/run/a.sock", "/run/a.sock", Demand::Open);
        check("unixs:///run/a.sock", "/run/a.sock", Demand::Required);
    }
}
