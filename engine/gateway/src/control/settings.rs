//! Command line and local.conf together: what holds, and how a local.conf that was written meanwhile takes over. What the
//! settings mean is known by those who get them.

use std::sync::Arc;

use bond::config::Bonding;
use shard::Update;
use tracing::{error, info, warn};
use wire::Now;

use super::{Bonds, Control, Parts};
use crate::links::Filter;
use crate::local_conf::LocalConf;

/// What the command line says of failover, above local.conf.
#[derive(Clone, Copy, Debug, Default)]
pub struct FailoverArgs {
    /// Paths that carry frames and bring nothing back are not probed.
    pub off: bool,
    /// How new direct paths are warmed up.
    pub warm_up: Option<node::WarmUp>,
}

/// The settings that the node acts on.
pub fn node_settings(
    conf: &LocalConf,
    allow_loopback: bool,
    port_spread: Option<bool>,
    failover: FailoverArgs,
    bonding: Arc<Bonding>,
) -> node::Settings {
    let physical = conf.physical.iter().map(|p| node::PhysicalNetwork {
        prefix: p.net,
        blacklist: p.blacklist,
        trusted_path_id: p.trusted_path_id,
        mtu: p.mtu,
    });
    node::Settings {
        physical: physical.collect(),
        peer_blacklists: conf.peers.iter().map(|(peer, v)| (*peer, v.blacklist.clone())).collect(),
        peer_hints: conf.peers.iter().map(|(peer, v)| (*peer, v.try_at.clone())).collect(),
        controller: true,
        allow_loopback,
        port_spread: port_spread.unwrap_or(!conf.settings.no_port_spread),
        salsa_only: conf.settings.salsa_only,
        fast_failover: !(failover.off || conf.settings.no_fast_failover),
        resequence: !conf.settings.no_resequence,
        warm_up: failover.warm_up.unwrap_or(conf.settings.warm_up),
        bonding,
    }
}

/// Which addresses are links, by settings and command line.
pub(super) fn filter_of(parts: &Parts) -> Filter {
    let mut filter = Filter::new(&parts.conf, parts.allow_loopback);
    if !parts.interfaces.is_empty() {
        filter.interfaces = parts.interfaces.clone();
    }
    filter
}

impl Control {
    /// Takes over a local.conf that was written since. One that is wrong changes nothing; ports change at start only.
    pub(super) fn check_conf(&mut self, now: Now) {
        let modified = self.p.home.local_conf_modified();
        if modified == self.p.conf_modified {
            return;
        }
        self.p.conf_modified = modified;
        let read = LocalConf::load(&self.p.home.local_conf()).map_err(|e| e.to_string());
        let read = read.and_then(|conf| {
            let bonds = Bonds::new(&conf, &self.p.bond_args, &self.p.fallback);
            bonds.map(|bonds| (conf, bonds)).map_err(|e| e.to_string())
        });
        let (conf, bonds) = match read {
            Ok(read) => read,
            Err(e) => {
                error!("{e}; the settings in force stay");
                self.conf_fault = Some(e);
                return;
            }
        };
        info!("local.conf read again");
        self.conf_fault = None;
        bonds.say(&self.p.bonds);
        for key in self.p.conf.settings.changed_at_start_only(&conf.settings) {
            warn!("settings.{key} counts at start only: what was in force stays until the next one");
        }
        let bonding = Arc::clone(&bonds.bonding);
        let settings = node_settings(&conf, self.p.allow_loopback, self.p.port_spread, self.p.failover, bonding);
        self.p.node.set_settings(now, settings);
        self.p.bonds = bonds;
        self.p.gate.allow_from(conf.settings.allow_management_from.clone());
        self.p.conf = conf;
        self.filter = filter_of(&self.p);
        self.set_mss_clamp();
        self.set_resequencing();
        self.set_unreachables();
        self.set_fallback(now);
        self.bind_links(now);
    }

    pub(super) fn set_mss_clamp(&self) {
        let on = self.p.mss_clamp && !self.p.conf.settings.no_mss_clamp;
        self.p.dataplane.update(Update::ClampMss(on));
    }

    pub(super) fn set_resequencing(&self) {
        self.p.dataplane.update(Update::Resequence(!self.p.conf.settings.no_resequence));
    }
}
