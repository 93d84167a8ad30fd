//! Records as files in ZeroTierOne's controller.d layout. The only file here that does I/O. A file is replaced by
//! writing another beside it and renaming that, so an interruption at any point loses nothing.
//!
//! ```text
//! controller.d/                                        mode 0700
//! controller.d/network/<16 hex digits>.json            a network
//! controller.d/network/<16 hex digits>/member/<10 hex digits>.json
//! controller.d/clock.json                              ours; ZeroTierOne ignores it
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wire::{Address, NetworkId};

use crate::constants::{FILE_MAX_BYTES, TIMESTAMP_MAX_MS};
use crate::record::Record;
use crate::store::{Fault, Found, Key, Loaded, Storage, StoreError};

const CLOCK_FIELD: &str = "noTimestampAboveMs";

/// The folder `controller.d`. // spec: controller, "Files"
#[derive(Debug)]
pub struct FileStorage {
    folder: PathBuf,
    /// The clock file is not ours to overwrite.
    is_clock_corrupt: bool,
}

/// The steps of replacing a file, each of which may be the last one before a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write,
    SyncFile,
    Rename,
    SyncFolder,
}

impl FileStorage {
    /// Uses `folder`, which is made if it does not exist.
    pub fn open(folder: impl Into<PathBuf>) -> Result<FileStorage, StoreError> {
        let folder = folder.into();
        let networks = folder.join("network");
        make_folder(&networks).map_err(|e| failed(&networks, &e))?;
        Ok(FileStorage { folder, is_clock_corrupt: false })
    }

    fn path(&self, key: Key) -> PathBuf {
        match key {
            (network, None) => self.folder.join(format!("network/{network}.json")),
            (network, Some(member)) => self.members(network).join(format!("{member}.json")),
        }
    }

    fn members(&self, network: NetworkId) -> PathBuf {
        self.folder.join(format!("network/{network}/member"))
    }

    fn clock(&self) -> PathBuf {
        self.folder.join("clock.json")
    }

    fn load_networks(&self, out: &mut Loaded) -> BTreeSet<NetworkId> {
        let mut folders = BTreeSet::new();
        let mut loaded = BTreeSet::new();
        for (name, is_folder) in list(&self.folder.join("network"), out) {
            let stem = if is_folder { Some(name.as_str()) } else { name.strip_suffix(".json") };
            let Some(stem) = stem.filter(|stem| stem.len() == 16) else { continue };
            match id_of::<NetworkId>(stem) {
                Some(id) if is_folder => drop(folders.insert(id)),
                Some(id) => {
                    if self.load_record((id, None), out) {
                        loaded.insert(id);
                    }
                }
                None => out.faults.push(not_an_id(&self.folder.join("network").join(&name))),
            }
        }
        for id in folders.iter().filter(|&id| !loaded.contains(id)) {
            self.report_orphans(*id, out);
        }
        loaded
    }

    /// Members whose network is gone must not come to life again when its number is used anew.
    fn report_orphans(&self, network: NetworkId, out: &mut Loaded) {
        let folder = self.members(network);
        let is_known = out.faults.iter().any(|f| f.key == Some((network, None)));
        if !is_known && list(&folder, &mut Loaded::default()).iter().any(|(name, _)| name.ends_with(".json")) {
            out.faults.push(Fault {
                name: shown(&folder),
                reason: format!("members without a network: {network}.json is missing"),
                key: Some((network, None)),
            });
        }
    }

    fn load_members(&self, network: NetworkId, out: &mut Loaded) {
        let folder = self.members(network);
        if !folder.exists() {
            return;
        }
        for (name, _) in list(&folder, out) {
            let Some(stem) = name.strip_suffix(".json").filter(|stem| stem.len() == 10) else { continue };
            match id_of::<Address>(stem) {
                Some(id) => drop(self.load_record((network, Some(id)), out)),
                None => out.faults.push(not_an_id(&folder.join(&name))),
            }
        }
    }

