//! The home folder: the files of a ZeroTierOne home under their own names, so that one can be taken over. Reads them all
//! at start and refuses what is damaged, by name, without writing anything. Knows nothing of the running node.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use rand::distr::{Distribution, Uniform};
use tracing::warn;
use wire::identity::{Identity, SecretIdentity};
use wire::world::{DEFAULT_PLANET, World, WorldKind};
use wire::{Address, NetworkId};
use zeroize::Zeroizing;

use crate::network_conf::NetworkConf;
use crate::store;

/// Where the home is when nobody says otherwise.
pub const DEFAULT_HOME: &str = "/var/lib/hawser";
/// UDP and API port when nobody says otherwise. // spec: paths, "Sockets and ports"
pub const DEFAULT_PORT: u16 = 9993;
/// Largest file read from the home, bytes. The largest that this version writes is a network configuration.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Joined networks: each needs a place for its TAP queue in every ring.
pub const MAX_NETWORKS: usize = uring::TAPS_MAX;
/// Cached peers kept, the newest ones.
pub const MAX_CACHED_PEERS: usize = 8192;
/// Age at which a cached peer's file is removed.
pub const MAX_PEER_AGE: Duration = Duration::from_hours(30 * 24);
/// Moons read at start.
pub const MAX_MOONS: usize = 32;
/// Characters of an API token.
pub const TOKEN_LEN: usize = 24;

/// Mode of files that everyone may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of files that hold secrets.
pub const SECRET: u32 = 0o600;

/// A home that cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The file system refused.
    #[error("{}: {source}", file.display())]
    Io {
        /// File or folder.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}; the file was left as it is. Restore it from a backup{or}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What else can be done about it.
        or: &'static str,
    },
    /// Another daemon has it.
    #[error("{}: another daemon is running on this home", home.display())]
    Locked {
        /// The folder.
        home: PathBuf,
    },
    /// There is no daemon, or it never ran.
    #[error("{}: {reason}", file.display())]
    NotRunning {
        /// The file that says where the daemon is.
        file: PathBuf,
        /// What is missing and what to do.
        reason: String,
    },
}

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

