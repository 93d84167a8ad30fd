//! The configuration of a network, as its controller writes it for one member: dictionary to values and back, with
//! everything a reader must assume. Must never know who sent it, whether it was signed, or what is done with it.

use std::net::{IpAddr, SocketAddr};

use wire::credential::{Capability, Com, Ownership, Tag};
use wire::dictionary::{Dictionary, DictionaryWriter};
use wire::endpoint::{self, Prefix};
use wire::rule::RuleTable;
use wire::{Address, Mac, Malformed, NetworkId, Reader};

use crate::addressing::{AdHoc, AdHocRefusal};
use crate::constants::{
    ADDRESSES_MAX, CAPABILITIES_MAX, CONFIG_VERSION, CONFIG_VERSION_MIN, DNS_DOMAIN_LEN, DNS_SERVERS, MTU_DEFAULT,
    MTU_MAX, MTU_MIN, NAME_MAX, OWNERSHIPS_MAX, ROUTES_MAX, RULES_MAX, SPECIALISTS_MAX, TAGS_MAX,
};

/// What one member needs to know of a network. // spec: networks, "The configuration dictionary"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network.
    pub network: NetworkId,
    /// Controller's clock when it was made, ms: the only clock that members share.
    pub timestamp: u64,
    /// How far a peer's tag, capability or ownership may be from [`Config::timestamp`], either way, ms.
    pub credential_window_ms: u64,
    /// Revision of the controller's record; informational.
    pub revision: u64,
    /// The member it is for.
    pub issued_to: Address,
    /// Who wants to hear of events on this network; a member need not tell.
    pub trace_target: Option<Address>,
    /// How much of it.
    pub trace_level: u64,
    /// [`Config::BROADCAST`], [`Config::NDP_EMULATION`], [`Config::UNKNOWN_MATCHES`], [`Config::NO_COMPRESSION`].
    pub flags: u64,
    /// Most recipients of one multicast; 0: no multicast.
    pub multicast_limit: u64,
    /// Everybody is a member.
    pub public: bool,
    /// Name for people, at most 127 bytes.
    pub name: String,
    /// Bytes of payload in an Ethernet frame.
    pub mtu: u16,
    /// Our certificate of membership.
    pub com: Option<Com>,
    /// Our capabilities, by ascending id.
    pub capabilities: Vec<Capability>,
    /// Our tags, by ascending id.
    pub tags: Vec<Tag>,
    /// Our certificates of ownership.
    pub ownerships: Vec<Ownership>,
    /// Members with a role.
    pub specialists: Vec<Specialist>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Our own addresses with the prefix lengths of their networks.
    pub addresses: Vec<Prefix>,
    /// Base rules. No rules: everything is dropped unless a capability accepts it.
    pub rules: RuleTable,
    /// Name resolution.
    pub dns: Dns,
    /// Authentication by a third party.
    pub authentication: Authentication,
}

/// A member with a role: the address and its role bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specialist(pub u64);

impl Specialist {
    /// May send frames from, and gets frames for, MACs that are not its own.
    pub const ACTIVE_BRIDGE: u64 = 0x0000_0200_0000_0000;
    /// Always contacted, told our groups, asked to gather.
    pub const ANCHOR: u64 = 0x0000_0400_0000_0000;
    /// Gets one copy of a multicast and fans it out.
    pub const REPLICATOR: u64 = 0x0000_0800_0000_0000;

    /// The member.
    pub fn address(self) -> Address {
        Address::from_u64(self.0)
    }
}

/// A route that the controller wants in the host's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: Prefix,
    /// Next hop; none: directly on the network.
    pub via: Option<IpAddr>,
    /// Not used by any member.
    pub flags: u16,
    /// Not used by any member.
    pub metric: u16,
}

/// Name resolution for the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Search domain; empty: none.
    pub domain: String,
    /// At most four.
    pub servers: Vec<IpAddr>,
}

/// How members prove who they are to a third party, if they must.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// Flow version: 0, a URL to open; 1, OIDC.
    pub version: u64,
    /// It is asked for at all.
    pub enabled: bool,
    /// Flow 0: what the user opens.
    pub url: String,
    /// Flow 0: when the present authentication ends, ms of the controller's clock.
    pub expires: i64,
    /// Flow 1.
    pub oidc: Option<Oidc>,
}

/// Parameters of authentication flow 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Oidc {
    /// Issuer URL.
    pub issuer: String,
    /// Central endpoint URL.
    pub central: String,
    /// Nonce.
    pub nonce: String,
    /// State.
    pub state: String,
    /// Client ID.
    pub client_id: String,
    /// Provider; `default` if not said.
    pub provider: String,
}

impl Authentication {
    /// Flow version whose parameters are an [`Oidc`].
    pub const OIDC: u64 = 1;
}

