//! Asking the kernel what it can do, by trying, not by version number: distributions backport and sandboxes forbid. The
//! report is for operators: what is there, what is missing, since which kernel it exists and what its absence costs.

use std::{
    fmt, fs, io,
    os::{fd::AsFd, unix::net::UnixDatagram},
    time::{Duration, Instant},
};

use io_uring::{
    IoUring, Probe, cqueue, opcode, squeue,
    types::{self, BufRingEntry},
};

use crate::{Backend, buffers::BufferGroup, sys, tap, udp};

/// The oldest kernel whose io_uring has all that a ring cannot do without.
pub const MINIMUM_KERNEL: &str = "6.0";
/// From here on nothing falls back.
pub const RECOMMENDED_KERNEL: &str = "6.12";

const OLDER_CALLS: &str = "recvmmsg, sendmmsg and epoll: more CPU per packet";
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";
const PROBE_ENTRIES: u32 = 16;
const PROBE_WAIT: Duration = Duration::from_millis(500);

/// The kernel lacks something essential, or forbids it. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {advice}")]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What the operator can do.
    pub advice: String,
}

/// One thing that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name in the kernel's words.
    pub name: &'static str,
    /// Whether it works here.
    pub present: bool,
    /// The mainline kernel that brought it.
    pub since: &'static str,
    /// What is done without it.
    pub without: &'static str,
}

/// The result of [`probe`]. Its text form is a table.
#[derive(Clone, Debug)]
pub struct Features(pub Vec<Feature>);

impl Features {
    /// Whether a feature was found.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|feature| feature.name == name && feature.present)
    }

    /// What was looked for and not found.
    pub fn missing(&self) -> impl Iterator<Item = &Feature> {
        self.0.iter().filter(|feature| !feature.present)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Feature { name, present, since, without } in &self.0 {
            let (mark, rest) =
                if *present { ("yes", String::new()) } else { ("no", format!("  without it: {without}")) };
            writeln!(f, "{name:<28} {mark:<4} (Linux {since}){rest}")?;
        }
        Ok(())
    }
}

/// How a ring was set up: the best set of flags that this kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// `DEFER_TASKRUN | SINGLE_ISSUER` (6.1).
    Deferred,
    /// `COOP_TASKRUN | SINGLE_ISSUER` (6.0).
    Cooperative,
    /// No flags.
    Plain,
    /// No io_uring: `recvmmsg`, `sendmmsg` and epoll.
    Mmsg,
}

impl Setup {
    /// Those of io_uring, best first.
    pub(crate) const ALL: [Setup; 3] = [Setup::Deferred, Setup::Cooperative, Setup::Plain];
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setup::Deferred => "io_uring, DEFER_TASKRUN",
            Setup::Cooperative => "io_uring, COOP_TASKRUN",
            Setup::Plain => "io_uring",
            Setup::Mmsg => "recvmmsg, sendmmsg and epoll",
        })
    }
}

/// What rings will work by, and why.
#[derive(Clone, Debug)]
pub struct Choice {
    /// One of the two; never [`Backend::Auto`].
    pub backend: Backend,
    /// Why, for operators.
    pub why: String,
    /// What was looked for.
    pub features: Features,
}

/// Decides what rings will work by. An error means that io_uring was asked for and cannot work here.
pub fn choose(wanted: Backend) -> Result<Choice, Missing> {
    let (backend, why, features) = match wanted {
        Backend::Mmsg => (Backend::Mmsg, "asked for".to_owned(), without_io_uring()),
        Backend::IoUring => (Backend::IoUring, "asked for".to_owned(), probe()?),
        Backend::Auto => match probe() {
            Ok(features) => (Backend::IoUring, "the kernel has all that is needed of it".to_owned(), features),
            Err(missing) => (Backend::Mmsg, missing.to_string(), without_io_uring()),
        },
    };
    Ok(Choice { backend, why, features })
}

/// Makes a ring with the first of `setups` that this kernel takes.
pub(crate) fn build(sq_entries: u32, cq_entries: u32, setups: &[Setup]) -> Result<(IoUring, Setup), Missing> {
    let mut last = None;
    for &setup in setups {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(cq_entries).setup_clamp();
        match setup {
            Setup::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all()
            }
            Setup::Cooperative => {
                builder.setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag().setup_submit_all()
            }
            Setup::Plain | Setup::Mmsg => &mut builder,
        };
        match builder.build(sq_entries) {
            Ok(ring) => return Ok((ring, setup)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
            Err(error) => return Err(no_io_uring(&error)),
        }
    }
    Err(no_io_uring(&last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))))
}

