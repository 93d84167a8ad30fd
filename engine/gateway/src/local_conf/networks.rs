//! The sections `physical` and `virtual`: what holds for networks below ours, and for single peers.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use wire::Address;

use super::values::{boolean, bounded, integer, object, parse_endpoint, texts, unknown, wrong};
use super::{MAX_ENTRIES, MAX_PHYSICAL_RULES, MTU_RANGE, Physical, Problem, Virtual};

pub(super) fn physical(nets: &Map<String, Value>) -> Result<Vec<Physical>, Problem> {
    bounded("physical", nets.len(), MAX_ENTRIES)?;
    let mut all = Vec::with_capacity(nets.len());
    for (name, entry) in nets {
        let place = format!("physical.{name:?}");
        let net =
            name.parse().map_err(|_| wrong("physical", &Value::from(name.as_str()), "a network like 10.0.0.0/8"))?;
        let mut p = Physical { net, blacklist: false, trusted_path_id: 0, mtu: None };
        for (key, value) in object(entry, &place)? {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "blacklist" => p.blacklist = boolean(value, &at)?,
                "trustedPathId" => p.trusted_path_id = integer(value, &at, u64::MAX)?,
                "mtu" => {
                    let mtu = integer(value, &at, u64::from(u16::MAX))?;
                    p.mtu = (mtu != 0).then(|| mtu.clamp(*MTU_RANGE.start(), *MTU_RANGE.end()) as u16);
                }
                _ => return Err(unknown(key, &place, &["blacklist", "trustedPathId", "mtu"])),
            }
        }
        all.push(p);
    }
    let rules = all.iter().filter(|p| p.trusted_path_id != 0 || p.mtu.is_some()).count();
    bounded("physical (entries with trustedPathId or mtu)", rules, MAX_PHYSICAL_RULES)?;
    all.sort_by_key(|p| std::cmp::Reverse(p.net.bits));
    Ok(all)
}

pub(super) fn peers(table: &Map<String, Value>) -> Result<BTreeMap<Address, Virtual>, Problem> {
    bounded("virtual", table.len(), MAX_ENTRIES)?;
    let mut all = BTreeMap::new();
    for (name, entry) in table {
        let place = format!("virtual.{name:?}");
        let peer =
            name.parse().map_err(|_| wrong("virtual", &Value::from(name.as_str()), "an address of 10 hex digits"))?;
        let mut v = Virtual::default();
        for (key, value) in object(entry, &place)? {
            let at = format!("{place}.{key}");
            match key.as_str() {
                "try" => v.try_at = texts(value, &at, "an endpoint like 192.0.2.1/9993", parse_endpoint)?,
                "blacklist" => v.blacklist = texts(value, &at, "a network like 10.0.0.0/8", |s| s.parse().ok())?,
                _ => return Err(unknown(key, &place, &["try", "blacklist"])),
            }
        }
        all.insert(peer, v);
    }
    Ok(all)
}
