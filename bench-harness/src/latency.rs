//! `latency`: round trips on an idle tunnel and beside a TCP stream, and what a packet costs that comes alone.

use lab::measure::UdpPlan;

use crate::Result;
use crate::cli::Shared;
use crate::load::{Load, Traffic};
use crate::plan::{Job, Plan};
use crate::throughput::Variants;

/// `latency`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What all measurements share.
    #[command(flatten)]
    pub shared: Shared,
    /// How Hawser is set up.
    #[command(flatten)]
    pub variants: Variants,
    /// Lone packets per second; several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [2000], value_parser = clap::value_parser!(u32).range(1..=20000))]
    pub lone: Vec<u32>,
    /// Payload bytes of a lone packet
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=8900))]
    pub lone_size: u16,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let mut plan = Plan::new(&options.shared);
    options.variants.enter(&options.shared, &mut plan)?;
    plan.jobs.push(Job::Ping(Load::new(Traffic::Idle)));
    plan.jobs.push(Job::Ping(Load { ping: true, ..Load::new(Traffic::Tcp(1)) }));
    for &rate in &options.lone {
        let stream = UdpPlan { size: options.lone_size.into(), packets_per_s: Some(rate.into()), gso: false };
        plan.jobs.push(Job::Lone(Load::new(Traffic::Udp(stream))));
    }
    crate::cli::conclude(&options.shared, plan.run()?, vec![])
}
