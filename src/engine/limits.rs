//! What the system lets this process use: processors, memory, descriptors.
//!
//! Asked once, at start, by whoever sizes the workers and the budget. Nothing here is for a worker's
//! turn: these calls read files and may take the allocator's locks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Processors this process may use: the affinity mask (which a cpuset also sets), and at most the
/// quota of its control group, v1 or v2, rounded down. At least one.
#[must_use]
pub fn cores() -> usize {
    // The standard library looks at all three on Linux.
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Numbers of the processors the calling thread may run on, rising.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero set is a valid empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours and its size is given; 0 is the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) })?;
    #[allow(clippy::cast_sign_loss)] // A positive constant.
    let end = libc::CPU_SETSIZE as usize;
    // SAFETY: `cpu` is below the size of the set.
    Ok((0..end)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Keeps the calling thread on one of `cpus`, the one of its number; numbers beyond the end start
/// over. Returns which.
pub fn pin_thread(number: usize, cpus: &[usize]) -> io::Result<usize> {
    let cpu = cpus
        .get(number % cpus.len().max(1))
        .copied()
        .filter(|cpu| *cpu < libc::CPU_SETSIZE as usize)
        .ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: an all-zero set is a valid empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is ours and its size is given; 0 is the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })?;
    Ok(cpu)
}

/// Bytes of memory this process may use: the machine's, and at most the limit of its control group
/// and of every group above it, v1 or v2.
pub fn memory() -> io::Result<u64> {
    let machine = machine_memory()?;
    Ok(group_memory(Path::new("/")).map_or(machine, |limit| limit.min(machine)))
}

fn machine_memory() -> io::Result<u64> {
    // SAFETY: all zeroes is a valid value of this struct of numbers.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: the struct is ours.
    check(unsafe { libc::sysinfo(&raw mut info) })?;
    Ok(info.totalram.saturating_mul(u64::from(info.mem_unit)))
}

/// The lowest memory limit of this process's control groups; `root` is where `/` is.
fn group_memory(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        // hierarchy:controllers:path
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (kind, file) = if controllers.is_empty() {
            ("cgroup2", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("cgroup", "memory.limit_in_bytes")
        } else {
            return None;
        };
        let dir = group_dir(&mounts, kind, path)?;
        lowest_limit(root, &dir, file)
    });
    limits.min()
}

/// Where the group `path` is mounted, with the mount itself: (mount point, path below it).
fn group_dir(mounts: &str, kind: &str, path: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        // id parent device root point options [tags] - type source superoptions
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        if right.next()? != kind {
            return None;
        }
        let memory = right.nth(1)?.split(',').any(|option| option == "memory");
        if kind == "cgroup" && !memory {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let (top, point) = (left.next()?, left.next()?);
        // In a container the mount may show only its own group, while the path is the host's.
        let below = Path::new(path)
            .strip_prefix(top)
            .unwrap_or_else(|_| Path::new(""));
        Some((PathBuf::from(point), below.to_path_buf()))
    })
}

fn lowest_limit(root: &Path, (point, below): &(PathBuf, PathBuf), file: &str) -> Option<u64> {
    let point = root.join(point.strip_prefix("/").unwrap_or(point));
    below
        .ancestors()
        .filter_map(|dir| {
            let text = fs::read_to_string(point.join(dir).join(file)).ok()?;
            // "max" in v2; v1 writes a huge number, which the machine's memory undercuts.
            text.trim().parse::<u64>().ok()
        })
        .min()
}

/// The limit on open descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Soft limit before.
    pub before: u64,
    /// Soft limit now.
    pub now: u64,
    /// What it cannot be raised above.
    pub hard: u64,
}

