//! Bonding as the operator asked for it, in local.conf and by flags: what holds, and what is to be said of it in log and
//! status. Who bonds, and how, is decided by the node.

use std::collections::BTreeSet;
use std::sync::Arc;

use bond::config::Bonding;
use tracing::warn;

use super::{Control, FallbackArgs, tcp};
use crate::cli::BondArgs;
use crate::local_conf::LocalConf;
use crate::local_conf::bonding::{Refused, judge};

/// What holds.
#[derive(Clone, Debug, Default)]
pub struct Bonds {
    /// Which peers we bond with, and how.
    pub bonding: Arc<Bonding>,
    warnings: Vec<String>,
}

impl Bonds {
    /// Of the file, with the flags above it.
    pub fn new(conf: &LocalConf, flags: &BondArgs, fallback: &FallbackArgs) -> Result<Bonds, Refused> {
        let (bonding, problems) = judge(&flags.over(&conf.settings.bonding)?)?;
        let mut warnings: Vec<String> = problems.iter().map(|p| format!("bonding: {p}")).collect();
        // The reference ignores forceTcpRelay instead. // spec: bonding, "Life of a bond"
        if bonding.in_use() && tcp::settings(fallback, conf).force {
            warnings.push("bonding: nothing to bond, as forceTcpRelay leaves no link".to_owned());
        }
        Ok(Bonds { bonding: Arc::new(bonding), warnings })
    }

    /// Logs what was not to be said of `before`.
    pub fn say(&self, before: &Bonds) {
        for warning in self.warnings.iter().filter(|w| !before.warnings.contains(w)) {
            warn!("{warning}");
        }
    }
}

impl Control {
    /// Says which interfaces the operator waits for, once; and which a bond names in vain.
    pub(super) fn look_for_missing(&mut self) {
        if self.interfaces.is_empty() {
            return; // not read yet
        }
        let there = |name: &str| self.interfaces.iter().any(|i| i.name == name);
        let bonded: BTreeSet<String> = self.p.bonds.bonding.interfaces().map(str::to_owned).collect();
        let mut missing = self.filter.missing(&self.interfaces);
        missing.extend(bonded.iter().filter(|name| !there(name)).cloned());
        let left_out: BTreeSet<String> =
            bonded.into_iter().filter(|name| there(name) && self.filter.leaves_out(name)).collect();
        for name in missing.difference(&self.missing) {
            warn!(interface = name, "there is no such interface; it is used when it appears");
        }
        for name in left_out.difference(&self.left_out) {
            warn!("{}", in_vain(name));
        }
        (self.missing, self.left_out) = (missing, left_out);
    }

    /// What the operator should know of the settings, for the status.
    pub(super) fn warnings(&self) -> Vec<String> {
        let fault = self.conf_fault.iter().map(|fault| format!("{fault}; the settings in force stay"));
        let missing =
            self.missing.iter().map(|name| format!("there is no interface {name}; it is used when it appears"));
        let left_out = self.left_out.iter().map(|name| in_vain(name));
        fault.chain(self.p.bonds.warnings.iter().cloned()).chain(missing).chain(left_out).collect()
    }
}

fn in_vain(name: &str) -> String {
    format!("bonding: {name} is no link; see interfaces and interfacePrefixBlacklist of local.conf, or --interface")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn bonds(settings: &str, force: bool) -> Bonds {
        let text = format!(r#"{{"settings": {{{settings}}}}}"#);
        let conf = LocalConf::parse(&text, Path::new("local.conf")).expect("good");
        Bonds::new(&conf, &BondArgs::default(), &FallbackArgs { force, ..FallbackArgs::default() }).expect("good")
    }

    #[test]
    fn what_is_to_be_said_of_settings_that_hold_is_said() {
        let backup = |keys: &str| {
            let policy =
                format!(r#"{{"x": {{"basePolicy": "active-backup", "links": {{"a": {{{keys}}}, "b": {{}}}}}}}}"#);
            format!(r#""defaultBondingPolicy": "x", "policies": {policy}"#)
        };
        assert!(bonds("", true).warnings.is_empty() && bonds(&backup(""), false).warnings.is_empty());
        let spare = bonds(&backup(r#""mode": "spare", "failoverTo": "b""#), false).warnings;
        assert_eq!(spare, ["bonding: link a: a spare cannot have failoverTo, it is left out"]);
        assert!(bonds(&backup(""), true).warnings[0].contains("forceTcpRelay leaves no link"));
        assert!(bonds(&format!("{}, \"forceTcpRelay\": true", backup("")), false).warnings[0].contains("no link"));
        assert_eq!(bonds(&backup(""), false).bonding.interfaces().collect::<Vec<_>>(), ["a", "b"]);
    }
}
