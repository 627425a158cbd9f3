//! Limits the CPU as Lambda does, with a cgroup quota (cgroup version 1 or 2).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

/// Lambda's share for 128 MB in microseconds per period: 128 / 1769 of a CPU.
const QUOTA_US: u32 = 1440;
/// The period in microseconds. With the kernel's default of 100 ms, a short invocation would never be throttled.
const PERIOD_US: u32 = 20_000;

/// A place where cgroups can be created.
#[derive(Debug, Clone)]
pub struct Cgroups {
    parent: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// Finds a place by trial, because it differs between distributions, containers and users.
    pub fn find() -> Result<Self, String> {
        let mut errors = Vec::new();
        for found in candidates() {
            match found.create().and_then(|group| group.limit()) {
                Ok(()) => return Ok(found),
                Err(error) => errors.push(format!("{}: {error}", found.parent.display())),
            }
        }
        if errors.is_empty() {
            errors.push("no cgroup with a CPU controller is mounted".to_owned());
        }
        Err(errors.join("; "))
    }

    /// Creates a cgroup without a limit.
    pub fn create(&self) -> io::Result<Cgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = self.parent.join(format!("gatehouse-bench-{}-{count}", std::process::id()));
        fs::create_dir(&dir)?;
        let group = Cgroup { dir, unified: self.unified };
        if self.unified && !group.dir.join("cpu.max").exists() {
            fs::write(self.parent.join("cgroup.subtree_control"), "+cpu")?;
        }
        Ok(group)
    }
}

/// Lists this process's own cgroup, which a user or container may be able to write to, then the root.
fn candidates() -> Vec<Cgroups> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut found = Vec::new();
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let unified = match kind {
            "cgroup" if options.split(',').any(|option| option == "cpu") => false,
            "cgroup2" if has_cpu(Path::new(at)) => true,
            _ => continue,
        };
        // `4:cpu,cpuacct:/user.slice`, or for version 2 `0::/user.slice`.
        let path = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            let ours = if unified { controllers.is_empty() } else { controllers.split(',').any(|name| name == "cpu") };
            ours.then_some(path.trim_start_matches('/'))
        });
        let top = PathBuf::from(at);
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            found.push(Cgroups { parent: top.join(path), unified });
        }
        found.push(Cgroups { parent: top, unified });
    }
    found
}

fn has_cpu(mount: &Path) -> bool {
    fs::read_to_string(mount.join("cgroup.controllers"))
        .is_ok_and(|names| names.split_whitespace().any(|name| name == "cpu"))
}

/// A cgroup. It is removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// Returns the file to which a process writes `0` to join.
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Limits the CPU to the share of a 128 MB function.
    pub fn limit(&self) -> io::Result<()> {
        if self.unified {
            fs::write(self.dir.join("cpu.max"), format!("{QUOTA_US} {PERIOD_US}"))
        } else {
            fs::write(self.dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            fs::write(self.dir.join("cpu.cfs_quota_us"), QUOTA_US.to_string())
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel releases a killed process a moment after it was reaped.
        for _ in 0..50 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        eprintln!("failed to remove {}", self.dir.display());
    }
}
