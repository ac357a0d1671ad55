//! Certificates: whom to trust and who we are.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where systems keep the authorities they trust.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What the flags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// File of authorities; empty for the system's.
    pub(crate) authorities: String,
    /// File of our certificate.
    pub(crate) certificate: String,
    /// File of our key.
    pub(crate) key: String,
    /// The name a certificate must have instead of the endpoint's.
    pub(crate) server_name: String,
    /// Whether plain connections are fine.
    pub(crate) insecure_transport: bool,
    /// Whether any certificate is fine.
    pub(crate) skip_verify: bool,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// What rustls needs.
    pub(crate) config: Arc<ClientConfig>,
    /// The name a certificate must have instead of the endpoint's.
    pub(crate) server_name: Option<String>,
}

/// Loads the files. `None` means that nothing asks for TLS; an endpoint may still demand it.
pub(crate) fn load(options: &Options) -> Result<Option<Tls>, String> {
    let files = [
        &options.authorities,
        &options.certificate,
        &options.key,
        &options.server_name,
    ];
    let wanted = files.iter().any(|text| !text.is_empty())
        || !options.insecure_transport
        || options.skip_verify;
    if wanted {
        build(options).map(Some)
    } else {
        Ok(None)
    }
}

/// What is used for an endpoint that demands TLS when no flag speaks of it.
pub(crate) fn default() -> Result<Tls, String> {
    build(&Options::default())
}

fn build(options: &Options) -> Result<Tls, String> {
    if options.certificate.is_empty() != options.key.is_empty() {
        return Err(format!(
            "KeyFile and CertFile must both be present[key: {}, cert: {}]",
            options.key, options.certificate
        ));
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if options.skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(authorities(&options.authorities)?)
    };
    let config = if options.certificate.is_empty() {
        builder.with_no_client_auth()
    } else {
        let certificates = certificates(Path::new(&options.certificate))?;
        let key = PrivateKeyDer::from_pem_slice(&read(Path::new(&options.key))?)
            .map_err(|error| format!("{}: {error}", options.key))?;
        builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| error.to_string())?
    };
    Ok(Tls {
        config: Arc::new(config),
        server_name: (!options.server_name.is_empty()).then(|| options.server_name.clone()),
    })
}

fn authorities(file: &str) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let file = match file {
        "" => SYSTEM_AUTHORITIES
            .iter()
            .map(Path::new)
            .find(|path| path.exists()),
        file => Some(Path::new(file)),
    };
    if let Some(file) = file {
        store.add_parsable_certificates(certificates(file)?);
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| format!("{}: {error}", file.display()))?;
    if certificates.is_empty() {
        return Err(format!("{}: no certificate in it", file.display()));
    }
    Ok(certificates)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| {
        format!(
            "open {}: {}",
            file.display(),
            super::channel::os_text(&error)
        )
    })
}

/// Takes every certificate, for `--insecure-skip-tls-verify`.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_are_named() {
        let check =
            |options: Options, expected: &str| assert_eq!(load(&options).unwrap_err(), expected);
        let plain = || Options {
            insecure_transport: true,
            ..Options::default()
        };
        check(
            Options {
                authorities: "/nope".into(),
                ..plain()
            },
            "open /nope: no such file or directory",
        );
        check(
            Options {
                certificate: "c".into(),
                ..plain()
            },
            "KeyFile and CertFile must both be present[key: , cert: c]",
        );
        let empty = "/dev/null".to_owned();
        check(
            Options {
                authorities: empty,
                ..plain()
            },
            "/dev/null: no certificate in it",
        );
        assert!(load(&plain()).unwrap().is_none());
    }
}
