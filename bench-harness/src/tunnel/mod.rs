//! What can stand between the two gateways. A tunnel is a name and a way to start it on a rig; measuring is not its
//! business.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::rig::Rig;
use crate::{Error, Result};

pub mod boringtun;
pub mod gotatun;
pub mod hawser;
pub mod nebula;
pub mod none;
pub mod plain;
pub mod reference;
mod rival;
pub mod tinc;
pub mod wireguard;
pub mod wireguard_go;
pub mod zerotier_one;

/// Something that carries packets between the LANs of two gateways.
pub trait Tunnel {
    /// One word, as people and records call it.
    fn name(&self) -> &str;

    /// Version and settings that matter, for the record.
    fn about(&self) -> String {
        String::new()
    }

    /// Starts both ends and sets the routes to the other LAN. The caller then waits for a ping from host to host.
    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>>;
}

/// A tunnel at work. Dropping it ends it; the rig must outlive it.
pub trait Running {
    /// The daemons of A and of B, whose CPU time and memory are counted.
    fn pids(&self) -> [Vec<u32>; 2];

    /// Addresses of the two gateways inside the tunnel.
    fn overlay(&self) -> [IpAddr; 2];

    /// Where the direct paths of A (0) to B lead, or of B (1) to A, if it tells: `IP/PORT`.
    fn direct_paths(&self, _site: usize) -> Option<Vec<String>> {
        None
    }

    /// UDP datagrams that B itself took in since this was asked last, each with its time: for a B without a LAN behind it.
    fn datagrams(&self) -> Option<Vec<(SystemTime, Vec<u8>)>> {
        None
    }

    /// What the daemon of A (0) or B (1) answers to these words of its command line, if it can be asked.
    fn ask(&self, _site: usize, _words: &[&str]) -> Option<Value> {
        None
    }

    /// What each daemon counted so far, if it tells: a JSON object of objects of numbers.
    fn counters(&self) -> Option<[Value; 2]> {
        None
    }
}

/// Where programs are: as the user said, else where the search path has them.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// What the user said, by name of the program.
    pub given: BTreeMap<String, PathBuf>,
}

impl Programs {
    /// The program called `name`, or a message that says how to name it.
    pub fn find(&self, name: &str) -> Result<PathBuf> {
        if let Some(path) = self.given.get(name) {
            return executable(path)
                .then(|| path.clone())
                .ok_or_else(|| Error::Unusable(format!("{}: no such program (given for {name})", path.display())));
        }
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths)
            .map(|folder| folder.join(name))
            .find(|path| executable(path))
            .ok_or_else(|| Error::Unusable(format!("{name} was not found: --program {name}=PATH")))
    }
}

/// A file that may be run.
pub fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
