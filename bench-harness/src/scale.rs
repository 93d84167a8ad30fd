//! `scale`: what more packet threads bring, flow by flow: total rate, TCP segments that came out of order or were sent
//! again.

use crate::Result;
use crate::cli::{Cores, Shared};
use crate::load::{Load, Traffic, Ways};
use crate::plan::{Job, Plan};
use crate::throughput::Variants;

/// `scale`
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What all measurements share. Both sites may use all cores unless told otherwise.
    #[command(flatten)]
    pub shared: Shared,
    /// How Hawser is set up; --shards defaults to 1 up to the number of cores, by doubling.
    #[command(flatten)]
    pub variants: Variants,
    /// Numbers of TCP streams
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub flows: Vec<u16>,
    /// Directions, with commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Ways::One])]
    pub ways: Vec<Ways>,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let (mut shared, mut variants) = (options.shared.clone(), options.variants.clone());
    // A thread pinned beside others would measure the pinning.
    shared.cores_a.get_or_insert(Cores(vec![]));
    shared.cores_b.get_or_insert(Cores(vec![]));
    if variants.shards == [1] {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        variants.shards = (0..).map(|i| 1 << i).take_while(|&n| usize::from(n) <= cores).collect();
    }
    let mut plan = Plan::new(&shared);
    variants.enter(&shared, &mut plan)?;
    for &ways in &options.ways {
        for &flows in &options.flows {
            plan.jobs.push(Job::Rate(Load { ways, ..Load::new(Traffic::Tcp(flows.into())) }));
        }
    }
    crate::cli::conclude(&shared, plan.run()?, vec![])
}