/// Raises the limit on open descriptors to the hard one, and tells what it is. It holds per
/// descriptor table, so for all threads of the process together.
pub fn raise_descriptors() -> io::Result<Descriptors> {
    let (before, hard) = descriptors()?;
    if before < hard {
        let limit = libc::rlimit {
            rlim_cur: hard,
            rlim_max: hard,
        };
        // SAFETY: the struct is ours.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    }
    let (now, hard) = descriptors()?;
    Ok(Descriptors { before, now, hard })
}

fn descriptors() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the struct is ours.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Gives what the allocator keeps free back to the system; true when some went. It holds each of the
/// allocator's locks for as long as that part takes, so it is for the control thread, after a burst
/// has passed, and not often. Nothing happens with another C library than GNU's.
pub fn trim_allocator() -> bool {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the allocator's own locks; no memory in use is touched.
    let trimmed = unsafe { libc::malloc_trim(0) } != 0;
    #[cfg(not(target_env = "gnu"))]
    let trimmed = false;
    trimmed
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core_and_a_thread_can_keep_it() {
        let cpus = allowed_cpus().unwrap();
        assert!(cores() >= 1 && cores() <= cpus.len());
        std::thread::spawn(move || {
            let wanted = cpus[1 % cpus.len()];
            assert_eq!(pin_thread(1 + cpus.len(), &cpus).unwrap(), wanted);
            assert_eq!(allowed_cpus().unwrap(), [wanted]);
        })
        .join()
        .unwrap();
        assert!(pin_thread(0, &[]).is_err());
        assert!(pin_thread(0, &[1 << 20]).is_err());
    }

    #[test]
    fn memory_is_at_most_the_machines() {
        let memory = memory().unwrap();
        assert!(memory > 0 && memory <= machine_memory().unwrap());
    }

    #[test]
    fn descriptors_are_raised_to_the_hard_limit() {
        let raised = raise_descriptors().unwrap();
        assert_eq!(raised.now, raised.hard);
        assert!(raised.before <= raised.now);
        assert_eq!(raise_descriptors().unwrap().before, raised.hard);
    }

    #[test]
    fn the_allocator_can_be_trimmed() {
        drop(vec![1u8; 100_000]);
        trim_allocator();
    }

    /// A file system with the given files, removed at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let id = std::process::id();
            let root = std::env::temp_dir().join(format!("moorgate-limits-{id}-{name}"));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MOUNT_V2: &str =
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_lowest_group_above_counts() {
        let tree = Tree::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/system.slice/moorgate.service\n"),
                ("proc/self/mountinfo", MOUNT_V2),
                ("sys/fs/cgroup/system.slice/memory.max", "1073741824\n"),
                (
                    "sys/fs/cgroup/system.slice/moorgate.service/memory.max",
                    "max\n",
                ),
            ],
        );
        assert_eq!(group_memory(&tree.0), Some(1 << 30));
    }

    #[test]
    fn no_limit_is_none() {
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", MOUNT_V2),
        ];
        assert_eq!(group_memory(&Tree::new("none", &files).0), None);
        assert_eq!(group_memory(&Tree::new("nothing", &[]).0), None);
    }

    #[test]
    fn a_container_of_version_1_sees_its_own_group_as_the_mount() {
        let tree = Tree::new(
            "v1",
            &[
                (
                    "proc/self/cgroup",
                    "5:cpu,cpuacct:/docker/a1\n4:memory:/docker/a1\n0::/\n",
                ),
                (
                    "proc/self/mountinfo",
                    "30 23 0:27 /docker/a1 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n\
                     31 23 0:28 /docker/a1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
                ),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n"),
            ],
        );
        assert_eq!(group_memory(&tree.0), Some(1 << 29));
    }

    #[test]
    fn a_path_that_the_mount_does_not_show_falls_back_to_the_mount() {
        let tree = Tree::new(
            "host",
            &[
                ("proc/self/cgroup", "4:memory:/kubepods/pod1/c1\n"),
                (
                    "proc/self/mountinfo",
                    "31 23 0:28 /elsewhere /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
                ),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
            ],
        );
        assert_eq!(group_memory(&tree.0), Some(1_000_000));
    }
}
