//! What stands between a local command and a real AWS account.
//!
//! Every program that the local commands start gets its environment from [`command`], and every SDK client is built by
//! hand from an [`Endpoint`], which cannot name anything but this machine.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// The one region of the local cloud.
pub const REGION: &str = "us-east-1";

/// The local cloud asks for a secret but has no secrets.
pub const SECRET: &str = "test";

/// A 12-digit account of the local cloud; each has a state of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account(String);

impl Account {
    /// Takes exactly 12 digits: the local cloud reads them from the access key id.
    pub fn new(digits: impl Into<String>) -> Result<Self> {
        let digits = digits.into();
        ensure!(
            digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_digit()),
            "an account is 12 digits, not `{digits}`"
        );
        Ok(Self(digits))
    }

    /// The account that a command uses when it needs only one. Not the local cloud's default account: that one takes
    /// in devices without a certificate.
    pub fn first() -> Self {
        Self("111122223333".to_owned())
    }

    /// The 12 digits.
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// Where the local cloud listens: a port of this machine's loopback interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint(SocketAddr);

impl Endpoint {
    /// Refuses any address that another machine could have.
    pub fn new(address: SocketAddr) -> Result<Self> {
        ensure!(address.ip().is_loopback(), "{address} is not a loopback address");
        Ok(Self(address))
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.0
    }

    /// As a URL, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

/// How much of the caller's environment a program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherit {
    /// Only what any program needs to run. The local cloud hands its environment to every function, and a function in
    /// AWS sees nothing of a developer's shell either.
    Basics,
    /// All but what could lead to AWS: for the Rust toolchain, which has settings of its own (a mirror, a proxy, a
    /// linker).
    Toolchain,
}

/// What survives [`Inherit::Basics`].
const BASICS: [&str; 8] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TERM", "USER", "LOGNAME"];

/// A command that cannot reach a real account, whatever the caller's environment and files say.
///
/// No variable that starts with `AWS_` survives; the configuration and credentials files are empty, the instance
/// metadata service is off, and the endpoint is the local cloud. `home` becomes the program's `HOME` and `TMPDIR` under
/// [`Inherit::Basics`], so that nothing is read from, or left in, the user's own.
///
/// The command's environment is complete: it inherits nothing beyond what it names.
pub fn command(
    program: impl AsRef<OsStr>,
    inherit: Inherit,
    endpoint: Endpoint,
    account: &Account,
    home: &Path,
) -> Command {
    let mut environment: BTreeMap<OsString, OsString> = match inherit {
        Inherit::Basics => {
            let basics = BASICS.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
            basics.chain(["HOME", "TMPDIR"].map(|name| (OsString::from(name), home.into()))).collect()
        }
        Inherit::Toolchain => {
            // What cargo tells a program of its own package would make another cargo build some crates anew.
            let dropped: [&[u8]; 3] = [b"AWS_", b"CARGO_PKG_", b"CARGO_MANIFEST_"];
            let is_kept = |name: &OsString| {
                let name = name.as_encoded_bytes().to_ascii_uppercase();
                !dropped.iter().any(|prefix| name.starts_with(prefix))
            };
            let mut all: BTreeMap<_, _> = std::env::vars_os().filter(|(name, _)| is_kept(name)).collect();
            // A proxy may stay, for crates; the local cloud is not behind it.
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

/// The variables that point an AWS SDK or the AWS CLI at the local cloud and at nothing else.
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
    fn an_endpoint_is_on_this_machine() {
        assert!(Endpoint::new(([52, 94, 1, 1], 443).into()).is_err());
        assert!(Endpoint::new(([0, 0, 0, 0], 4566).into()).is_err());
        assert_eq!(endpoint().url(), "http://127.0.0.1:4566");
    }

    #[test]
    fn an_account_is_twelve_digits() {
        assert!(Account::new("111122223333").is_ok());
        for wrong in ["11112222333", "1111222233334", "prod", "11112222333x"] {
            assert!(Account::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_child_gets_the_local_variables_last() {
        for inherit in [Inherit::Basics, Inherit::Toolchain] {
            let command = command("true", inherit, endpoint(), &Account::first(), Path::new("/nonexistent"));
            let set: BTreeMap<_, _> = command.get_envs().collect();
            for (name, value) in variables(endpoint(), &Account::first()) {
                assert_eq!(set.get(OsStr::new(name)), Some(&Some(OsStr::new(&value))), "{name} under {inherit:?}");
            }
        }
    }
}
