//! The environment of all subjects: a fake AWS and the deployment packages.

use std::{
    cell::Cell,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use crate::{
    actuation::actions,
    aws::{ACCOUNT, FakeAws, REGION},
    batch::{DESTINATION, thresholds},
    dynamodb::{ACTUATOR_TABLE, ALARMS_TABLE},
    event::{IDEMPOTENCY_TABLE, PREFIX, QUARANTINE_TABLE, queue, topic_arn},
    function::{FUNCTIONS, Function},
    sandbox::which,
    subject::{Peer, Subject},
};

/// The environment of all subjects.
#[derive(Debug)]
pub struct World {
    /// The fake AWS.
    pub aws: FakeAws,
    /// A temporary directory.
    pub dir: TempDir,
}

impl World {
    /// Starts a fake AWS with a thresholds document and an actions document, and creates an empty directory.
    pub async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("gatehouse-bench-").tempdir()?;
        let aws = FakeAws::start(dir.path()).await?;
        aws.tables.put_document(ALARMS_TABLE, "thresholds", &thresholds())?;
        aws.tables.put_document(ACTUATOR_TABLE, "answers", &actions())?;
        Ok(Self { aws, dir })
    }

    /// Returns a subject's complete environment.
    pub fn environment(&self, subject: &Subject) -> Vec<(&'static str, String)> {
        let function = subject.function_name();
        let mut environment = vec![
            ("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            ("AWS_SESSION_TOKEN", "AQoDYXdzEJr".repeat(60)),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
            ("AWS_ENDPOINT_URL_DYNAMODB", self.aws.dynamodb.clone()),
            ("AWS_ENDPOINT_URL_SNS", self.aws.sns.clone()),
            ("AWS_ENDPOINT_URL_SQS", self.aws.sqs.clone()),
            ("AWS_ENDPOINT_URL_IOT", self.aws.iot.clone()),
            ("AWS_ENDPOINT_URL_IOT_DATA_PLANE", self.aws.shadows.clone()),
            ("AWS_LAMBDA_FUNCTION_NAME", format!("{PREFIX}-{function}")),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{PREFIX}-{function}")),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/21/[$LATEST]bench".to_owned()),
            ("LAMBDA_TASK_ROOT", subject.task_root.display().to_string()),
            ("LANG", "en_US.UTF-8".to_owned()),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("TZ", ":UTC".to_owned()),
            ("QUARANTINE_TABLE", QUARANTINE_TABLE.to_owned()),
            ("IDEMPOTENCY_TABLE", IDEMPOTENCY_TABLE.to_owned()),
            ("TOPIC_ARN", topic_arn(function)),
            ("QUEUE_URL", format!("{}/{ACCOUNT}/{}", self.aws.sqs, queue(function))),
            ("DESTINATION_QUEUE_URL", format!("{}/222222222222/{DESTINATION}", self.aws.sqs)),
        ];
        let trust = match subject.peer {
            Peer::Rust | Peer::AwsLc | Peer::Empty => "SSL_CERT_FILE",
            Peer::Node => "NODE_EXTRA_CA_CERTS",
            Peer::Python => "AWS_CA_BUNDLE",
        };
        environment.push((trust, self.aws.ca.display().to_string()));
        let own = subject.function.map(|function| function.environment).unwrap_or_default();
        environment.extend(own.iter().map(|(name, value)| (*name, (*value).to_owned())));
        environment.extend(subject.environment.iter().cloned());
        environment
    }

    /// Returns the subjects, and notes on missing ones and on comparisons.
    pub fn subjects(
        &self,
        root: &Path,
        zips: &Path,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(Vec<Subject>, Vec<String>)> {
        let mut subjects = vec![self.native(None, Peer::Empty, &root.join("target/peers/lambda/empty"))?];
        let mut notes = Vec::new();
        for function in FUNCTIONS.iter().filter(|function| wanted(function.name)) {
            subjects.push(self.native(Some(function), Peer::Rust, &zips.join(function.name))?);
            for peer in function.peers {
                let subject = match peer {
                    Peer::Python => self.python(root, function)?,
                    Peer::Node => self.node(root, function)?,
                    Peer::AwsLc => {
                        Ok(self.native(Some(function), *peer, &root.join("target/peers/aws-lc").join(function.name))?)
                    }
                    Peer::Rust | Peer::Empty => continue,
                };
                match subject {
                    Ok(subject) => subjects.push(subject),
                    Err(why) => notes.push(why),
                }
            }
            notes.extend(function.note.map(str::to_owned));
        }
        Ok((subjects, notes))
    }

    fn task_root(&self, function: &str, peer: Peer) -> Result<PathBuf> {
        let dir = self.dir.path().join(format!("{function}-{}", peer.name()));
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Returns a function as deployed: the `bootstrap` in its zip.
    fn native(&self, function: Option<&'static Function>, peer: Peer, dir: &Path) -> Result<Subject> {
        let zip = dir.join("bootstrap.zip");
        let file = fs::File::open(&zip)
            .with_context(|| format!("failed to read {} (`make bench` builds it)", zip.display()))?;
        let zip_bytes = file.metadata()?.len();
        let task_root = self.task_root(function.map_or("empty", |it| it.name), peer)?;
        ZipArchive::new(file)
            .and_then(|mut archive| archive.extract(&task_root))
            .with_context(|| format!("failed to extract {}", zip.display()))?;
        Ok(Subject {
            function,
            peer,
            program: task_root.join("bootstrap"),
            arguments: Vec::new(),
            task_root,
            zip_bytes,
            environment: Vec::new(),
            events: Cell::default(),
            newest: Cell::default(),
        })
    }

    /// Returns the peer in `tests/bench/peers/python`, run by AWS's runtime client. Its zip contains only the handler,
    /// since Lambda's image contains boto3.
    fn python(&self, root: &Path, function: &'static Function) -> Result<Result<Subject, String>> {
        let program = root.join(".tools/peers/bin/python");
        if !program.is_file() {
            return Ok(Err(format!("{} (python): skipped, `.tools/peers` is not installed", function.name)));
        }
        let task_root = self.task_root(function.name, Peer::Python)?;
        let handler = format!("{}.py", function.name);
        fs::copy(root.join("tests/bench/peers/python").join(&handler), task_root.join(&handler))?;
        Ok(Ok(Subject {
            function: Some(function),
            peer: Peer::Python,
            program,
            arguments: ["-m", "awslambdaric", &format!("{}.handler", function.name)].map(OsString::from).into(),
            zip_bytes: zipped_size(&task_root)?,
            environment: vec![("_HANDLER", format!("{}.handler", function.name))],
            task_root,
            events: Cell::default(),
            newest: Cell::default(),
        }))
    }

    /// Returns the peer in `tests/bench/peers/node`, run by a loop that is lighter than Lambda's.
    fn node(&self, root: &Path, function: &'static Function) -> Result<Result<Subject, String>> {
        let skipped = |why: &str| Ok(Err(format!("{} (node): skipped, {why}", function.name)));
        let Some(program) = which("node") else {
            return skipped("there is no `node` on the path");
        };
        let modules = root.join(".tools/peers-node").join(function.name).join("node_modules");
        if !modules.is_dir() {
            return skipped(&format!("`.tools/peers-node/{}` is not installed", function.name));
        }
        let sources = root.join("tests/bench/peers/node");
        let task_root = self.task_root(function.name, Peer::Node)?;
        let handler = format!("{}.mjs", function.name);
        fs::copy(sources.join(function.name).join(&handler), task_root.join(&handler))?;
        std::os::unix::fs::symlink(&modules, task_root.join("node_modules"))?;
        Ok(Ok(Subject {
            function: Some(function),
            peer: Peer::Node,
            program,
            // Lambda's heap limits at 128 MB.
            arguments: vec![
                "--max-old-space-size=115".into(),
                "--max-semi-space-size=6".into(),
                sources.join("runtime.mjs").into(),
            ],
            zip_bytes: zipped_size(&task_root)?,
            environment: vec![("_HANDLER", format!("{}.handler", function.name))],
            task_root,
            events: Cell::default(),
            newest: Cell::default(),
        }))
    }
}

/// Returns the size of a directory's zip, with symbolic links followed, as a deployment tool creates it.
fn zipped_size(dir: &Path) -> Result<u64> {
    let mut zip = ZipWriter::new(tempfile::tempfile()?);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                zip.start_file_from_path(path.strip_prefix(dir)?, options)?;
                io::copy(&mut fs::File::open(&path)?, &mut zip)?;
            }
        }
    }
    let size = zip.finish()?.metadata()?.len();
    ensure!(size > 0, "the zip of {} is empty", dir.display());
    Ok(size)
}
