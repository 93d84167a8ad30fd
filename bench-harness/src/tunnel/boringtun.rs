//! boringtun-cli: Cloudflare's WireGuard in Rust. One system call a packet, four threads by default.

use super::Programs;
use super::wireguard::WireGuard;
use crate::Result;

/// The installed `boringtun-cli`, with the settings it comes with.
pub fn find(programs: &Programs) -> Result<WireGuard> {
    // Dropping privileges means becoming the user who called sudo; there may be none.
    WireGuard::find(programs, "boringtun", "boringtun-cli", &["--foreground", "--disable-drop-privileges"])
}
