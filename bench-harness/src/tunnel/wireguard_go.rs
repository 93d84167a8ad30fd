//! wireguard-go: WireGuard in Go. From 0.0.20231211 on it uses TUN and UDP offloads and is the one to beat; before, it is
//! not: the version is in the record.

use super::Programs;
use super::wireguard::WireGuard;
use crate::Result;

/// The installed `wireguard-go`, with the settings it comes with.
pub fn find(programs: &Programs) -> Result<WireGuard> {
    WireGuard::find(programs, "wireguard-go", "wireguard-go", &["--foreground"])
}