/// Checks what a ring cannot do without, on the ring itself.
pub(crate) fn essentials(ring: &IoUring) -> Result<(), Missing> {
    let parameters = ring.params();
    let needs = [
        ("waiting with a timeout (IORING_FEAT_EXT_ARG)", parameters.is_feature_ext_arg()),
        ("completions that are never lost (IORING_FEAT_NODROP)", parameters.is_feature_nodrop()),
        ("silent success (IORING_FEAT_CQE_SKIP)", parameters.is_feature_skip_cqe_on_success()),
    ];
    match needs.into_iter().find(|(_, present)| !present) {
        Some((name, _)) => Err(too_old(name)),
        None => Ok(()),
    }
}

/// Whether `READ_MULTISHOT` (6.7) exists.
pub(crate) fn has_multishot_read(ring: &IoUring) -> bool {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode::ReadMulti::CODE)
}

/// Looks for everything, essentials first. An error means that io_uring cannot work here, and says why.
pub fn probe() -> Result<Features, Missing> {
    let (mut ring, setup) = build(PROBE_ENTRIES, PROBE_ENTRIES * 4, &Setup::ALL)?;
    essentials(&ring)?;
    // SAFETY: the ring is dropped before the group is.
    let register = |entries| unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, 8, 0, 0) };
    let group = BufferGroup::new(8, 2048, |entries: *mut BufRingEntry| register(entries))
        .map_err(|error| too_old(&format!("provided-buffer rings ({error})")))?;
    let multishot = multishot_receive(&mut ring).map_err(|error| too_old(&format!("multishot recvmsg ({error})")));
    let mut opcodes = Probe::new();
    let _ = ring.submitter().register_probe(&mut opcodes);
    let min_wait = ring.params().is_feature_min_timeout();
    drop(ring); // before the buffers it may still write to
    drop(group);
    multishot?;

    let mut all = vec![
        feature("io_uring", true, "5.1", OLDER_CALLS),
        feature("provided-buffer rings", true, "5.19", OLDER_CALLS),
        feature("multishot recvmsg", true, MINIMUM_KERNEL, OLDER_CALLS),
        feature("SINGLE_ISSUER", setup != Setup::Plain, "6.0", "more locking in the kernel"),
        feature("DEFER_TASKRUN", setup == Setup::Deferred, "6.1", "COOP_TASKRUN: less even batches"),
        feature(
            "READ_MULTISHOT",
            opcodes.is_supported(opcode::ReadMulti::CODE),
            "6.7",
            "a row of single reads on each TAP queue",
        ),
        feature("MIN_TIMEOUT", min_wait, RECOMMENDED_KERNEL, "a wake-up per completion under load"),
    ];
    all.extend(udp_features());
    all.extend(tap_features(&tap::features()));
    Ok(Features(all))
}

/// Looks for what matters when io_uring is not used.
fn without_io_uring() -> Features {
    Features(udp_features().into_iter().chain(tap_features(&tap::features())).collect())
}

fn udp_features() -> [Feature; 2] {
    let (gso, gro) = sys::socket(libc::AF_INET, libc::SOCK_DGRAM).map_or((false, false), |socket| {
        let gro = sys::set_option_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        (udp::has_gso(socket.as_fd()), gro)
    });
    [
        feature("UDP_SEGMENT", gso, "4.18", "one send per datagram"),
        feature("UDP_GRO", gro, "5.0", "one receive per datagram"),
    ]
}

fn feature(name: &'static str, present: bool, since: &'static str, without: &'static str) -> Feature {
    Feature { name, present, since, without }
}

/// What the tun driver said. One that may not be asked is not said to be missing.
fn tap_features(driver: &io::Result<(bool, bool)>) -> Vec<Feature> {
    if driver.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
        let without = "not permitted: no network can be joined (run as root, or with CAP_NET_ADMIN)";
        return vec![feature("access to /dev/net/tun", false, "2.4", without)];
    }
    let (multi_queue, vnet) = *driver.as_ref().unwrap_or(&(false, false));
    vec![
        feature("tun driver", driver.is_ok(), "2.4", "no network can be joined (modprobe tun)"),
        feature("TAP multi-queue", multi_queue, "3.8", "no network can be joined with more than one shard"),
        feature("TAP virtio-net header", vnet, "2.6.27", "single frames instead of super-frames"),
    ]
}

