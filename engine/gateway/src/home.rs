//! The home folder: the files of a ZeroTierOne home under their own names, so that one can be taken over; its lock, and how
//! one of its files is read and written. What they must hold is judged in `load`; the running node is not known here.

mod load;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use wire::{Address, NetworkId};
use zeroize::Zeroizing;

use crate::store;

pub use load::{JoinedNetwork, Loaded};

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

#[cfg(test)]
mod tests;
