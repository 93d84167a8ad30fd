//! No tunnel: the gateways route to each other over the bare wire. The upper bound of every comparison.

use std::net::IpAddr;

use super::{Running, Tunnel};
use crate::Result;
use crate::rig::Rig;

/// Plain routing.
#[derive(Clone, Copy, Debug, Default)]
pub struct None;

struct Routed([IpAddr; 2]);

impl Tunnel for None {
    fn name(&self) -> &str {
        "none"
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        let wan = [rig.sites[0].wan, rig.sites[1].wan];
        rig.route(0, &["via", &wan[1].to_string()])?;
        rig.route(1, &["via", &wan[0].to_string()])?;
        Ok(Box::new(Routed(wan)))
    }
}

impl Running for Routed {
    fn pids(&self) -> [Vec<u32>; 2] {
        [vec![], vec![]]
    }

    fn overlay(&self) -> [IpAddr; 2] {
        self.0
    }
}
