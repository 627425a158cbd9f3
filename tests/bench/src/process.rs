//! The resources that a process and its descendants have used, from `/proc`.

use std::{collections::HashMap, fs};

use anyhow::{Context, Result};

/// CPU time in nanoseconds, by process and thread.
pub type Cpu = HashMap<(u32, String), u64>;

/// Lists `root` and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The second field, in parentheses, is a name that may contain any character.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    tree
}

/// Returns the CPU time so far, from `schedstat`, because `stat` has a resolution of 10 ms only.
pub fn cpu(root: u32) -> Cpu {
    let mut cpu = Cpu::new();
    for pid in tree(root) {
        for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let thread = entry.file_name().to_string_lossy().into_owned();
            let used = fs::read_to_string(entry.path().join("schedstat"))
                .ok()
                .and_then(|text| text.split(' ').next()?.parse().ok());
            if let Some(used) = used {
                cpu.insert((pid, thread), used);
            }
        }
    }
    cpu
}

/// Returns the CPU time between two measurements, in microseconds.
pub fn cpu_us_between(before: &Cpu, after: &Cpu) -> f64 {
    let ns: u64 =
        after.iter().map(|(thread, used)| used.saturating_sub(before.get(thread).copied().unwrap_or(0))).sum();
    ns as f64 / 1e3
}

/// Returns the peak memory in MiB, summed over the tree.
pub fn peak_mib(root: u32) -> Result<f64> {
    let mut kib = 0;
    for pid in tree(root) {
        let status =
            fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} has ended"))?;
        let peak: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .context("no VmHWM in /proc")?
            .trim()
            .parse()?;
        kib += peak;
    }
    Ok(kib as f64 / 1024.0)
}
