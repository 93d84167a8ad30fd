//! nebula: an overlay with certificates, a firewall and Noise. A certificate authority is made for each start; each
//! gateway's certificate names its LAN, and the other routes it there (`unsafe_routes`). AES-GCM, as its makers advise
//! where the CPU has AES; all else as it comes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lab::netns;
use serde_json::json;

use super::{Programs, Running, Tunnel, rival};
use crate::rig::{Guard, Rig};
use crate::{IoContext, Result};

const OVERLAY: [&str; 2] = ["10.66.0.1", "10.66.0.2"];
const PORT: u16 = 4242;
const DEVICE: &str = "nebula0";
/// Its safe default on a wire of 1500 bytes is 1300, its example for 9000 bytes 8800.
const OVERHEAD: u32 = 200;
const START_LIMIT: Duration = Duration::from_secs(10);

/// The installed `nebula` and `nebula-cert`.
#[derive(Clone, Debug)]
pub struct Nebula {
    program: PathBuf,
    cert: PathBuf,
}

/// The installed `nebula` and `nebula-cert`.
pub fn find(programs: &Programs) -> Result<Nebula> {
    Ok(Nebula { program: programs.find("nebula")?, cert: programs.find("nebula-cert")? })
}

struct Pair([Guard; 2]);

impl Tunnel for Nebula {
    fn name(&self) -> &str {
        "nebula"
    }

    fn about(&self) -> String {
        format!("nebula {}, AES-256-GCM", rival::version(&self.program, "-version").trim_start_matches("Version: "))
    }

    fn start(&self, rig: &Rig) -> Result<Box<dyn Running>> {
        let path = |name: &str| rig.files.path().join(name).display().to_string();
        let cert = |words: &[&str]| netns::run(&self.cert.display().to_string(), words);
        let (ca_crt, ca_key) = (path("nebula-ca.crt"), path("nebula-ca.key"));
        cert(&["ca", "-name", "bench", "-duration", "24h", "-out-crt", &ca_crt, "-out-key", &ca_key])?;
        let launch = |i: usize| -> Result<Guard> {
            let name = ["a", "b"][i];
            let (site, far) = (&rig.sites[i], &rig.sites[1 - i]);
            let (crt, key) = (path(&format!("nebula-{name}.crt")), path(&format!("nebula-{name}.key")));
            let ip = format!("{}/24", OVERLAY[i]);
            let sign = ["sign", "-ca-crt", &ca_crt, "-ca-key", &ca_key, "-name", name, "-ip", &ip];
            cert(&[&sign[..], &["-subnets", site.lan_net, "-out-crt", &crt, "-out-key", &key]].concat())?;
            let anything = json!([{"port": "any", "proto": "any", "host": "any"}]);
            // Its YAML reader takes JSON.
            let config = json!({
                "pki": {"ca": ca_crt, "cert": crt, "key": key},
                "static_host_map": {OVERLAY[1 - i]: [format!("{}:{PORT}", far.wan)]},
                "lighthouse": {"am_lighthouse": false, "hosts": []},
                "listen": {"host": site.wan, "port": PORT},
                "cipher": "aes",
                "tun": {
                    "dev": DEVICE,
                    "mtu": rig.options.wan_mtu.saturating_sub(OVERHEAD),
                    "unsafe_routes": [{"route": far.lan_net, "via": OVERLAY[1 - i]}],
                },
                // Since 1.10 a rule is for the node itself only, unless told.
                "firewall": {"outbound": anything, "inbound": anything, "default_local_cidr_any": true},
            });
            let (file, log) =
                (path(&format!("nebula-{name}.yml")), rig.files.path().join(format!("nebula-{name}.log")));
            std::fs::write(&file, config.to_string()).doing("write nebula's configuration")?;
            let mut daemon = site.spawn(Command::new(&self.program).args(["-config", &file]), &log)?;
            rival::wait_for(&mut daemon, "nebula", &log, "its device", START_LIMIT, || {
                Ok(site.gateway.ip(&["link", "show", DEVICE]).is_ok())
            })?;
            Ok(daemon)
        };
        let pair = Pair([launch(0)?, launch(1)?]);
        Ok(Box::new(pair))
    }
}

impl Running for Pair {
    fn pids(&self) -> [Vec<u32>; 2] {
        self.0.each_ref().map(|d| vec![d.pid()])
    }

    fn overlay(&self) -> [IpAddr; 2] {
        rival::addresses(OVERLAY)
    }
}
