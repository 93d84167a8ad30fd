//! `throughput`: how much gets through a tunnel, one way and both, and what it costs.

use std::time::Duration;

use crate::Result;
use crate::cli::Shared;
use crate::rig::Rig;
use crate::tunnel::hawser::{self, Hawser};
use crate::tunnel::{Tunnel, none};

/// `throughput`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What all measurements share.
    #[command(flatten)]
    pub shared: Shared,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let hawser = Hawser::new(hawser::program(options.shared.hawser.as_deref())?);
    for tunnel in [&none::None as &dyn Tunnel, &hawser] {
        for &offload in &options.shared.offload {
            let rig = Rig::new(options.shared.rig(offload, options.shared.lan_mtu[0]))?;
            let running = tunnel.start(&rig)?;
            rig.wait_for_ping(Duration::from_secs(10))?;
            println!("{} {offload}: hosts hear each other, daemons {:?}", tunnel.name(), running.pids());
        }
    }
    Ok(())
}
