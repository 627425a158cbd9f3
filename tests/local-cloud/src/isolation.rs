//! Keeps local commands away from real AWS accounts.
//!
//! Every program that a local command starts gets its environment from [`command`], and every SDK client is built from
//! an [`Endpoint`], which is always on this machine.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// The region of the local cloud.
pub const REGION: &str = "us-east-1";

/// The secret access key. The local cloud accepts any.
pub const SECRET: &str = "test";

/// A 12-digit account id of the local cloud. Each account has separate state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account(String);

impl Account {
    /// Parses an account id. The local cloud reads it from the access key id.
    pub fn new(digits: impl Into<String>) -> Result<Self> {
        let digits = digits.into();
        ensure!(digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_digit()), "must be 12 digits, not `{digits}`");
        Ok(Self(digits))
    }

    /// Returns the account of a command that needs only one. It is not the local cloud's default account, which
    /// accepts devices without a certificate.
    pub fn primary() -> Self {
        Self("111122223333".to_owned())
    }

    /// Returns the 12 digits.
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// The address of the local cloud, on the loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint(SocketAddr);

impl Endpoint {
    /// Rejects any address that is not a loopback address.
    pub fn new(address: SocketAddr) -> Result<Self> {
        ensure!(address.ip().is_loopback(), "{address} is not a loopback address");
        Ok(Self(address))
    }

    /// Returns the address.
    pub fn address(&self) -> SocketAddr {
        self.0
    }

    /// Returns the URL, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

/// How much of the caller's environment a program inherits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// Only the variables that any program needs. The local cloud passes its environment on to every function, and in
    /// AWS a function does not see a developer's shell either.
    Minimal,
    /// Everything except variables that could lead to AWS: for the Rust toolchain, which has its own settings (a
    /// mirror, a proxy, a linker).
    Toolchain,
}

/// The variables that [`Inherit::Minimal`] inherits.
const MINIMAL: [&str; 8] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TERM", "USER", "LOGNAME"];

/// Returns a command that cannot reach a real account, whatever the caller's environment and files contain.
///
/// No `AWS_` variable is inherited; the configuration and credentials files are empty, the instance metadata service is
/// disabled, and the endpoint is the local cloud. `home` becomes the program's `HOME` and `TMPDIR` under
/// [`Inherit::Minimal`], so that nothing is read from, or left in, the user's own.
///
/// The command's environment is complete: nothing else is inherited.
pub fn command(
    program: impl AsRef<OsStr>,
    inherit: Inherit,
    endpoint: Endpoint,
    account: &Account,
    home: &Path,
) -> Command {
    let mut environment: BTreeMap<OsString, OsString> = match inherit {
        Inherit::Minimal => {
            let inherited = MINIMAL.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
            inherited.chain(["HOME", "TMPDIR"].map(|name| (OsString::from(name), home.into()))).collect()
        }
        Inherit::Toolchain => {
            // Variables that cargo sets for the programs that it runs would make another cargo rebuild some crates.
            let dropped: [&[u8]; 3] = [b"AWS_", b"CARGO_PKG_", b"CARGO_MANIFEST_"];
            let is_inherited = |name: &OsString| {
                let name = name.as_encoded_bytes().to_ascii_uppercase();
                !dropped.iter().any(|prefix| name.starts_with(prefix))
            };
            let mut all: BTreeMap<_, _> = std::env::vars_os().filter(|(name, _)| is_inherited(name)).collect();
            // The toolchain may need a proxy to download crates. The local cloud is not behind it.
            for name in ["NO_PROXY", "no_proxy"] {
                let direct = all.entry(name.into()).or_default();
                direct.push(if direct.is_empty() { "127.0.0.1,localhost" } else { ",127.0.0.1,localhost" });
            }
            all
        }
    };
    environment.extend(variables(endpoint, account).map(|(name, value)| (name.into(), value.into())));
    let mut command = Command::new(program);
    command.env_clear().envs(environment);
    command
}

/// Returns the variables that point an AWS SDK or the AWS CLI to the local cloud.
pub fn variables(endpoint: Endpoint, account: &Account) -> [(&'static str, String); 9] {
    [
        ("AWS_ACCESS_KEY_ID", account.id().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ("AWS_ENDPOINT_URL", endpoint.url()),
        ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("AWS_PAGER", String::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::new(([127, 0, 0, 1], 4566).into()).expect("loopback")
    }

    #[test]
    fn endpoint_is_on_loopback() {
        assert!(Endpoint::new(([52, 94, 1, 1], 443).into()).is_err());
        assert!(Endpoint::new(([0, 0, 0, 0], 4566).into()).is_err());
        assert_eq!(endpoint().url(), "http://127.0.0.1:4566");
    }

    #[test]
    fn account_has_twelve_digits() {
        assert!(Account::new("111122223333").is_ok());
        for wrong in ["11112222333", "1111222233334", "prod", "11112222333x"] {
            assert!(Account::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn local_variables_override_inherited_ones() {
        for inherit in [Inherit::Minimal, Inherit::Toolchain] {
            let command = command("true", inherit, endpoint(), &Account::primary(), Path::new("/nonexistent"));
            let set: BTreeMap<_, _> = command.get_envs().collect();
            for (name, value) in variables(endpoint(), &Account::primary()) {
                assert_eq!(set.get(OsStr::new(name)), Some(&Some(OsStr::new(&value))), "{name} under {inherit:?}");
            }
        }
    }
}
