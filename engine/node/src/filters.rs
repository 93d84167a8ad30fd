//! What the shards are told of rules: our side of each network that does not simply accept everything, and what its
//! members may claim. Kept as it was last told, so that only changes go out. Must never know what a rule says.

use std::collections::BTreeMap;
use std::sync::Arc;

use network::{Policy, Standing};
use wire::{Address, NetworkId};

use crate::Node;
use crate::io::{Output, PlanChange};

/// What the shards were told last of one network's rules.
#[derive(Default)]
pub(crate) struct Filter {
    /// Of which configuration it is.
    generation: u64,
    /// None: the network is fast, or has no configuration.
    policy: Option<Arc<Policy>>,
    /// Of the members that pass the gate.
    standings: BTreeMap<Address, Arc<Standing>>,
}

impl Node {
    /// Tells what became of a network's rules and of what its members may claim, if its configuration is another one.
    /// While several things change the shards have no rules, so that they never judge by old and new ones at once.
    pub(crate) fn plan_rules(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get(id) else {
            self.plan.filters.remove(&id);
            return;
        };
        let told = self.plan.filters.entry(id).or_default();
        if told.generation == network.generation() {
            return;
        }
        told.generation = network.generation();
        let policy = if network.fast() { None } else { network.policy() };
        let mut changes = Vec::new();
        if policy.is_none() {
            told.standings.clear();
        } else {
            for address in self.plan.members.iter().filter(|(_, networks)| networks.contains(&id)).map(|(&a, _)| a) {
                changes.extend(told.standing(network, address));
            }
        }
        if told.policy.as_deref() != policy.as_ref() {
            let policy = policy.map(Arc::new);
            let was = std::mem::replace(&mut told.policy, policy.clone());
            if was.is_some() && policy.is_some() && !changes.is_empty() {
                changes.insert(0, PlanChange::Policy { network: id, policy: None });
            }
            changes.push(PlanChange::Policy { network: id, policy });
        }
        changes.into_iter().for_each(|change| self.output(Output::Plan(change)));
    }

    /// Tells what a member that passes the gate may claim, if that changed.
    pub(crate) fn plan_standing(&mut self, id: NetworkId, address: Address) {
        let (Some(network), Some(told)) = (self.networks.get(id), self.plan.filters.get_mut(&id)) else { return };
        let admitted = self.plan.members.get(&address).is_some_and(|networks| networks.contains(&id));
        if !admitted {
            told.standings.remove(&address);
        } else if told.policy.is_some()
            && let Some(change) = told.standing(network, address)
        {
            self.output(Output::Plan(change));
        }
    }
}

impl Filter {
    /// What a member may claim, if that is not what was told.
    fn standing(&mut self, network: &network::Network, address: Address) -> Option<PlanChange> {
        let standing = network.standing(address)?;
        if self.standings.get(&address).map(Arc::as_ref) == Some(&standing) {
            return None;
        }
        let standing = Arc::new(standing);
        self.standings.insert(address, Arc::clone(&standing));
        Some(PlanChange::Standing { network: network.id(), address, standing })
    }
}
