//! `hawser controller ...`: networks and members of this node's own controller, in words, and the records that the API
//! wants to have instead of them. What a record means is known by the controller alone.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use wire::{Address, NetworkId};

use super::CliError;
use crate::client::Client;
use crate::{show, tools};

/// `hawser controller ...`
#[derive(Debug, Subcommand)]
pub enum ControllerCommand {
    /// Networks of this controller
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Members of a network
    #[command(subcommand)]
    Member(MemberCommand),
}

/// `hawser controller network ...`
#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    /// Make a network
    Create {
        /// What to begin with
        #[command(flatten)]
        settings: NetworkSettings,
    },
    /// List the networks
    List,
    /// Show a network's record
    Show {
        /// 16 hex digits
        network: NetworkId,
    },
    /// Change a network
    Set {
        /// 16 hex digits
        network: NetworkId,
        /// What to change
        #[command(flatten)]
        settings: NetworkSettings,
    },
    /// Delete a network and its members
    Delete {
        /// 16 hex digits
        network: NetworkId,
    },
}

/// Settings of a network, in words.
#[derive(Clone, Debug, Default, Args)]
pub struct NetworkSettings {
    /// Name
    #[arg(long)]
    pub name: Option<String>,
    /// Give members IPv4 addresses of this subnet, e.g. 10.147.20.0/24
    #[arg(long, value_name = "IP/BITS")]
    pub subnet: Option<String>,
    /// Give members IPv6 addresses made from their own: rfc4193 or 6plane
    #[arg(long, value_name = "MODE", value_parser = ["rfc4193", "6plane"])]
    pub ipv6: Vec<String>,
    /// A route, e.g. 192.168.7.0/24 or 192.168.7.0/24@10.147.20.2; repeatable, replaces the routes there are
    #[arg(long = "route", value_name = "TARGET[@VIA]")]
    pub routes: Vec<String>,
    /// Everyone may join without being authorised
    #[arg(long, value_name = "BOOL")]
    pub public: Option<bool>,
    /// Fields of the record as JSON, over all of the above
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
}

/// `hawser controller member ...`
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// List the members of a network
    List {
        /// 16 hex digits
        network: NetworkId,
    },
    /// Let a member in
    Authorize {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
        /// Give it this address; repeatable
        #[arg(long = "ip", value_name = "IP")]
        ips: Vec<String>,
    },
    /// Shut a member out
    Deauthorize {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
    },
    /// Change a member's record
    Set {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
        /// Fields of the record as JSON
        #[arg(long, value_name = "JSON")]
        config: String,
    },
    /// Show a member's record
    Show {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
    },
    /// Forget a member
    Delete {
        /// 16 hex digits
        network: NetworkId,
        /// 10 hex digits
        member: Address,
    },
}

/// How an answer is shown to people.
pub(super) type Table = fn(&Value) -> String;

/// Does it, and says how to show the answer.
pub(super) fn run(client: &Client, command: &ControllerCommand) -> Result<(Value, Table), CliError> {
    let base = |network: &NetworkId| format!("/controller/network/{network}");
    let member_of = |network: &NetworkId, member: &Address| format!("/controller/network/{network}/member/{member}");
    Ok(match command {
        ControllerCommand::Network(command) => match command {
            NetworkCommand::Create { settings } => {
                (client.post("/controller/network", &settings.to_record()?)?, show::controller_network)
            }
            NetworkCommand::List => {
                let list = client.get("/unstable/controller/network")?;
                (list.get("data").cloned().unwrap_or_default(), show::controller_networks)
            }
            NetworkCommand::Show { network } => (client.get(&base(network))?, show::controller_network),
            NetworkCommand::Set { network, settings } => {
                client.get(&base(network))?;
                (client.post(&base(network), &settings.to_record()?)?, show::controller_network)
            }
            NetworkCommand::Delete { network } => (client.delete(&base(network))?, |_| "deleted".into()),
        },
        ControllerCommand::Member(command) => match command {
            MemberCommand::List { network } => {
                let list = client.get(&format!("/unstable/controller/network/{network}/member"))?;
                (list.get("data").cloned().unwrap_or_default(), show::controller_members)
            }
            MemberCommand::Authorize { network, member, ips } => {
                let mut record = json!({"authorized": true});
                if !ips.is_empty() {
                    record["ipAssignments"] = json!(ips);
                }
                (client.post(&member_of(network, member), &record)?, show::controller_member)
            }
            MemberCommand::Deauthorize { network, member } => {
                (client.post(&member_of(network, member), &json!({"authorized": false}))?, show::controller_member)
            }
            MemberCommand::Set { network, member, config } => {
                (client.post(&member_of(network, member), &parse_object(config)?)?, show::controller_member)
            }
            MemberCommand::Show { network, member } => {
                (client.get(&member_of(network, member))?, show::controller_member)
            }
            MemberCommand::Delete { network, member } => {
                (client.delete(&member_of(network, member))?, |_| "deleted".into())
            }
        },
    })
}

