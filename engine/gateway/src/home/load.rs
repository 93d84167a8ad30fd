//! Start: every file of the home is read, and one that is damaged is refused by name before anything is written; then what
//! is missing is made. Cached peers alone are only hints. // spec: service, "Home directory"

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rand::distr::{Distribution, Uniform};
use tracing::warn;
use wire::identity::{Identity, SecretIdentity};
use wire::world::{DEFAULT_PLANET, World, WorldKind};
use wire::{Address, NetworkId};
use zeroize::Zeroizing;

use super::{
    Home, HomeError, MAX_CACHED_PEERS, MAX_MOONS, MAX_NETWORKS, MAX_PEER_AGE, PUBLIC, SECRET, TOKEN_LEN, signer_file,
};
use crate::network_conf::NetworkConf;
use crate::store;

/// One network of `networks.d`.
#[derive(Debug)]
pub struct JoinedNetwork {
    /// Its ID.
    pub id: NetworkId,
    /// The configuration last received; none if there never was one.
    pub cached: Option<Vec<u8>>,
    /// What the operator allows it.
    pub conf: NetworkConf,
}

/// What the files said at start.
#[derive(Debug)]
pub struct Loaded {
    /// Who we are.
    pub identity: Arc<SecretIdentity>,
    /// The planet, verified.
    pub planet: World,
    /// The moons, verified.
    pub moons: Vec<World>,
    /// Moons that are waited for, and who will bring them.
    pub seeds: Vec<(u64, Address)>,
    /// Networks to rejoin, ascending.
    pub networks: Vec<JoinedNetwork>,
    /// Cached peers, as stored.
    pub peers: Vec<(Address, Vec<u8>)>,
    /// What an API request must bring.
    pub token: Zeroizing<String>,
}

impl Home {
    /// Reads everything. Damage of any file but a cached peer is an error, and is found before anything is written;
    /// then what is missing is made: identity, token, planet.
    pub fn load(&self) -> Result<Loaded, HomeError> {
        let identity = self.load_identity()?;
        let planet = self.load_planet()?;
        let moons = self.load_moons()?;
        let mut seeds = self.load_seeds()?;
        // Somebody put the moon there by hand: whoever leaves it later shall not wait for it again.
        for (id, _) in seeds.extract_if(.., |(id, _)| moons.iter().any(|moon| moon.id == *id)) {
            let file = self.moon_seed(id);
            store::remove(&file).map_err(|source| self.io(&file, source))?;
        }
        let networks = self.load_networks()?;
        let peers = self.load_peers()?;
        let token = self.load_token()?;

        let identity = match identity {
            Some(identity) => identity,
            None => SecretIdentity::generate(&mut rand::rng()),
        };
        self.write_identity(&identity)?;
        let planet = match planet {
            Some(planet) => planet,
            None => {
                self.write(&self.planet(), PUBLIC, DEFAULT_PLANET)?;
                World::parse(DEFAULT_PLANET).map_err(|e| self.corrupt(self.planet(), e.to_string(), ""))?
            }
        };
        let token = match token {
            Some(token) => token,
            None => {
                let token = new_token();
                self.write(&self.token(), SECRET, token.as_bytes())?;
                token
            }
        };
        Ok(Loaded { identity: Arc::new(identity), planet, moons, seeds, networks, peers, token })
    }

