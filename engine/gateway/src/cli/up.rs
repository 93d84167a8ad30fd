//! `hawser up ...`: the flags of the daemon, each of which counts above the key of local.conf that says the same. Here words
//! become values; what they do is the daemon's business.

use std::net::{SocketAddr, SocketAddrV4};

use clap::Args;
use wire::endpoint::Prefix;

use super::BondArgs;
use crate::local_conf::parse_endpoint;

/// `hawser up`
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// UDP and API port; 0 picks a free one [default: primaryPort of local.conf, else 9993]
    #[arg(long, short)]
    pub port: Option<u16>,
    /// Never probe a path that carries frames and brings nothing back: a dead path is left after 19 s, for the relay after
    /// four minutes, as in ZeroTierOne [default: probe, unless fastFailover of local.conf is false]
    #[arg(long)]
    pub no_fast_failover: bool,
    /// While a direct path is new, so many frames, e.g. 64, or those of so many milliseconds, e.g. 200ms, or 64,200ms,
    /// go by the relay as well. A Hawser delivers each once; ZeroTierOne delivers both copies
    /// [default: warmUp of local.conf, else off]
    #[arg(long, value_name = "FRAMES,MSms", value_parser = crate::local_conf::warm_up)]
    pub warm_up: Option<node::WarmUp>,
    /// Second UDP port, beside the first: one more chance to get through a NAT; 0 picks a free one, and another one after
    /// two minutes without a root [default: secondaryPort of local.conf, else 0]
    #[arg(long, value_name = "PORT")]
    pub secondary_port: Option<u16>,
    /// Third UDP port, the one that routers are asked to map (PCP, NAT-PMP, UPnP); 0 picks a free one
    /// [default: tertiaryPort of local.conf, else 0]
    #[arg(long, value_name = "PORT")]
    pub tertiary_port: Option<u16>,
    /// No second port [default: there is one, unless allowSecondaryPort of local.conf is false]
    #[arg(long, conflicts_with = "secondary_port")]
    pub no_secondary_port: bool,
    /// No third port, and ask no router for anything [default: ask, unless portMappingEnabled of local.conf is false]
    #[arg(long, conflicts_with = "tertiary_port")]
    pub no_port_mapping: bool,
    /// Use this network interface; repeatable. One that is not there is used when it appears [default: interfaces of
    /// local.conf, else all but loopback, tunnels and overlays]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// System calls that carry packets: io-uring, mmsg (recvmmsg, sendmmsg, epoll; costs more CPU), or auto, which is
    /// io-uring where the kernel has it and allows it [default: io of local.conf, else auto]
    #[arg(long, value_name = "auto|io-uring|mmsg", value_parser = backend)]
    pub io: Option<uring::Backend>,
    /// After traffic a packet thread looks for more for so many microseconds before it sleeps: a core for latency
    /// [default: spin of local.conf, else 0: off]
    #[arg(long, value_name = "MICROSECONDS")]
    pub spin: Option<u16>,
    /// Before a packet thread sleeps, the kernel polls the network card for so many microseconds (NAPI busy poll): CPU for
    /// latency [default: busyPoll of local.conf, else 0: off]
    #[arg(long, value_name = "MICROSECONDS")]
    pub busy_poll: Option<u16>,
    /// Packet threads [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Option<u16>,
    /// Core of the first packet thread, counted among those that may be used; the others follow. Gateways that share a
    /// host should not all begin with the same
    #[arg(long, default_value_t = 0, value_name = "CORE")]
    pub first_core: u16,
    /// Exactly these cores instead, one for each packet thread, e.g. 2,4-7: those next to the network card, say
    #[arg(long, value_name = "LIST", value_parser = CoreList::parse, conflicts_with = "first_core")]
    pub cores: Option<CoreList>,
    /// Send everything from one port: packet threads have no ports of their own [default: they have, towards peers that
    /// tolerate it, so that one busy peer keeps several cores busy at both ends]
    #[arg(long)]
    pub no_lanes: bool,
    /// Leave the MSS of TCP connections as their ends announce it [default: lowered so that a segment is one datagram,
    /// unless tcpMssClamp of local.conf is false]
    #[arg(long)]
    pub no_mss_clamp: bool,
    /// Where UDP does not get through, send by TCP through a relay: after a minute without an answer from the Internet,
    /// until there is one [default: allowTcpFallbackRelay of local.conf, else not]
    #[arg(long)]
    pub allow_tcp_fallback_relay: bool,
    /// No UDP at all, everything by TCP through the relay
    #[arg(long)]
    pub force_tcp_relay: bool,
    /// That relay [default: tcpFallbackRelay of local.conf, else 204.80.128.1/443]
    #[arg(long, value_name = "IP/PORT", value_parser = endpoint_v4)]
    pub tcp_fallback_relay: Option<SocketAddrV4>,
    /// Be such a relay for others, beside a root: listen here for their TCP connections [default: tcpRelay of local.conf,
    /// else none]
    #[arg(long, value_name = "IP/PORT", value_parser = endpoint)]
    pub tcp_relay: Option<SocketAddr>,
    /// Its clients may send into this network, though it is not the Internet; repeatable [default: tcpRelayAllow of
    /// local.conf, else none]
    #[arg(long, value_name = "IP/BITS")]
    pub tcp_relay_allow: Vec<Prefix>,
    /// Whether to agree with other Hawsers on a port spread where nothing else gets a pair direct: up to 1024 probes of
    /// the other's router, which it may take for a port scan [default: portSpread of local.conf, else on]
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    pub port_spread: Option<bool>,
    /// Use loopback addresses as links too
    #[arg(long, hide = true)]
    pub allow_loopback: bool,
    /// Several links as one.
    #[command(flatten, next_help_heading = "Bonding: several links as one, off unless a policy is named")]
    pub bond: BondArgs,
}

/// Cores by the kernel's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(pub Vec<usize>);

impl CoreList {
    /// The largest number believed.
    const LAST: usize = 4095;

    fn parse(text: &str) -> Result<CoreList, String> {
        let number = |text: &str| {
            let core = text.parse().map_err(|_| format!("`{text}` is no number of a core"))?;
            if core <= CoreList::LAST { Ok(core) } else { Err(format!("there is no core {core}")) }
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
                None => cores.push(number(part)?),
            }
        }
        if cores.is_empty() { Err(format!("`{text}` names no core")) } else { Ok(CoreList(cores)) }
    }
}

fn backend(name: &str) -> Result<uring::Backend, String> {
    uring::Backend::named(name).ok_or_else(|| "it is not auto, io-uring or mmsg".to_owned())
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    parse_endpoint(text).ok_or_else(|| "it is not IP/PORT, like 192.0.2.1/443".to_owned())
}

fn endpoint_v4(text: &str) -> Result<SocketAddrV4, String> {
    match endpoint(text)? {
        at if at.port() == 0 => Err("no relay has port 0".to_owned()),
        SocketAddr::V4(v4) => Ok(v4),
        SocketAddr::V6(_) => Err("relays have IPv4 addresses".to_owned()),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is neither on nor off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_numbers_and_ranges() {
        let cores = |list: &str| CoreList::parse(list).map(|cores| cores.0);
        assert_eq!(cores("2,4-6"), Ok(vec![2, 4, 5, 6]));
        for wrong in ["", "x", "1-", "3-1", "0-99999"] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }
}
