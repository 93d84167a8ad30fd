//! `throughput`: how much gets through, one way and both ways, and what it costs.

use clap::ValueEnum;
use lab::measure::UdpPlan;

use crate::Result;
use crate::cli::Shared;
use crate::load::{Ends, Load, Traffic, Ways};
use crate::plan::{Job, Plan};
use crate::tunnel::hawser::{self, Hawser, Rules, Suite};
use crate::tunnel::none;

/// What `throughput`, `latency` and `scale` measure without being told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// Hawser
    Hawser,
    /// No tunnel: the gateways route over the bare wire
    None,
}

/// How Hawser is set up.
#[derive(Clone, Debug, clap::Args)]
pub struct Variants {
    /// With what; with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Which::Hawser, Which::None])]
    pub tunnels: Vec<Which>,
    /// Packet threads of each Hawser gateway; several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u16).range(1..=256))]
    pub shards: Vec<u16>,
    /// MTU of Hawser's virtual network; several with commas [default: the controller's, 2800]
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1280..=9000))]
    pub virtual_mtu: Vec<u32>,
    /// Cipher suites of Hawser; with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Suite::Aes])]
    pub suites: Vec<Suite>,
    /// Microseconds for which Hawser's packet threads look for more before they sleep
    #[arg(long, default_value_t = 0)]
    pub spin: u16,
    /// Rules of Hawser's virtual network; with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Rules::Accept])]
    pub rules: Vec<Rules>,
}

impl Variants {
    /// Every combination of what was listed, on every rig.
    pub fn enter(&self, shared: &Shared, plan: &mut Plan) -> Result<()> {
        let first = match self.tunnels.contains(&Which::Hawser) {
            true => Some(Hawser::new(hawser::program(shared.hawser.as_deref())?)),
            false => None,
        };
        let mtus: Vec<Option<u32>> =
            if self.virtual_mtu.is_empty() { vec![None] } else { self.virtual_mtu.iter().copied().map(Some).collect() };
        let mut hawsers = vec![];
        if let Some(first) = first {
            for &shards in &self.shards {
                for &mtu in &mtus {
                    for (&rules, &suite) in self.rules.iter().flat_map(|r| self.suites.iter().map(move |s| (r, s))) {
                        let mut one = first.clone();
                        (one.shards, one.mtu, one.spin) = (shards.into(), mtu, self.spin);
                        (one.rules, one.suite) = (rules, suite);
                        hawsers.push(one);
                    }
                }
            }
        }
        for (offload, lan_mtu) in shared.rigs() {
            for one in &hawsers {
                plan.enter(&one.label(), Box::new(one.clone()), shared.rig(offload, lan_mtu));
            }
            if self.tunnels.contains(&Which::None) {
                plan.enter("none", Box::new(none::None), shared.rig(offload, lan_mtu));
            }
        }
        Ok(())
    }
}

/// `throughput`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What all measurements share.
    #[command(flatten)]
    pub shared: Shared,
    /// How Hawser is set up.
    #[command(flatten)]
    pub variants: Variants,
    /// Numbers of TCP streams; 0: none
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = clap::value_parser!(u16).range(0..=64))]
    pub tcp: Vec<u16>,
    /// Payload bytes of UDP datagrams; 0: none
    #[arg(long, value_delimiter = ',', default_values_t = [64, 512, 1200, 1400], value_parser = datagram)]
    pub udp: Vec<usize>,
    /// Directions, with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Ways::One, Ways::Both])]
    pub ways: Vec<Ways>,
    /// From where to where, with commas; UDP runs from LAN host to LAN host only
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Ends::Hosts, Ends::Gateways])]
    pub ends: Vec<Ends>,
    /// Send UDP up to 64 datagrams at a time (UDP_SEGMENT) instead of one by one
    #[arg(long)]
    pub udp_gso: bool,
    /// Also search the highest UDP rate without loss (at most 0.01 %)
    #[arg(long)]
    pub lossless: bool,
    /// Also offer twice that rate for five seconds, and see how long the gateways take to recover
    #[arg(long)]
    pub overload: bool,
}

fn datagram(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        Ok(n) if (16..=8900).contains(&n) => Ok(n),
        _ => Err("16 to 8900 bytes, or 0 for no UDP".into()),
    }
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let mut plan = Plan::new(&options.shared);
    options.variants.enter(&options.shared, &mut plan)?;
    let quick = options.shared.quick;
    let few = |list: &[usize]| list[..if quick { list.len().min(1) } else { list.len() }].to_vec();
    let tcp: Vec<usize> = options.tcp.iter().map(|&n| n.into()).filter(|&n| n > 0).collect();
    let udp: Vec<usize> = options.udp.iter().copied().filter(|&n| n > 0).collect();
    let (ends, ways) = match quick {
        true => (&options.ends[..1], &options.ways[..1]),
        false => (&options.ends[..], &options.ways[..]),
    };
    for &ends in ends {
        for &ways in ways {
            for streams in few(&tcp) {
                plan.jobs.push(Job::Rate(Load { ends, ways, ..Load::new(Traffic::Tcp(streams)) }));
            }
        }
    }
    for &ways in ways {
        for size in few(&udp) {
            let stream = UdpPlan { size, packets_per_s: None, gso: options.udp_gso };
            plan.jobs.push(Job::Rate(Load { ways, ..Load::new(Traffic::Udp(stream)) }));
            if options.lossless {
                plan.jobs.push(Job::Lossless(stream, ways));
            }
            if options.overload && ways == Ways::One {
                plan.jobs.push(Job::Overload(stream));
            }
        }
    }
    crate::cli::conclude(&options.shared, plan.run()?, vec![])
}
