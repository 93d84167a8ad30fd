//! Network namespaces and the veth links between them, made with iproute2 and removed when dropped.
//! Names carry the maker's pid, so that a later run can sweep what a killed one left behind.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

use crate::{Error, IoContext, Result};

const PREFIX: &str = "hawser";

/// Runs `ip` with these words.
pub fn ip(words: &[&str]) -> Result<()> {
    run("ip", words)
}

/// Runs a program of the host and fails with what it said.
pub fn run(program: &str, words: &[&str]) -> Result<()> {
    let command = || format!("{program} {}", words.join(" "));
    let out = Command::new(program).args(words).output().doing(command())?;
    if out.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Error::Command { command: command(), reason })
}

/// Says plainly what is missing when namespaces cannot be made here.
pub fn check_privilege() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::Privilege(
            "this needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN) to make network namespaces and TAP devices: run it with sudo".into(),
        ));
    }
    if Command::new("ip").arg("-V").output().is_err() {
        return Err(Error::Privilege("this needs the command `ip`: install iproute2".into()));
    }
    if !PathBuf::from("/dev/net/tun").exists() {
        return Err(Error::Privilege("/dev/net/tun is missing: load the kernel module `tun`".into()));
    }
    Ok(())
}

/// Removes namespaces whose maker is dead and in which nothing lives any more: not those of a lab that was kept.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let mut parts = name.splitn(3, '-');
        let (Some(PREFIX), Some(pid)) = (parts.next(), parts.next()) else { continue };
        if pid.parse::<u32>().is_err() || PathBuf::from(format!("/proc/{pid}")).exists() {
            continue;
        }
        let alive = Command::new("ip").args(["netns", "pids", &name]).output();
        if alive.is_ok_and(|out| out.stdout.is_empty()) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// One host of the world. Dropping it removes the namespace and every link that ends in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    keep: bool,
}

impl Namespace {
    /// Makes the namespace `hawser-<pid>-<name>` with its loopback up.
    pub fn new(name: &str) -> Result<Namespace> {
        let name = format!("{PREFIX}-{}-{name}", std::process::id());
        let _ = ip(&["netns", "del", &name]);
        ip(&["netns", "add", &name])?;
        let ns = Namespace { name, keep: false };
        ns.ip(&["link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// The name that `ip netns exec` takes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leave it standing when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs `ip` inside.
    pub fn ip(&self, words: &[&str]) -> Result<()> {
        let mut all = vec!["-n", &self.name];
        all.extend(words);
        ip(&all)
    }

    /// Sets a sysctl of this namespace, given as a path below /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let (path, value) = (format!("/proc/sys/{path}"), value.to_owned());
        self.inside(move || std::fs::write(&path, value).doing(format!("write {path}")))
    }

    /// Runs `f` on a thread of its own that has entered this namespace; sockets and processes it makes belong to it.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|s| {
            s.spawn(|| {
                self.enter()?;
                f()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Like [`inside`](Namespace::inside), on these cores only; processes it starts stay on them. No core: on all.
    pub fn inside_on<T: Send>(&self, cores: &[usize], f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.inside(|| {
            pin(cores)?;
            f()
        })
    }

    /// Moves the calling thread into this namespace for good.
    pub fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).doing(format!("open {path}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).doing(format!("enter {}", self.name))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep {
            let _ = ip(&["netns", "del", &self.name]);
        }
    }
}

/// Keeps the calling thread on these cores; no core leaves it as it is. Threads and processes it starts inherit this.
pub fn pin(cores: &[usize]) -> Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().try_for_each(|&core| set.set(core)).doing(format!("choose cores {cores:?}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).doing(format!("use cores {cores:?}"))
}

/// Joins `a` and `b` by a veth pair; each end is (namespace, interface name, address/bits or empty).
pub fn link(a: (&Namespace, &str, &str), b: (&Namespace, &str, &str)) -> Result<()> {
    a.0.ip(&["link", "add", a.1, "type", "veth", "peer", "name", b.1, "netns", b.0.name()])?;
    for (ns, dev, address) in [a, b] {
        if !address.is_empty() {
            ns.ip(&["addr", "add", address, "dev", dev, "nodad"])?;
        }
        ns.ip(&["link", "set", dev, "up"])?;
    }
    Ok(())
}

/// A bridge in `ns` with an address of its own; the far ends of links are plugged in with [`plug`].
pub fn bridge(ns: &Namespace, name: &str, address: &str) -> Result<()> {
    ns.ip(&["link", "add", name, "type", "bridge"])?;
    ns.ip(&["addr", "add", address, "dev", name])?;
    ns.ip(&["link", "set", name, "up"])
}

/// Connects `dev` of `host` (with `address`) to `bridge` in `hub`.
pub fn plug(hub: &Namespace, bridge: &str, host: (&Namespace, &str, &str)) -> Result<()> {
    let port = format!("{bridge}.{}", host.0.name().rsplit('-').next().unwrap_or("host"));
    link((hub, &port, ""), host)?;
    hub.ip(&["link", "set", &port, "master", bridge])
}