    fn load_identity(&self) -> Result<Option<SecretIdentity>, HomeError> {
        let or = ", or move it away together with identity.public to start as a new node";
        let file = self.identity_secret();
        let public = match self.read(&self.identity_public())? {
            None => None,
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                let parsed = text.parse::<Identity>().map_err(|e| {
                    let or = ", or remove it: it is written anew from identity.secret";
                    self.corrupt(self.identity_public(), format!("not a public identity ({e})"), or)
                })?;
                Some(parsed)
            }
        };
        let Some(bytes) = self.read(&file)? else {
            if let Some(public) = public {
                let reason = format!("missing, but identity.public of {} is there", public.address());
                return Err(self.corrupt(file, reason, ", or remove identity.public to start as a new node"));
            }
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).map_err(|_| self.corrupt(file.clone(), "not text".into(), or))?;
        let identity: SecretIdentity =
            text.trim().parse().map_err(|e| self.corrupt(file.clone(), format!("not a secret identity ({e})"), or))?;
        if let Some(public) = public.filter(|p| p != identity.public()) {
            let reason =
                format!("is of {}, but identity.secret is of {}", public.address(), identity.public().address());
            let or = ", or remove it: it is written anew from identity.secret";
            return Err(self.corrupt(self.identity_public(), reason, or));
        }
        Ok(Some(identity))
    }

    fn write_identity(&self, identity: &SecretIdentity) -> Result<(), HomeError> {
        let file = self.identity_secret();
        if !file.exists() {
            self.write(&file, SECRET, identity.to_text().as_bytes())?;
        }
        fs::set_permissions(&file, Permissions::from_mode(SECRET)).map_err(|source| self.io(&file, source))?;
        let file = self.identity_public();
        if !file.exists() {
            self.write(&file, PUBLIC, identity.public().to_string().as_bytes())?;
        }
        Ok(())
    }

    fn load_planet(&self) -> Result<Option<World>, HomeError> {
        self.load_world(&self.planet(), WorldKind::Planet, ", or remove it to use the public planet")
    }

    /// A world must be signed with the key that it names for its next revision, or with the key noted beside it: that is
    /// the one by which it was accepted when it changed the key. ZeroTierOne notes no key and takes its cached planet
    /// unverified, so a planet without a note is taken too, with a warning.
    fn load_world(&self, file: &Path, kind: WorldKind, or: &'static str) -> Result<Option<World>, HomeError> {
        let Some(bytes) = self.read(file)? else { return Ok(None) };
        let corrupt = |reason: String| self.corrupt(file.to_owned(), reason, or);
        let world = World::parse(&bytes).map_err(|e| corrupt(format!("not a planet or moon ({e})")))?;
        if world.kind != kind {
            return Err(corrupt("a planet and a moon were mixed up".into()));
        }
        if world.is_self_signed() {
            return Ok(Some(world));
        }
        let noted = self.read(&signer_file(file))?;
        if noted.is_none() && kind == WorldKind::Planet {
            warn!(
                "{}: not signed with the key it names, so its signature cannot be checked; taken as it is. That is so \
                 after a planet changed its key under ZeroTierOne; if it did not, restore the file from a backup{or}",
                file.display()
            );
            return Ok(Some(world));
        }
        let noted = noted.and_then(|text| hex::decode(text.trim_ascii()).ok());
        if !noted.and_then(|key| <[u8; 64]>::try_from(key).ok()).is_some_and(|key| world.verify(&key)) {
            return Err(corrupt("its signature does not fit its content".into()));
        }
        Ok(Some(world))
    }

    fn load_moons(&self) -> Result<Vec<World>, HomeError> {
        let mut moons = Vec::new();
        for (id, file) in self.list("moons.d", ".moon", 16)? {
            if moons.len() == MAX_MOONS {
                return Err(self.corrupt(file, format!("more than {MAX_MOONS} moons"), ", or remove some"));
            }
            let Some(moon) = self.load_world(&file, WorldKind::Moon, ", or remove it")? else { continue };
            if moon.id != id {
                let reason = format!("holds the moon {:016x}", moon.id);
                return Err(self.corrupt(file, reason, ", or rename it"));
            }
            moons.push(moon);
        }
        Ok(moons)
    }

    fn load_seeds(&self) -> Result<Vec<(u64, Address)>, HomeError> {
        let mut seeds = Vec::new();
        for (id, file) in self.list("moons.d", ".seed", 16)?.into_iter().take(MAX_MOONS) {
            let bytes = self.read(&file)?.unwrap_or_default();
            let seed = String::from_utf8_lossy(&bytes).trim().parse();
            let corrupt = |e| self.corrupt(file, format!("not an address ({e})"), ", or remove it");
            seeds.push((id, seed.map_err(corrupt)?));
        }
        Ok(seeds)
    }

    fn load_networks(&self) -> Result<Vec<JoinedNetwork>, HomeError> {
        let mut networks = Vec::new();
        for (id, file) in self.list("networks.d", ".conf", 16)? {
            if networks.len() == MAX_NETWORKS {
                return Err(self.corrupt(file, format!("more than {MAX_NETWORKS} networks"), ", or remove some"));
            }
            let id = NetworkId(id);
            let bytes = self.read(&file)?.unwrap_or_default();
            // Empty, or a single line feed: joined, but no configuration ever came.
            let cached = (bytes.len() > 1).then_some(bytes);
            if let Some(cached) = &cached {
                let or = ", or empty it: the configuration is asked for again";
                network::Config::parse(cached)
                    .map_err(|e| self.corrupt(file.clone(), format!("not a network configuration ({e})"), or))?;
            }
            let local = self.network_local(id);
            let text = String::from_utf8_lossy(&self.read(&local)?.unwrap_or_default()).into_owned();
            let conf =
                NetworkConf::parse(&text).map_err(|reason| self.corrupt(local, reason, ", or correct the line"))?;
            networks.push(JoinedNetwork { id, cached, conf });
        }
        Ok(networks)
    }

    /// A cached peer is only a hint: the node judges it, and one that cannot be used is learned anew.
    fn load_peers(&self) -> Result<Vec<(Address, Vec<u8>)>, HomeError> {
        let mut peers = Vec::new();
        for (address, file) in self.cached_peers(SystemTime::now())?.0 {
            if let Some(bytes) = self.read(&file)? {
                peers.push((Address::from_u64(address), bytes));
            }
        }
        Ok(peers)
    }

    /// Files of cached peers that are not worth keeping: too old, or older than the newest [`MAX_CACHED_PEERS`].
    pub fn stale_peers(&self, now: SystemTime) -> Result<Vec<PathBuf>, HomeError> {
        Ok(self.cached_peers(now)?.1)
    }

    /// Cached peers, the newest first, and the files of those that are not worth keeping.
    #[expect(clippy::type_complexity, reason = "two lists, taken apart at once")]
    fn cached_peers(&self, now: SystemTime) -> Result<(Vec<(u64, PathBuf)>, Vec<PathBuf>), HomeError> {
        let written = |file: &Path| fs::metadata(file).and_then(|m| m.modified()).ok();
        let list = self.list("peers.d", ".peer", 10)?.into_iter();
        // one that vanished meanwhile is not there
        let mut dated: Vec<_> = list.filter_map(|(n, file)| Some((written(&file)?, n, file))).collect();
        dated.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
        let is_old = |written: SystemTime| now.duration_since(written).is_ok_and(|age| age > MAX_PEER_AGE);
        let (mut kept, mut stale) = (Vec::new(), Vec::new());
        for (written, address, file) in dated {
            if kept.len() < MAX_CACHED_PEERS && !is_old(written) {
                kept.push((address, file));
            } else {
                stale.push(file);
            }
        }
        Ok((kept, stale))
    }

    pub(super) fn load_token(&self) -> Result<Option<Zeroizing<String>>, HomeError> {
        let Some(bytes) = self.read(&self.token())? else { return Ok(None) };
        let bytes = Zeroizing::new(bytes);
        let token = String::from_utf8_lossy(&bytes).trim().to_owned();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let or = ", or remove it: a new one is made";
            return Err(self.corrupt(self.token(), "not a token".into(), or));
        }
        Ok(Some(Zeroizing::new(token)))
    }
}

fn new_token() -> Zeroizing<String> {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let pick = Uniform::new(0, ALPHABET.len()).ok();
    let mut rng = rand::rng();
    let mut draw = || pick.map_or('a', |p| char::from(ALPHABET[p.sample(&mut rng)]));
    Zeroizing::new((0..TOKEN_LEN).map(|_| draw()).collect())
}