impl NetworkSettings {
    /// The fields of a controller's network record that these words mean.
    pub fn to_record(&self) -> Result<Value, CliError> {
        let mut record = Map::new();
        if let Some(name) = &self.name {
            record.insert("name".into(), json!(name));
        }
        if let Some(public) = self.public {
            record.insert("private".into(), json!(!public));
        }
        let mut routes: Vec<Value> = Vec::new();
        if let Some(subnet) = &self.subnet {
            let (first, last) = tools::hosts(subnet).ok_or_else(|| {
                CliError::Failed(format!("--subnet {subnet}: not an IPv4 subnet like 10.147.20.0/24"))
            })?;
            record.insert("ipAssignmentPools".into(), json!([{"ipRangeStart": first, "ipRangeEnd": last}]));
            record.insert("v4AssignMode".into(), json!({"zt": true}));
            routes.push(json!({"target": subnet, "via": null}));
        }
        for route in &self.routes {
            let (target, via) = route.split_once('@').map_or((route.as_str(), None), |(t, v)| (t, Some(v)));
            if target.parse::<wire::endpoint::Prefix>().is_err()
                || via.is_some_and(|v| v.parse::<std::net::IpAddr>().is_err())
            {
                return Err(CliError::Failed(format!(
                    "--route {route}: not TARGET or TARGET@VIA, like 10.1.0.0/16@10.147.20.2"
                )));
            }
            routes.push(json!({"target": target, "via": via}));
        }
        if !routes.is_empty() {
            record.insert("routes".into(), routes.into());
        }
        if !self.ipv6.is_empty() {
            let mode = |m: &str| self.ipv6.iter().any(|i| i == m);
            record.insert(
                "v6AssignMode".into(),
                json!({"zt": false, "rfc4193": mode("rfc4193"), "6plane": mode("6plane")}),
            );
        }
        if let Some(config) = &self.config {
            record.extend(parse_object(config)?.as_object().cloned().unwrap_or_default());
        }
        Ok(Value::Object(record))
    }
}

fn parse_object(text: &str) -> Result<Value, CliError> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(CliError::Failed("--config: must be a JSON object".into())),
        Err(e) => Err(CliError::Failed(format!("--config: not JSON: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_the_fields_of_a_network_record() {
        let settings = NetworkSettings {
            name: Some("lab".into()),
            subnet: Some("10.1.2.0/24".into()),
            ipv6: vec!["6plane".into()],
            routes: vec!["10.9.0.0/16@10.1.2.3".into()],
            public: Some(false),
            config: Some(r#"{"mtu": 1500}"#.into()),
        };
        let record = settings.to_record().expect("record");
        assert_eq!(record["private"], json!(true));
        assert_eq!(record["ipAssignmentPools"], json!([{"ipRangeStart": "10.1.2.1", "ipRangeEnd": "10.1.2.254"}]));
        let routes = json!([{"target": "10.1.2.0/24", "via": null}, {"target": "10.9.0.0/16", "via": "10.1.2.3"}]);
        assert_eq!(record["routes"], routes);
        assert_eq!(record["v6AssignMode"]["6plane"], json!(true));
        assert_eq!(record["mtu"], json!(1500));
        let bad = NetworkSettings { routes: vec!["x@y".into()], ..NetworkSettings::default() };
        assert!(bad.to_record().expect_err("bad").to_string().contains("--route x@y"));
    }
}