/// The folder and the names in it. // spec: service, "Home directory"
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// Held while a daemon uses the home.
#[derive(Debug)]
pub struct HomeLock(#[allow(dead_code, reason = "held, not read")] Flock<File>);

impl Home {
    /// The home at `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Home {
        Home { root: root.into() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Our identity with its secret.
    pub fn identity_secret(&self) -> PathBuf {
        self.root.join("identity.secret")
    }

    /// Our identity without it.
    pub fn identity_public(&self) -> PathBuf {
        self.root.join("identity.public")
    }

    /// The API token.
    pub fn token(&self) -> PathBuf {
        self.root.join("authtoken.secret")
    }

    /// The planet.
    pub fn planet(&self) -> PathBuf {
        self.root.join("planet")
    }

    /// A moon.
    pub fn moon(&self, id: u64) -> PathBuf {
        self.root.join(format!("moons.d/{id:016x}.moon"))
    }

    /// Who will bring a moon that is waited for: an address as text. ZeroTierOne has no such file and passes over it.
    pub fn moon_seed(&self, id: u64) -> PathBuf {
        self.root.join(format!("moons.d/{id:016x}.seed"))
    }

    /// A network's last configuration; that it exists means joined.
    pub fn network(&self, id: NetworkId) -> PathBuf {
        self.root.join(format!("networks.d/{id}.conf"))
    }

    /// A network's local settings.
    pub fn network_local(&self, id: NetworkId) -> PathBuf {
        self.root.join(format!("networks.d/{id}.local.conf"))
    }

    /// A cached peer.
    pub fn peer(&self, address: Address) -> PathBuf {
        self.root.join(format!("peers.d/{address}.peer"))
    }

    /// The controller's records.
    pub fn controller(&self) -> PathBuf {
        self.root.join("controller.d")
    }

    /// The operator's settings.
    pub fn local_conf(&self) -> PathBuf {
        self.root.join("local.conf")
    }

    /// When the operator's settings were last written.
    pub fn local_conf_modified(&self) -> Option<SystemTime> {
        fs::metadata(self.local_conf()).and_then(|m| m.modified()).ok()
    }

    /// The port in use, decimal.
    pub fn port(&self) -> PathBuf {
        self.root.join("zerotier-one.port")
    }

    /// The daemon's process ID, decimal; written when the API answers.
    pub fn pid(&self) -> PathBuf {
        self.root.join("zerotier-one.pid")
    }

    /// The operator's device names.
    pub fn device_map(&self) -> PathBuf {
        self.root.join("devicemap")
    }

    /// Makes the folder if it is missing and takes it for this process.
    pub fn lock(&self) -> Result<HomeLock, HomeError> {
        fs::create_dir_all(&self.root).map_err(|source| self.io(&self.root, source))?;
        let folder = File::open(&self.root).map_err(|source| self.io(&self.root, source))?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(HomeLock(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(HomeError::Locked { home: self.root.clone() }),
            Err((_, e)) => Err(self.io(&self.root, e.into())),
        }
    }

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

    fn load_token(&self) -> Result<Option<Zeroizing<String>>, HomeError> {
        let Some(bytes) = self.read(&self.token())? else { return Ok(None) };
        let bytes = Zeroizing::new(bytes);
        let token = String::from_utf8_lossy(&bytes).trim().to_owned();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            let or = ", or remove it: a new one is made";
            return Err(self.corrupt(self.token(), "not a token".into(), or));
        }
        Ok(Some(Zeroizing::new(token)))
    }

    /// Port and token of the daemon on this home, for its clients.
    pub fn daemon(&self) -> Result<(u16, Zeroizing<String>), HomeError> {
        let missing = |file: PathBuf, what: &str| HomeError::NotRunning {
            reason: format!("{what}; is `hawser up --home {}` running?", self.root.display()),
            file,
        };
        let bytes = self.read(&self.port())?.ok_or_else(|| missing(self.port(), "there is no such file"))?;
        let port = String::from_utf8_lossy(&bytes).trim().parse();
        let port =
            port.map_err(|_| self.corrupt(self.port(), "not a port number".into(), ", or restart the daemon"))?;
        let token = self.load_token()?.ok_or_else(|| missing(self.token(), "there is no such file"))?;
        Ok((port, token))
    }

    /// Writes a file of this home, durably.
    pub fn write(&self, file: &Path, mode: u32, bytes: &[u8]) -> Result<(), HomeError> {
        store::replace(file, mode, bytes).map_err(|source| self.io(file, source))
    }

    fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, HomeError> {
        match fs::metadata(file) {
            Ok(m) if m.len() > MAX_FILE_BYTES => Err(self.corrupt(
                file.to_owned(),
                format!("{} bytes long, at most {MAX_FILE_BYTES} are read", m.len()),
                "",
            )),
            _ => match fs::read(file) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(self.io(file, source)),
            },
        }
    }

    /// Files of a folder whose name is `digits` hex digits and `suffix`, ascending; others are left alone.
    fn list(&self, folder: &str, suffix: &str, digits: usize) -> Result<Vec<(u64, PathBuf)>, HomeError> {
        let folder = self.root.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.io(&folder, source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| self.io(&folder, source))?;
            let name = entry.file_name();
            let hex = name.to_str().and_then(|n| n.strip_suffix(suffix)).filter(|h| h.len() == digits);
            if let Some(n) = hex.and_then(|h| u64::from_str_radix(h, 16).ok()) {
                files.push((n, entry.path()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn io(&self, file: &Path, source: io::Error) -> HomeError {
        HomeError::Io { file: file.to_owned(), source }
    }

    fn corrupt(&self, file: PathBuf, reason: String, or: &'static str) -> HomeError {
        HomeError::Corrupt { file, reason, or }
    }
}

/// Where the key is noted by which a world was accepted, if it is not the one that the world itself names.
pub fn signer_file(world: &Path) -> PathBuf {
    let mut name = world.as_os_str().to_owned();
    name.push(".signer");
    name.into()
}

fn new_token() -> Zeroizing<String> {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let pick = Uniform::new(0, ALPHABET.len()).ok();
    let mut rng = rand::rng();
    let mut draw = || pick.map_or('a', |p| char::from(ALPHABET[p.sample(&mut rng)]));
    Zeroizing::new((0..TOKEN_LEN).map(|_| draw()).collect())
}

#[cfg(test)]
mod tests {
    use wire::world::Root;

    use super::*;

    fn made() -> (tempfile::TempDir, Home, Address) {
        let dir = tempfile::tempdir().expect("tempdir");
        let home = Home::new(dir.path().join("home"));
        let address = home.load().expect("a new home").identity.public().address();
        (dir, home, address)
    }

    /// Damages a file, loads, and checks that the error names the file and that no file changed.
    fn refused(home: &Home, file: &Path, bytes: &[u8], reason: &str) {
        let before = fs::read(file).ok();
        fs::create_dir_all(file.parent().expect("folder")).expect("folder");
        fs::write(file, bytes).expect("damage");
        let all = snapshot(home.root());
        let text = home.load().expect_err("must be refused").to_string();
        assert!(text.contains(&file.display().to_string()) && text.contains(reason), "{text}");
        assert_eq!(snapshot(home.root()), all, "something was written after {text}");
        match before {
            Some(before) => fs::write(file, before).expect("repair"),
            None => fs::remove_file(file).expect("repair"),
        }
        home.load().expect("repaired");
    }

    fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                files.extend(snapshot(&path));
            } else {
                files.push((path.clone(), fs::read(&path).expect("file")));
            }
        }
        files.sort();
        files
    }

    #[test]
    fn a_new_home_gets_identity_token_and_planet_under_their_names_and_modes() {
        let (_dir, home, address) = made();
        let mode = |file: PathBuf| fs::metadata(file).expect("file").permissions().mode() & 0o777;
        assert_eq!((mode(home.identity_secret()), mode(home.identity_public())), (SECRET, PUBLIC));
        assert_eq!((mode(home.token()), mode(home.planet())), (SECRET, PUBLIC));
        let secret = fs::read(home.identity_secret()).expect("secret");
        assert!(secret.len() == 270 && secret.starts_with(address.to_string().as_bytes()));
        assert_eq!(fs::read(home.planet()).expect("planet"), DEFAULT_PLANET);
        assert_eq!(fs::read(home.token()).expect("token").len(), TOKEN_LEN, "no newline: some tools do not trim");
        let again = home.load().expect("second start");
        assert_eq!(again.identity.public().address(), address);
    }

    #[test]
    fn a_trailing_newline_and_a_missing_public_identity_are_mended() {
        let (_dir, home, address) = made();
        let mut secret = fs::read(home.identity_secret()).expect("secret");
        secret.push(b'\n');
        fs::write(home.identity_secret(), secret).expect("write");
        fs::remove_file(home.identity_public()).expect("remove");
        fs::write(home.token(), "some-token\n").expect("write");
        let loaded = home.load().expect("load");
        assert_eq!((loaded.identity.public().address(), loaded.token.as_str()), (address, "some-token"));
        assert_eq!(fs::read(home.identity_public()).expect("public").len(), 141);
    }

    #[test]
    fn a_damaged_identity_is_refused_and_nothing_is_overwritten() {
        let (_dir, home, _) = made();
        refused(&home, &home.identity_secret(), b"", "not a secret identity");
        refused(&home, &home.identity_secret(), b"0123456789:0:xyz", "not a secret identity");
        refused(&home, &home.identity_public(), b"garbage", "not a public identity");
        let (_other, other, theirs) = made();
        let public = fs::read(other.identity_public()).expect("public");
        refused(&home, &home.identity_public(), &public, &format!("is of {theirs}"));
        fs::remove_file(home.identity_secret()).expect("remove");
        let text = home.load().expect_err("half an identity").to_string();
        assert!(text.contains("identity.secret: missing"), "{text}");
    }

    fn flipped() -> Vec<u8> {
        let mut flipped = DEFAULT_PLANET.to_vec();
        flipped[300] ^= 1;
        flipped
    }

    #[test]
    fn of_the_cached_peers_the_newest_are_read_and_the_old_ones_are_named_for_removal() {
        let (_dir, home, _) = made();
        let now = SystemTime::now();
        let written = |n: u64, age: Duration| {
            let file = home.peer(Address::from_u64(n));
            home.write(&file, PUBLIC, &n.to_be_bytes()).expect("write");
            File::open(&file).and_then(|open| open.set_modified(now - age)).expect("set");
            file
        };
        let day = Duration::from_hours(24);
        let old = written(1, 31 * day);
        written(2, 29 * day);
        written(3, day);
        let read: Vec<u64> = home.load().expect("load").peers.iter().map(|(address, _)| address.to_u64()).collect();
        assert_eq!(read, [3, 2]);
        assert_eq!(home.stale_peers(now).expect("list"), [old]);
        assert_eq!(home.stale_peers(now + 2 * day).expect("list").len(), 2);
    }

    #[test]
    fn a_damaged_planet_or_moon_is_refused_and_nothing_is_overwritten() {
        let (_dir, home, _) = made();
        refused(&home, &home.planet(), b"", "not a planet or moon");
        refused(&home, &home.planet(), &DEFAULT_PLANET[..400], "not a planet or moon");
        let key = hex::encode(World::parse(DEFAULT_PLANET).expect("planet").update_key);
        fs::write(signer_file(&home.planet()), key).expect("write");
        refused(&home, &home.planet(), &flipped(), "signature does not fit");
        refused(&home, &home.moon(7), DEFAULT_PLANET, "mixed up");
    }

    #[test]
    fn seeds_of_moons_to_come_are_read_and_a_damaged_one_is_refused() {
        let (_dir, home, address) = made();
        refused(&home, &home.moon_seed(7), b"nobody", "not an address");
        fs::write(home.moon_seed(7), format!("{address}\n")).expect("write");
        assert_eq!(home.load().expect("load").seeds, [(7, address)]);
    }

    #[test]
    fn a_moon_that_is_there_is_not_waited_for_any_more() {
        let (_dir, home, address) = made();
        let secret = SecretIdentity::generate(&mut rand::rng());
        let key = *secret.public().public_key();
        let moon = World::make(WorldKind::Moon, 7, 1, key, Vec::new(), &secret);
        fs::create_dir_all(home.root().join("moons.d")).expect("folder");
        fs::write(home.moon_seed(7), address.to_string()).expect("write");
        fs::write(home.moon(7), moon.to_bytes()).expect("write");
        let loaded = home.load().expect("load");
        assert_eq!((loaded.moons.len(), loaded.seeds.len()), (1, 0));
        assert!(!home.moon_seed(7).exists() && home.moon(7).exists());
    }

    #[test]
    fn a_planet_that_changed_its_key_is_taken_with_the_key_noted_beside_it() {
        let (_dir, home, _) = made();
        let signer = SecretIdentity::generate(&mut rand::rng());
        let next = home.load().expect("load").identity;
        let root = Root { identity: next.public().clone(), endpoints: Vec::new() };
        let world = World::make(WorldKind::Planet, 9, 1, *next.public().public_key(), vec![root], &signer);
        fs::write(home.planet(), world.to_bytes()).expect("write");
        assert_eq!(home.load().expect("as ZeroTierOne leaves it: taken with a warning").planet, world);
        fs::write(signer_file(&home.planet()), hex::encode(world.update_key)).expect("write");
        assert!(home.load().is_err(), "a noted key must fit");
        fs::write(signer_file(&home.planet()), hex::encode(signer.public().public_key())).expect("write");
        assert_eq!(home.load().expect("load").planet, world);
    }

    #[test]
    fn networks_are_joined_by_their_files_and_damaged_ones_are_refused() {
        let (_dir, home, _) = made();
        let id = NetworkId(0x6af3_745e_9700_0001);
        refused(&home, &home.network(id), b"\x01\x02\x03 no dictionary", "not a network configuration");
        fs::write(home.network(id), "").expect("an empty file joins");
        refused(&home, &home.network_local(id), b"allowManaged=nonsense", "nonsense");
        fs::write(home.root().join("networks.d/notes.txt"), "kept").expect("write");
        fs::write(home.network_local(id), "allowGlobal=1\n").expect("write");
        let loaded = home.load().expect("load");
        let [only] = loaded.networks.as_slice() else { panic!("{:?}", loaded.networks) };
        assert!(only.id == id && only.cached.is_none() && only.conf.allow_global);
    }

    #[test]
    fn a_home_serves_one_daemon_at_a_time_and_tells_clients_where_it_is() {
        let (_dir, home, _) = made();
        let text = home.daemon().expect_err("never ran").to_string();
        assert!(text.contains("hawser up --home"), "{text}");
        let lock = home.lock().expect("first");
        assert!(matches!(home.lock(), Err(HomeError::Locked { .. })));
        drop(lock);
        let _again = home.lock().expect("free again");
        home.write(&home.port(), PUBLIC, b"9994").expect("write");
        assert_eq!(home.daemon().expect("port and token").0, 9994);
    }
}