/// Arms a multishot receive, sends one datagram and wants to see it arrive with more to come. Over a pair of local
/// sockets, because the loopback interface may be down.
fn multishot_receive(ring: &mut IoUring) -> io::Result<()> {
    let (receiver, sender) = UnixDatagram::pair()?;
    let header = crate::native::receive_header();
    let fd = types::Fd(std::os::fd::AsRawFd::as_raw_fd(&receiver));
    let receive = opcode::RecvMsgMulti::new(fd, &raw const *header, 0).build().user_data(1);
    // SAFETY: the kernel copies the header when it takes the request, which `submit` sees to; the buffers are the caller's.
    unsafe { push(ring, &receive)? };
    ring.submit()?;
    sender.send(b"probe")?;
    let first = wait(ring)?;
    if first.result() < 0 {
        return Err(io::Error::from_raw_os_error(-first.result()));
    }
    if !cqueue::more(first.flags()) {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let cancel = opcode::AsyncCancel::new(1).build().user_data(2);
    // SAFETY: the request points to no memory.
    unsafe { push(ring, &cancel)? };
    while wait(ring)?.user_data() != 1 {}
    Ok(())
}

/// Pushes one request.
///
/// # Safety
/// What the request points to must live until it has completed.
unsafe fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the caller vouches for the request's memory.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)
}

fn wait(ring: &mut IoUring) -> io::Result<cqueue::Entry> {
    let deadline = Instant::now() + PROBE_WAIT;
    loop {
        if let Some(entry) = ring.completion().next() {
            return Ok(entry);
        }
        if Instant::now() > deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        let pause = types::Timespec::from(PROBE_WAIT);
        match ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&pause)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => return Err(error),
            _ => {}
        }
    }
}

pub(crate) fn too_old(what: &str) -> Missing {
    Missing {
        what: format!("the kernel lacks {what}"),
        advice: format!("Linux {MINIMUM_KERNEL} or later is needed, {RECOMMENDED_KERNEL} or later recommended"),
    }
}

fn no_io_uring(error: &io::Error) -> Missing {
    let what = format!("io_uring is not usable ({error})");
    let sysctl = fs::read_to_string(SYSCTL).unwrap_or_default();
    let advice = match (error.raw_os_error(), sysctl.trim()) {
        (Some(libc::ENOSYS), _) => {
            format!("the kernel was built without io_uring, or a sandbox hides it; Linux {MINIMUM_KERNEL} or later is needed")
        }
        (Some(libc::EPERM), "2") => "it is switched off: set the sysctl kernel.io_uring_disabled to 0".to_owned(),
        (Some(libc::EPERM), "1") => {
            "it is kept for privileged users: run with CAP_SYS_ADMIN, join the group in kernel.io_uring_group, or set the \
             sysctl kernel.io_uring_disabled to 0"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a seccomp filter or security module forbids it (containers often do): allow io_uring_setup, io_uring_enter and \
             io_uring_register"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => "raise the memory limit (ulimit -l, or the container's memory)".to_owned(),
        _ => format!("Linux {MINIMUM_KERNEL} or later is needed"),
    };
    Missing { what, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_reported_feature_by_feature() {
        let features = probe().unwrap();
        println!("{features}");
        assert!(features.has("multishot recvmsg"));
        assert!(!features.has("a feature nobody has"));
        let text = Features(vec![Feature { name: "x", present: false, since: "9.9", without: "walk" }]).to_string();
        assert!(text.contains("no") && text.contains("Linux 9.9") && text.contains("without it: walk"), "{text}");
    }

    #[test]
    fn the_older_calls_are_chosen_only_when_asked_for_or_needed() {
        assert_eq!(choose(Backend::Auto).unwrap().backend, Backend::IoUring);
        let asked = choose(Backend::Mmsg).unwrap();
        assert_eq!((asked.backend, asked.why.as_str()), (Backend::Mmsg, "asked for"));
        assert!(asked.features.has("UDP_GRO") && !asked.features.has("io_uring"));
        for (name, backend) in Backend::NAMES {
            assert_eq!((Backend::named(name), backend.to_string()), (Some(backend), name.to_owned()));
        }
        assert_eq!(Backend::named("epoll"), None);
    }

    #[test]
    fn a_tun_driver_that_may_not_be_used_is_not_said_to_be_missing() {
        let text = |errno| Features(tap_features(&Err(io::Error::from_raw_os_error(errno)))).to_string();
        for errno in [libc::EACCES, libc::EPERM] {
            assert!(text(errno).contains("not permitted") && !text(errno).contains("tun driver"), "{}", text(errno));
        }
        assert!(text(libc::ENOENT).contains("modprobe tun"), "{}", text(libc::ENOENT));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = |errno| no_io_uring(&io::Error::from_raw_os_error(errno)).to_string();
        assert!(refused(libc::ENOSYS).contains("built without io_uring"));
        assert!(refused(libc::EPERM).contains("seccomp") || refused(libc::EPERM).contains("sysctl"));
        assert!(too_old("x").to_string().contains("Linux 6.0 or later is needed, 6.12 or later recommended"));
    }
}