impl Oidc {
    /// Provider if none is named.
    const PROVIDER: &str = "default";
}

/// Why a dictionary is no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key or value does not have its form.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The version is below the least one understood, or absent.
    #[error("configuration version {0} is not understood, at least {CONFIG_VERSION_MIN} is needed")]
    Version(u64),
    /// It does not say which network or which member it is for.
    #[error("the configuration does not say {0}")]
    Absent(&'static str),
}

impl Config {
    /// Flag: frames to ff:ff:ff:ff:ff:ff other than ARP requests may be sent. // spec: networks, "Flags"
    pub const BROADCAST: u64 = 0x02;
    /// Flag: neighbour solicitations for computed IPv6 addresses are answered by the asking node itself.
    pub const NDP_EMULATION: u64 = 0x04;
    /// Flag: matches of unknown type are true.
    pub const UNKNOWN_MATCHES: u64 = 0x08;
    /// Flag: multicast frames are not compressed.
    pub const NO_COMPRESSION: u64 = 0x10;

    /// Reads a configuration. // spec: networks, "The configuration dictionary"
    pub fn parse(dictionary: &[u8]) -> Result<Config, ConfigError> {
        let d = Dictionary::parse(dictionary)?;
        let number = |key| d.u64(key).unwrap_or(0);
        let address = |key| d.u64(key).map(Address::from_u64).filter(|&a| a != Address::ZERO);
        let binary = |key| d.get(key).unwrap_or_default();

        let version = number("v");
        if version < CONFIG_VERSION_MIN {
            return Err(ConfigError::Version(version));
        }
        let network = NetworkId(number("nwid"));
        if network == NetworkId(0) {
            return Err(ConfigError::Absent("which network it is for"));
        }
        let issued_to = address("id").ok_or(ConfigError::Absent("which member it is for"))?;
        let com = match binary("C") {
            bytes if bytes.is_empty() => None,
            bytes => Some(Com::read(&mut Reader::new(&bytes))?),
        };
        let mut capabilities = read_while_good(&binary("CAP"), CAPABILITIES_MAX, Capability::read);
        let mut tags = read_while_good(&binary("TAG"), TAGS_MAX, Tag::read);
        capabilities.sort_by_key(|c| c.id);
        tags.sort_by_key(|t| t.id);
        let mtu = d.u64("mtu").unwrap_or(MTU_DEFAULT.into()).clamp(MTU_MIN.into(), MTU_MAX.into());
        Ok(Config {
            network,
            timestamp: number("ts"),
            credential_window_ms: number("ctmd"),
            revision: number("r"),
            issued_to,
            trace_target: address("tt"),
            trace_level: number("tl"),
            flags: number("f"),
            multicast_limit: number("ml"),
            public: number("t") == 1,
            name: text_of(&binary("n"), NAME_MAX),
            mtu: mtu as u16,
            com,
            capabilities,
            tags,
            ownerships: read_all(&binary("COO"), OWNERSHIPS_MAX, Ownership::read)?,
            specialists: read_specialists(&binary("S")),
            routes: read_all(&binary("RT"), ROUTES_MAX, Route::read)?.into_iter().flatten().collect(),
            addresses: read_all(&binary("I"), ADDRESSES_MAX, read_prefix)?.into_iter().flatten().collect(),
            rules: RuleTable::parse(&binary("R"), RULES_MAX)?,
            dns: Dns::parse(&binary("DNS"))?,
            authentication: Authentication::parse(&d),
        })
    }

    /// Writes the configuration, keys in the order in which the reference writes them.
    pub fn to_dictionary(&self) -> Vec<u8> {
        let mut d = DictionaryWriter::new();
        d.u64("v", CONFIG_VERSION)
            .u64("nwid", self.network.0)
            .u64("ts", self.timestamp)
            .u64("ctmd", self.credential_window_ms)
            .u64("r", self.revision)
            .text("id", &self.issued_to.to_string())
            .text("tt", &self.trace_target.unwrap_or(Address::ZERO).to_string())
            .u64("tl", self.trace_level)
            .u64("f", self.flags)
            .u64("ml", self.multicast_limit)
            .u64("t", self.public.into())
            .text("n", &self.name)
            .u64("mtu", self.mtu.into());
        let mut binary = |key, write: &dyn Fn(&mut Vec<u8>)| {
            let mut value = Vec::new();
            write(&mut value);
            if !value.is_empty() {
                d.bytes(key, &value);
            }
        };
        binary("C", &|out| self.com.iter().for_each(|c| c.write(out)));
        binary("CAP", &|out| self.capabilities.iter().for_each(|c| c.write(out)));
        binary("TAG", &|out| self.tags.iter().for_each(|t| t.write(out)));
        binary("COO", &|out| self.ownerships.iter().for_each(|c| c.write(out)));
        binary("S", &|out| self.specialists.iter().for_each(|s| out.extend_from_slice(&s.0.to_be_bytes())));
        binary("RT", &|out| self.routes.iter().for_each(|r| r.write(out)));
        binary("I", &|out| self.addresses.iter().for_each(|&a| write_prefix(a, out)));
        binary("R", &|out| out.extend_from_slice(self.rules.bytes()));
        d.bytes("DNS", &self.dns.to_bytes());
        self.authentication.write(&mut d);
        d.finish()
    }

