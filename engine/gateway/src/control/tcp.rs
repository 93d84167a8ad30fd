//! The control thread's part in the TCP fallback: the tunnel is one more socket of the node, and what the node sends over
//! it goes there instead of to the packet threads. Beside it the relay for others, if this gateway runs one.
// spec: paths, "TCP fallback"

use std::net::{SocketAddr, SocketAddrV4};

use node::LocalSocketId;
use tracing::{info, trace, warn};
use wire::Now;
use wire::endpoint::to_text;

use super::Control;
use super::translate::shard_socket;
use crate::local_conf::LocalConf;
use crate::tcp_relay::{Due, Event, Fallback, SILENCE_MS, Settings, is_tunnel};

/// What the command line says of the fallback; it counts more than local.conf.
#[derive(Clone, Copy, Debug, Default)]
pub struct FallbackArgs {
    /// Allow it.
    pub allow: bool,
    /// No UDP.
    pub force: bool,
    /// Where the relay is.
    pub relay: Option<SocketAddrV4>,
}

/// The settings of command line and local.conf together.
pub(super) fn settings(args: &FallbackArgs, conf: &LocalConf) -> Settings {
    let (conf, usual) = (&conf.settings, Settings::default());
    Settings {
        allow: args.allow || conf.allow_tcp_fallback,
        force: args.force || conf.force_tcp,
        relay: args.relay.or(conf.tcp_fallback_relay).unwrap_or(usual.relay),
        silence_ms: conf.tcp_fallback_after.map_or(SILENCE_MS, |s| u64::from(s) * 1000),
    }
}

impl Control {
    /// The operator's settings may be others.
    pub(super) fn set_fallback(&mut self, now: Now) {
        if let Some(event) = self.fallback.set_settings(now, settings(&self.p.fallback, &self.p.conf)) {
            self.tunnel_says(now, event);
        }
    }

    pub(super) fn look_at_fallback(&mut self, now: Now) {
        // Whose roots are all in the LAN has nobody to fall back to.
        let heard = match self.p.node.has_internet_root() {
            true => self.p.node.heard_from_the_internet_ms(|socket| !is_tunnel(socket)),
            false => Some(now.ms()),
        };
        match self.fallback.due(now, heard) {
            None => {}
            Some(Due::Probe) => self.p.node.greet_upstreams(now, |socket| !is_tunnel(socket)),
            Some(Due::Event(event)) => self.tunnel_says(now, event),
        }
    }

    pub(super) fn tunnel_says(&mut self, now: Now, event: Event) {
        let relay = self.fallback.settings().relay;
        match event {
            Event::Up(socket) => {
                info!(%relay, "UDP does not get through: datagrams go by TCP through a relay");
                self.p.node.add_socket(now, socket);
            }
            Event::Datagram(socket, from, mut datagram) => {
                self.p.node.handle_datagram(now, socket, from, &mut datagram);
            }
            Event::Down(socket, reason) => {
                match reason {
                    Some(error) => warn!(%relay, "no TCP relay: {error}; tried again later"),
                    None => info!(%relay, "the TCP relay is needed no more"),
                }
                self.p.node.remove_socket(now, socket);
            }
        }
    }

    /// Sends over one socket. One that is no tunnel any more stands for all links, as in ZeroTierOne.
    pub(super) fn send_from(&mut self, socket: LocalSocketId, remote: SocketAddr, ttl: Option<u8>, datagram: Vec<u8>) {
        if !is_tunnel(socket) {
            return self.p.dataplane.send(shard_socket(socket), remote, ttl, datagram);
        }
        if !self.fallback.send(socket, remote, &datagram) {
            trace!(remote = to_text(remote), "not by the relay any more");
            for socket in self.p.node.fan_out(remote).into_iter().filter(|socket| !is_tunnel(*socket)) {
                self.p.dataplane.send(shard_socket(socket), remote, ttl, datagram.clone());
            }
        }
    }

    /// A tunnel for this gateway, not open yet.
    pub(super) fn fallback_of(parts: &super::Parts) -> Fallback {
        Fallback::new(settings(&parts.fallback, &parts.conf), parts.clock.now())
    }
}