    fn load_record(&self, key: Key, out: &mut Loaded) -> bool {
        let path = self.path(key);
        let name = shown(&path);
        match read_object(&path).and_then(|record| check_names(key, &record).map(|()| record)) {
            Ok(record) => out.records.push(Found { key, record, name }),
            Err(reason) => {
                out.faults.push(Fault { name, reason, key: Some(key) });
                return false;
            }
        }
        true
    }

    fn load_clock(&mut self, out: &mut Loaded) {
        let path = self.clock();
        if !path.exists() {
            return;
        }
        let clock = read_object(&path).and_then(|record| {
            let clock_ms = record.get(CLOCK_FIELD).and_then(Value::as_u64).filter(|&ms| ms <= TIMESTAMP_MAX_MS);
            clock_ms.ok_or_else(|| format!("no {CLOCK_FIELD} in it, or an impossible one"))
        });
        match clock {
            Ok(clock_ms) => out.clock_ms = clock_ms,
            Err(reason) => {
                self.is_clock_corrupt = true;
                out.faults.push(Fault { name: shown(&path), reason, key: None });
            }
        }
    }

    fn remove_network(&self, network: NetworkId) -> io::Result<()> {
        let file = self.path((network, None));
        remove_if_there(&file)?;
        sync_folder_of(&file)?;
        // From here on the network is gone. What follows is tidying; only files that are records are touched.
        let folder = self.members(network);
        let records = list(&folder, &mut Loaded::default()).into_iter();
        let mut ids = records.filter_map(|(name, _)| id_of::<Address>(name.strip_suffix(".json")?));
        ids.try_for_each(|id| remove_if_there(&self.path((network, Some(id)))))?;
        let _ = fs::remove_dir(&folder);
        let _ = folder.parent().map(fs::remove_dir);
        Ok(())
    }
}

impl Storage for FileStorage {
    fn load(&mut self) -> Loaded {
        let mut out = Loaded::default();
        for network in self.load_networks(&mut out) {
            self.load_members(network, &mut out);
        }
        self.load_clock(&mut out);
        out
    }

    fn put(&mut self, key: Key, record: &Record) -> Result<(), StoreError> {
        let path = self.path(key);
        let bytes = serde_json::to_vec(record).map_err(|e| failed(&path, &e.into()))?;
        if key.1.is_some() {
            let folder = self.members(key.0);
            make_folder(&folder).map_err(|e| failed(&folder, &e))?;
        }
        replace(&path, &bytes, |_| Ok(())).map_err(|e| failed(&path, &e))
    }

    fn remove(&mut self, key: Key) -> Result<(), StoreError> {
        let path = self.path(key);
        match key {
            (network, None) => self.remove_network(network),
            _ => remove_if_there(&path).and_then(|()| sync_folder_of(&path)),
        }
        .map_err(|e| failed(&path, &e))
    }

    fn put_clock(&mut self, clock_ms: u64) -> Result<(), StoreError> {
        let path = self.clock();
        if self.is_clock_corrupt {
            return Err(StoreError { name: shown(&path), reason: "corrupt, and left as it is".into() });
        }
        let bytes = json!({ CLOCK_FIELD: clock_ms }).to_string();
        replace(&path, bytes.as_bytes(), |_| Ok(())).map_err(|e| failed(&path, &e))
    }
}

/// Replaces `path`. `reach` is told each step before it is done and may end the work there, as a crash would.
fn replace(path: &Path, bytes: &[u8], mut reach: impl FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    // One fixed name for each file: what an interrupted write leaves behind is used up by the next one.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    reach(Step::Write)?;
    file.write_all(bytes)?;
    reach(Step::SyncFile)?;
    file.sync_all()?;
    reach(Step::Rename)?;
    fs::rename(&temporary, path)?;
    reach(Step::SyncFolder)?;
    sync_folder_of(path)
}