    /// The configuration that a member of an ad-hoc network makes for itself. // spec: networks, "Ad-hoc networks"
    pub fn ad_hoc(network: NetworkId, own: Address, timestamp_ms: u64) -> Result<Config, AdHocRefusal> {
        let made = AdHoc::configuration(network, own)?;
        Ok(Config {
            network,
            timestamp: timestamp_ms,
            credential_window_ms: AdHoc::CREDENTIAL_WINDOW_MS,
            revision: AdHoc::REVISION,
            issued_to: own,
            trace_target: None,
            trace_level: 0,
            flags: AdHoc::FLAGS,
            multicast_limit: made.multicast_limit.into(),
            public: true,
            name: made.name,
            mtu: AdHoc::MTU,
            com: None,
            capabilities: Vec::new(),
            tags: Vec::new(),
            ownerships: Vec::new(),
            specialists: made.specialists.into_iter().map(Specialist).collect(),
            routes: Vec::new(),
            addresses: made.static_ips.into_iter().filter_map(|(ip, bits)| Prefix::new(ip, bits)).collect(),
            rules: RuleTable::parse(&made.rules, RULES_MAX).unwrap_or_default(),
            dns: Dns::default(),
            authentication: Authentication::default(),
        })
    }

    /// The flag is set.
    pub fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Members with this role, in the order given.
    pub fn with_role(&self, role: u64) -> impl Iterator<Item = Address> + '_ {
        self.specialists.iter().filter(move |s| s.0 & role != 0).map(|s| s.address())
    }

    /// The member has this role.
    pub fn has_role(&self, address: Address, role: u64) -> bool {
        self.with_role(role).any(|a| a == address)
    }

    /// Value of our own tag.
    pub fn tag(&self, id: u32) -> Option<u32> {
        self.tags.iter().find(|t| t.id == id).map(|t| t.value)
    }

    /// A credential of this age may be used with this configuration. // spec: networks, "Storing others' credentials"
    pub fn accepts_timestamp(&self, credential: i64) -> bool {
        let (ours, theirs) = (i128::from(self.timestamp), i128::from(credential));
        (ours - theirs).unsigned_abs() <= u128::from(self.credential_window_ms)
    }
}

/// Our own tags and ownerships, which are not checked again: the signature of the configuration covers them.
impl crate::rules::Claims for Config {
    fn tag(&self, id: u32) -> Option<u32> {
        Config::tag(self, id)
    }

    fn owns_ip(&self, ip: IpAddr) -> bool {
        self.ownerships.iter().any(|o| o.owns(ip))
    }

    fn owns_mac(&self, mac: Mac) -> bool {
        self.ownerships.iter().any(|o| o.owns(mac))
    }
}

fn first(bytes: &[u8], most: usize) -> &[u8] {
    &bytes[..bytes.len().min(most)]
}

/// Text of at most so many bytes; what is not UTF-8 becomes replacement characters.
fn text_of(bytes: &[u8], most: usize) -> String {
    let mut text = String::from_utf8_lossy(first(bytes, most)).into_owned();
    while text.len() > most {
        text.pop();
    }
    text
}

/// Objects to the end of `bytes`; those beyond the first `most` are not looked at.
fn read_all<T>(
    bytes: &[u8],
    most: usize,
    read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let r = &mut Reader::new(bytes);
    let mut objects = Vec::new();
    while !r.is_empty() && objects.len() < most {
        objects.push(read(r)?);
    }
    Ok(objects)
}

