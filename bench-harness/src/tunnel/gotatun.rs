//! gotatun: Mullvad's fork of BoringTun, with batches and 7 MiB socket buffers.

use super::Programs;
use super::wireguard::WireGuard;
use crate::Result;

/// The installed `gotatun`, with the settings it comes with.
pub fn find(programs: &Programs) -> Result<WireGuard> {
    let switches = &["--foreground", "--disable-drop-privileges", "--verbosity", "error"];
    WireGuard::find(programs, "gotatun", "gotatun", switches)
}