/// Makes a folder and those above it, each entry on disk before the next.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => sync_folder_of(folder),
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Names in a folder, sorted, and whether each is a folder. A folder that cannot be read is a fault.
fn list(folder: &Path, out: &mut Loaded) -> Vec<(String, bool)> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut names: Vec<(String, bool)> = match entries {
        Ok(entries) => entries
            .iter()
            .map(|e| (e.file_name().to_string_lossy().into_owned(), e.file_type().is_ok_and(|t| t.is_dir())))
            .collect(),
        Err(e) => {
            out.faults.push(Fault { name: shown(folder), reason: e.to_string(), key: None });
            Vec::new()
        }
    };
    names.sort();
    names
}

fn read_object(path: &Path) -> Result<Record, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| e.to_string())?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(format!("larger than {FILE_MAX_BYTES} bytes"));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(_) => Err("not a JSON object".into()),
        Err(e) => Err(format!("not JSON: {e}")),
    }
}

/// What the record says it is must be what its file name says.
fn check_names(key: Key, record: &Record) -> Result<(), String> {
    let (network, member) = (key.0.to_string(), key.1.map(|m| m.to_string()));
    let (kind, id) = if member.is_some() { ("member", member) } else { ("network", Some(network.clone())) };
    let check = |field: &str, wanted: Option<&str>, may_be_absent: bool| match record.get(field) {
        None if may_be_absent => Ok(()),
        None => Err(format!("no {field} in it")),
        Some(found) if found.as_str() == wanted => Ok(()),
        Some(found) => Err(format!("{field} is {found}, but the file belongs to {}", wanted.unwrap_or_default())),
    };
    check("id", id.as_deref(), false)?;
    check("nwid", Some(&network), true)?;
    check("objtype", Some(kind), true)
}

/// Lower case only: the same id in upper case is another file, which only very old controllers have made.
fn id_of<T: std::str::FromStr>(stem: &str) -> Option<T> {
    if stem.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    stem.parse().ok()
}

