//! Opening multi-queue TAP devices: one descriptor per queue, one queue per shard, and a
//! flow always has the same. This file knows the device and nothing of rings or networks.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    time::Duration,
};

use crate::{steer, sys};

/// How long [`open`] waits for a device that a closing ring still holds.
pub const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Longest name of an interface, bytes.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

const TUN_DEVICE: &str = "/dev/net/tun";
// linux/if_tun.h: offloads of `TUNSETOFFLOAD`
const TUN_F_CSUM: u64 = 0x01;
const TUN_F_TSO4: u64 = 0x02;
const TUN_F_TSO6: u64 = 0x04;
const TUN_F_TSO_ECN: u64 = 0x08;
const TUN_F_USO: u64 = 0x20 | 0x40;

/// Which super-frames a device takes and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SuperFrames {
    /// None: every read and write is one Ethernet frame.
    #[default]
    None,
    /// TCP ones. Every read and write has the 10-byte virtio-net header in front.
    Tcp,
    /// TCP and UDP ones (Linux 6.2), likewise.
    TcpAndUdp,
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interface name; `%d` in it lets the kernel number it.
    pub name: String,
    /// How many queues.
    pub queues: usize,
    /// Put the 10-byte virtio-net header in front of every frame and allow super-frames, as far as the kernel can.
    pub super_frames: bool,
}

/// An open device. It lives as long as any of its queues.
#[derive(Debug)]
pub struct Tap {
    /// The name the kernel gave it.
    pub name: String,
    /// One descriptor per queue.
    pub queues: Vec<OwnedFd>,
    /// What it carries; `None` without [`Options::super_frames`], or if the kernel has no virtio-net headers.
    pub super_frames: SuperFrames,
    /// A flow has the same queue for ever ([`steer::tap`]); otherwise that of its last answer.
    pub steered: bool,
}

/// Creates the device and opens its queues. Needs `CAP_NET_ADMIN`. The device starts down.
pub fn open(options: &Options) -> io::Result<Tap> {
    if options.name.len() > NAME_MAX || options.name.contains('\0') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface name is too long"));
    }
    let mut tap =
        Tap { name: options.name.clone(), queues: Vec::new(), super_frames: SuperFrames::None, steered: false };
    let with_header = options.super_frames && features().is_ok_and(|(_, header)| header);
    for _ in 0..options.queues.max(1) {
        let queue = sys::retry_while_busy(BUSY_WAIT, || open_queue(&mut tap.name, with_header))?;
        if with_header {
            // of the device, not of the queue: the last answer is that of all
            tap.super_frames = allow_super_frames(&queue);
        }
        tap.queues.push(queue);
    }
    if tap.queues.len() > 1 {
        // without the privilege or the facility the kernel's own flow table does it, at the price of some reordering
        tap.steered = steer::tap(tap.queues[0].as_fd()).is_ok();
    }
    Ok(tap)
}

fn open_queue(name: &mut String, super_frames: bool) -> io::Result<OwnedFd> {
    let queue = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN_DEVICE);
    let queue = OwnedFd::from(queue.map_err(|error| {
        io::Error::new(error.kind(), format!("{TUN_DEVICE}: {error} (is the kernel module `tun` loaded?)"))
    })?);
    let vnet = if super_frames { libc::IFF_VNET_HDR } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE | vnet;
    let mut request = interface(name);
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF takes an ifreq and follows no pointer in it.
    unsafe { sys::ioctl(queue.as_fd(), libc::TUNSETIFF, &mut request)? };
    *name = request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| c as u8 as char).collect();
    Ok(queue)
}

/// Lets the kernel hand over super-frames, as many kinds as it knows. One that knows none still takes TCP ones.
fn allow_super_frames(queue: &OwnedFd) -> SuperFrames {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if set_offload(queue, tcp | TUN_F_USO).is_ok() {
        return SuperFrames::TcpAndUdp;
    }
    let _ = set_offload(queue, tcp);
    SuperFrames::Tcp
}

fn set_offload(queue: &OwnedFd, offload: u64) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its flags as the argument itself; the bits form no pointer that is followed.
    let done = unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(queue), libc::TUNSETOFFLOAD, offload) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the device's hardware address. For those who have no netlink at hand; the device may have to be down.
pub fn set_mac(name: &str, mac: [u8; 6]) -> io::Result<()> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let mut request = interface(name);
    let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
    for (to, from) in address.sa_data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: SIOCSIFHWADDR takes an ifreq and follows no pointer in it.
    unsafe { sys::ioctl(socket.as_fd(), libc::SIOCSIFHWADDR, &mut request) }
}

/// What the tun driver offers: (multi-queue, virtio-net header). An error says why there is no driver to ask.
pub(crate) fn features() -> io::Result<(bool, bool)> {
    let driver = OwnedFd::from(OpenOptions::new().read(true).write(true).open(TUN_DEVICE)?);
    let mut features: libc::c_uint = 0;
    // SAFETY: TUNGETFEATURES writes one unsigned int.
    unsafe { sys::ioctl(driver.as_fd(), libc::TUNGETFEATURES, &mut features)? };
    let has = |flag: libc::c_int| features & flag as libc::c_uint != 0;
    Ok((has(libc::IFF_MULTI_QUEUE), has(libc::IFF_VNET_HDR)))
}

fn interface(name: &str) -> libc::ifreq {
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: 0 } };
    for (to, from) in request.ifr_name.iter_mut().take(NAME_MAX).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
