//! Tests `gatehouse ca` without AWS: a CA, its devices' certificates, and which CAs and CRLs can be used.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects by failing there")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn ca(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatehouse"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("GATEHOUSE_CA_DIR", home);
    command.arg("ca").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn openssl(directory: &Path, arguments: &str) -> String {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn issued_certificate_belongs_to_its_ca_and_is_kept() {
    for algorithm in ["p256", "rsa"] {
        let home = TempDir::new().unwrap();
        let id = stdout(&ca(home.path(), &["create", "--algorithm", algorithm]));
        assert_eq!(stdout(&ca(home.path(), &["create", "--algorithm", algorithm])), id);
        let issue = ["issue", "--thing", "front-gate", "--algorithm", algorithm];
        let issued = stdout(&ca(home.path(), &issue));
        assert_eq!(stdout(&ca(home.path(), &issue)), issued);
        assert_eq!((id.len(), issued.len()), (64, 64));

        let directory = home.path().join("sample");
        openssl(&directory, "verify -x509_strict -CAfile ca.crt -purpose sslclient devices/front-gate.crt");
        let text = openssl(&directory, "x509 -in devices/front-gate.crt -noout -text -nameopt utf8");
        for part in ["Subject: CN=front-gate", "Digital Signature", "TLS Web Client Authentication", "CA:FALSE"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let fingerprint = openssl(&directory, "x509 -in devices/front-gate.crt -noout -fingerprint -sha256");
        assert!(fingerprint.replace(':', "").to_lowercase().trim().ends_with(&issued), "{fingerprint}");
        let chain = fs::read_to_string(directory.join("devices/front-gate.chain.pem")).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
        for key in ["ca.key", "devices/front-gate.key"] {
            assert_eq!(fs::metadata(directory.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
    }
}

#[test]
fn renewal_keeps_the_old_certificate_and_warns() {
    let home = TempDir::new().unwrap();
    stdout(&ca(home.path(), &["create"]));
    let old = stdout(&ca(home.path(), &["issue", "--thing", "gate"]));
    let renewed = ca(home.path(), &["issue", "--thing", "gate", "--renew"]);
    assert_ne!(stdout(&renewed), old);
    assert!(stderr(&renewed).contains("JitrAllowRotation=true"), "{renewed:?}");
    assert!(home.path().join("sample/devices/gate.old.crt").exists());
    assert_eq!(fs::read_to_string(home.path().join("sample/index.txt")).unwrap().lines().count(), 2);
}

#[test]
fn certificate_of_another_ca_is_not_kept() {
    let home = TempDir::new().unwrap();
    for name in ["sample", "other"] {
        stdout(&ca(home.path(), &["create", "--name", name]));
    }
    stdout(&ca(home.path(), &["issue", "--name", "other", "--thing", "gate"]));
    for file in ["gate.crt", "gate.key"] {
        fs::copy(home.path().join("other/devices").join(file), home.path().join("sample/devices").join(file)).unwrap();
    }
    let refused = ca(home.path(), &["issue", "--thing", "gate"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("it was issued by another CA"), "{refused:?}");
}

#[test]
fn key_is_never_written_where_git_could_commit_it() {
    let home = TempDir::new().unwrap();
    let initialized = Command::new("git").args(["init", "--quiet"]).current_dir(home.path()).status().unwrap();
    assert!(initialized.success());
    let refused = ca(home.path(), &["create"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("a private key could be committed"), "{refused:?}");
    assert!(!home.path().join("sample").exists());
    fs::write(home.path().join(".gitignore"), "*\n").unwrap();
    stdout(&ca(home.path(), &["create"]));
}

/// Creates `ca.pem` with these extensions, signed with `ca.key`, or by a root CA on P-521.
fn make_ca(directory: &Path, extensions: &str, is_signed_by_root: bool) {
    fs::write(directory.join("ext"), extensions).unwrap();
    openssl(directory, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key");
    openssl(directory, "req -new -key ca.key -subj /CN=CA -out ca.csr");
    let signer = if is_signed_by_root {
        openssl(directory, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out root.key");
        openssl(directory, "req -x509 -new -sha512 -key root.key -subj /CN=Root -days 30 -out root.pem");
        "-CA root.pem -CAkey root.key -set_serial 7 -sha512"
    } else {
        "-signkey ca.key"
    };
    openssl(directory, &format!("x509 -req -in ca.csr {signer} -days 7 -extfile ext -out ca.pem"));
}

#[test]
fn ca_is_judged_by_the_rules_of_the_function() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("ca.pem");
    let file = file.to_str().unwrap();
    for (extensions, is_signed_by_root, expected) in [
        // Without a key identifier; signed with an algorithm that the function cannot verify.
        ("basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\n", true, "can be registered"),
        ("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n", false, "its key usage lacks cRLSign"),
        ("basicConstraints=CA:FALSE\n", false, "its basic constraints lack CA:TRUE"),
        ("basicConstraints=CA:TRUE\nkeyUsage=cRLSign\n", false, "its key usage lacks keyCertSign"),
        ("basicConstraints=CA:TRUE\nnameConstraints=critical,permitted;DNS:example.com\n", false, "name constraints"),
        ("basicConstraints=CA:TRUE\n1.3.6.1.4.1.99999.1=critical,DER:0500\n", false, "1.3.6.1.4.1.99999.1"),
    ] {
        make_ca(home.path(), extensions, is_signed_by_root);
        let checked = ca(home.path(), &["check", "--certificate", file]);
        assert!(stderr(&checked).contains(expected), "{extensions}: {checked:?}");
        let is_usable = ["can be registered", "its key usage lacks cRLSign"].contains(&expected);
        assert_eq!(checked.status.success(), is_usable, "{extensions}: {checked:?}");
    }
}

#[test]
fn crl_is_judged_by_the_rules_of_the_function() {
    let home = TempDir::new().unwrap();
    make_ca(home.path(), "basicConstraints=critical,CA:TRUE\n", false);
    let (file, list) = (home.path().join("ca.pem"), home.path().join("crl.pem"));
    let (file, list) = (file.to_str().unwrap(), list.to_str().unwrap());
    for (number, extensions, expected) in [
        ("05", "", "CRL number 5 (hexadecimal) of the CA of"),
        ("05", "issuingDistributionPoint=critical,@point\n[point]\nonlyuser=TRUE\n", "can be published"),
        ("05", "issuingDistributionPoint=critical,@point\n[point]\nonlyCA=TRUE\n", "its issuing distribution point"),
        (&"FF".repeat(20), "", "no higher number could follow"),
    ] {
        fs::write(home.path().join("index"), "").unwrap();
        fs::write(home.path().join("number"), number).unwrap();
        let conf = "[ca]\ndefault_ca=c\n[c]\ndatabase=index\ncrlnumber=number\ndefault_crl_days=7\ndefault_md=sha256\n\
                    crl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n";
        fs::write(home.path().join("conf"), format!("{conf}{extensions}")).unwrap();
        openssl(home.path(), "ca -config conf -gencrl -cert ca.pem -keyfile ca.key -out crl.pem");
        let checked = ca(home.path(), &["check", "--certificate", file, "--crl", list]);
        assert!(stderr(&checked).contains(expected), "{extensions}: {checked:?}");
    }
}

#[test]
fn invalid_names_are_usage_errors() {
    let home = TempDir::new().unwrap();
    for arguments in [&["issue", "--thing", "a/b"][..], &["create", "--name", "a/b"], &["register", "--key", "ca.key"]]
    {
        let refused = ca(home.path(), arguments);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
}