fn not_an_id(path: &Path) -> Fault {
    Fault { name: shown(path), reason: "the name is not an id in lower-case hex digits".into(), key: None }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn failed(path: &Path, e: &io::Error) -> StoreError {
    StoreError { name: shown(path), reason: e.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    const NETWORK: NetworkId = NetworkId(0x01ec_4f9b_4200_0001);
    const MEMBER: Address = Address::from_u64(0xfc_ac9e_2c1f);

    fn record(name: &str) -> Record {
        let mut record = record::new_network(NETWORK, 1);
        record.insert("name".into(), name.into());
        record
    }

    fn names(loaded: &Loaded) -> Vec<&str> {
        loaded.records.iter().filter_map(|f| f.record.get("name")?.as_str()).collect()
    }

    #[test]
    fn a_write_interrupted_at_any_step_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::open(folder.path()).unwrap();
        let path = storage.path((NETWORK, None));
        for (step, survivor) in
            [(Step::Write, "old"), (Step::SyncFile, "old"), (Step::Rename, "old"), (Step::SyncFolder, "new")]
        {
            storage.put((NETWORK, None), &record("old")).unwrap();
            let bytes = serde_json::to_vec(&record("new")).unwrap();
            let crash = |reached| if reached == step { Err(io::Error::other("crash")) } else { Ok(()) };
            assert!(replace(&path, &bytes, crash).is_err());
            let loaded = FileStorage::open(folder.path()).unwrap().load();
            assert_eq!(names(&loaded), [survivor], "{step:?}");
            assert_eq!(loaded.faults, []);
            // What was left behind does not hinder the next write.
            storage.put((NETWORK, None), &record("next")).unwrap();
            assert_eq!(names(&storage.load()), ["next"]);
        }
    }

    #[test]
    fn a_half_written_temporary_file_is_not_a_record() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::open(folder.path()).unwrap();
        storage.put((NETWORK, None), &record("good")).unwrap();
        fs::write(folder.path().join(format!("network/.{NETWORK}.json.tmp")), b"{\"id\":").unwrap();
        let loaded = storage.load();
        assert_eq!((names(&loaded), loaded.faults.len()), (vec!["good"], 0));
    }

    #[test]
    fn unusable_files_are_named_left_alone_and_the_rest_loads() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::open(folder.path()).unwrap();
        storage.put((NETWORK, None), &record("good")).unwrap();
        storage.put((NETWORK, Some(MEMBER)), &record::new_member(NETWORK, MEMBER, 1)).unwrap();
        let networks = folder.path().join("network");
        let bad = [
            ("01ec4f9b42000002.json", "not json", "not JSON"),
            ("01ec4f9b42000003.json", "[1]", "not a JSON object"),
            ("01ec4f9b42000004.json", "{\"id\":\"01ec4f9b42000001\"}", "id is"),
            ("01ec4f9b42000005.json", "{\"name\":\"x\"}", "no id"),
            ("01ec4f9b42000006.json", "", "not JSON"),
            ("01EC4F9B42000007.json", "{}", "lower-case"),
            (
                "01ec4f9b42000001/member/92514cdce8.json",
                "{\"id\":\"92514cdce8\",\"nwid\":\"01ec4f9b42000009\"}",
                "nwid",
            ),
            ("01ec4f9b42000001/member/e20f0cdc91.json", "{\"id\":\"e20f0cdc91\",\"objtype\":\"network\"}", "objtype"),
        ];
        for (name, content, _) in bad {
            fs::write(networks.join(name), content).unwrap();
        }
        fs::write(networks.join("README"), "not a record, not a fault").unwrap();
        let loaded = storage.load();
        assert_eq!(loaded.records.len(), 2);
        assert_eq!(loaded.faults.len(), bad.len());
        for (name, content, reason) in bad {
            let fault = loaded.faults.iter().find(|f| f.name.ends_with(name)).expect(name);
            assert!(fault.reason.contains(reason), "{name}: {}", fault.reason);
            assert_eq!(fs::read_to_string(networks.join(name)).unwrap(), content);
        }
    }

    #[test]
    fn members_without_their_network_are_a_fault_of_the_network() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::open(folder.path()).unwrap();
        storage.put((NETWORK, Some(MEMBER)), &record::new_member(NETWORK, MEMBER, 1)).unwrap();
        let loaded = storage.load();
        assert!(loaded.records.is_empty());
        assert_eq!(loaded.faults.iter().map(|f| f.key).collect::<Vec<_>>(), [Some((NETWORK, None))]);
    }

    #[test]
    fn a_removed_network_takes_its_members_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::open(folder.path()).unwrap();
        let other = NetworkId(NETWORK.0 + 1);
        storage.put((NETWORK, None), &record("a")).unwrap();
        storage.put((NETWORK, Some(MEMBER)), &record::new_member(NETWORK, MEMBER, 1)).unwrap();
        storage.put((other, None), &record::new_network(other, 1)).unwrap();
        storage.remove((NETWORK, None)).unwrap();
        storage.remove((NETWORK, None)).unwrap();
        let loaded = storage.load();
        assert_eq!(loaded.records.iter().map(|f| f.key).collect::<Vec<_>>(), [(other, None)]);
        assert!(!folder.path().join(format!("network/{NETWORK}")).exists());
    }

    #[test]
    fn the_clock_comes_back_and_a_corrupt_one_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::open(folder.path()).unwrap();
        storage.put_clock(77).unwrap();
        assert_eq!(storage.load().clock_ms, 77);
        fs::write(folder.path().join("clock.json"), "x").unwrap();
        let loaded = storage.load();
        assert_eq!((loaded.clock_ms, loaded.faults.len()), (0, 1));
        assert!(storage.put_clock(78).is_err());
        assert_eq!(fs::read_to_string(folder.path().join("clock.json")).unwrap(), "x");
    }
}