/// As [`read_all`]; a malformed object ends the list.
fn read_while_good<T>(bytes: &[u8], most: usize, read: impl Fn(&mut Reader<'_>) -> Result<T, Malformed>) -> Vec<T> {
    let r = &mut Reader::new(bytes);
    std::iter::from_fn(|| (!r.is_empty()).then(|| read(r).ok()).flatten()).take(most).collect()
}

/// Whole entries only; a rest is ignored.
fn read_specialists(bytes: &[u8]) -> Vec<Specialist> {
    let (entries, _) = bytes.as_chunks::<8>();
    entries.iter().take(SPECIALISTS_MAX).map(|e| Specialist(u64::from_be_bytes(*e))).collect()
}

/// An InetAddress whose port is a prefix length; none if it is no address or the length is impossible.
fn read_prefix(r: &mut Reader<'_>) -> Result<Option<Prefix>, Malformed> {
    let Some(endpoint) = endpoint::read(r)? else { return Ok(None) };
    Ok(u8::try_from(endpoint.port()).ok().and_then(|bits| Prefix::new(endpoint.ip(), bits)))
}

fn write_prefix(prefix: Prefix, out: &mut Vec<u8>) {
    endpoint::write(Some(SocketAddr::new(prefix.addr, prefix.bits.into())), out);
}

fn write_ip(ip: Option<IpAddr>, out: &mut Vec<u8>) {
    endpoint::write(ip.map(|ip| SocketAddr::new(ip, 0)), out);
}

impl Route {
    fn read(r: &mut Reader<'_>) -> Result<Option<Route>, Malformed> {
        let target = read_prefix(r)?;
        let via = endpoint::read(r)?.map(|e| e.ip());
        let (flags, metric) = (r.u16("route flags")?, r.u16("route metric")?);
        Ok(target.map(|target| Route { target, via, flags, metric }))
    }

    fn write(&self, out: &mut Vec<u8>) {
        write_prefix(self.target, out);
        write_ip(self.via, out);
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.metric.to_be_bytes());
    }
}

impl Dns {
    /// Domain, NUL padded, then four InetAddresses. // spec: networks, "DNS"
    fn parse(bytes: &[u8]) -> Result<Dns, Malformed> {
        if bytes.is_empty() {
            return Ok(Dns::default());
        }
        let r = &mut Reader::new(bytes);
        let domain = r.take(DNS_DOMAIN_LEN, "dns domain")?;
        let end = domain.iter().position(|&b| b == 0).unwrap_or(DNS_DOMAIN_LEN - 1);
        let servers = (0..DNS_SERVERS).map(|_| endpoint::read(r)).collect::<Result<Vec<_>, _>>()?;
        Ok(Dns {
            domain: text_of(first(domain, end), DNS_DOMAIN_LEN - 1),
            servers: servers.into_iter().flatten().map(|e| e.ip()).collect(),
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = first(self.domain.as_bytes(), DNS_DOMAIN_LEN - 1).to_vec();
        out.resize(DNS_DOMAIN_LEN, 0);
        for n in 0..DNS_SERVERS {
            write_ip(self.servers.get(n).copied(), &mut out);
        }
        out
    }
}

impl Authentication {
    fn parse(d: &Dictionary<'_>) -> Authentication {
        let text = |key| d.text(key).unwrap_or_default();
        let version = d.u64("ssov").unwrap_or(0);
        let mut authentication = Authentication { version, ..Authentication::default() };
        if !d.bool("ssoe").unwrap_or(false) {
            return authentication;
        }
        authentication.enabled = true;
        if version != Authentication::OIDC {
            authentication.url = text("aurl");
            authentication.expires = d.i64("aexpt").unwrap_or(0).max(0);
            return authentication;
        }
        authentication.oidc = Some(Oidc {
            issuer: text("iurl"),
            central: text("ssoce"),
            nonce: text("sson"),
            state: text("ssos"),
            client_id: text("ssocid"),
            provider: d.text("ssop").filter(|p| !p.is_empty()).unwrap_or_else(|| Oidc::PROVIDER.to_owned()),
        });
        authentication
    }

    /// As a controller's ERROR tells it. // spec: networks, "Errors from the controller"
    pub(crate) fn parse_error(dictionary: &[u8]) -> Option<Authentication> {
        let d = Dictionary::parse(dictionary).ok().filter(|d| !d.is_empty())?;
        let text = |key| d.text(key).unwrap_or_default();
        let version = d.u64("aV").unwrap_or(0);
        let oidc = (version == Authentication::OIDC).then(|| Oidc {
            issuer: text("iU"),
            central: text("aCU"),
            nonce: text("aN"),
            state: text("aS"),
            client_id: text("aCID"),
            provider: d.text("aSSOp").filter(|p| !p.is_empty()).unwrap_or_else(|| Oidc::PROVIDER.to_owned()),
        });
        Some(Authentication { version, enabled: true, url: text("aU"), expires: 0, oidc })
    }

    fn write(&self, d: &mut DictionaryWriter) {
        d.u64("ssov", self.version).bool("ssoe", self.enabled);
        if !self.enabled {
            return;
        }
        if let Some(oidc) = &self.oidc {
            d.text("iurl", &oidc.issuer)
                .text("ssoce", &oidc.central)
                .text("sson", &oidc.nonce)
                .text("ssos", &oidc.state)
                .text("ssocid", &oidc.client_id)
                .text("ssop", &oidc.provider);
        } else {
            if !self.url.is_empty() {
                d.text("aurl", &self.url);
            }
            d.i64("aexpt", self.expires);
        }
    }
}
