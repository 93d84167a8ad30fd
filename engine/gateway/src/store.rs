//! Durable files. After a write returns, the file holds the new bytes even across a power loss; until then, the old ones.
//! Knows nothing of what is in the files.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A place for state that survives.
///
/// `replace` is write to a temporary file beside it, flush, rename, flush the folder. An interruption at any point leaves
/// the old file or the new one, never a mixture.
pub trait StateStore {
    /// Makes `bytes` the content of `file`, with permission bits `mode`. Missing folders are created.
    fn replace(&self, file: &Path, mode: u32, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>>;
    /// Removes `file`; one that is not there is no error.
    fn remove(&self, file: &Path) -> impl Future<Output = io::Result<()>>;
}

/// Plain blocking file calls: for the command line, for start-up and for kernels without io_uring.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdStore;

/// Completion-based file calls; only inside `tokio_uring::start`.
#[derive(Clone, Copy, Debug, Default)]
pub struct UringStore;

impl StateStore for StdStore {
    async fn replace(&self, file: &Path, mode: u32, bytes: Vec<u8>) -> io::Result<()> {
        replace(file, mode, &bytes)
    }

    async fn remove(&self, file: &Path) -> io::Result<()> {
        remove(file)
    }
}

impl StateStore for UringStore {
    async fn replace(&self, file: &Path, mode: u32, bytes: Vec<u8>) -> io::Result<()> {
        let (folder, temporary) = places(file)?;
        let done = async {
            let mut options = tokio_uring::fs::OpenOptions::new();
            let open = options.write(true).create(true).truncate(true).mode(mode).open(&temporary).await?;
            fs::set_permissions(&temporary, Permissions::from_mode(mode))?;
            open.write_all_at(bytes, 0).await.0?;
            open.sync_all().await?;
            open.close().await?;
            tokio_uring::fs::rename(&temporary, file).await?;
            let folder = tokio_uring::fs::File::open(&folder).await?;
            folder.sync_all().await?;
            folder.close().await
        };
        let done: io::Result<()> = done.await;
        done.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    async fn remove(&self, file: &Path) -> io::Result<()> {
        match tokio_uring::fs::remove_file(file).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// [`StateStore::replace`], blocking.
pub fn replace(file: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let (folder, temporary) = places(file)?;
    let done = (|| {
        let mut open = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        open.set_permissions(Permissions::from_mode(mode))?;
        open.write_all(bytes)?;
        open.sync_all()?;
        fs::rename(&temporary, file)?;
        File::open(&folder)?.sync_all()
    })();
    done.inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// [`StateStore::remove`], blocking.
pub fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The folder of `file`, made if missing, and the name under which its next content is written.
fn places(file: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let name = file.file_name().ok_or_else(|| io::Error::other("not a file name"))?;
    let folder = match file.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    };
    if !folder.is_dir() {
        fs::create_dir_all(&folder)?;
    }
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    Ok((folder.clone(), folder.join(temporary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entry = |e: io::Result<fs::DirEntry>| e.expect("entry").file_name().into_string().expect("utf-8");
        fs::read_dir(folder).expect("folder").map(entry).collect()
    }

    async fn writes_replaces_and_removes(store: impl StateStore, folder: &Path) {
        let file = folder.join("networks.d/0000000000000001.conf");
        store.replace(&file, 0o644, b"one".to_vec()).await.expect("first");
        store.replace(&file, 0o600, b"2".to_vec()).await.expect("second");
        assert_eq!(fs::read(&file).expect("read"), b"2");
        assert_eq!(fs::metadata(&file).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(names(file.parent().expect("folder")), ["0000000000000001.conf"], "nothing else is left");
        store.remove(&file).await.expect("remove");
        store.remove(&file).await.expect("absent is fine");
        assert!(!file.exists());
    }

    #[test]
    fn both_stores_write_replace_and_remove() {
        let dir = tempfile::tempdir().expect("tempdir");
        let plain = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        plain.block_on(writes_replaces_and_removes(StdStore, &dir.path().join("std")));
        tokio_uring::start(writes_replaces_and_removes(UringStore, &dir.path().join("uring")));
    }

    /// What a power loss leaves beside the old file: the new one made, begun, whole, or longer than the next.
    async fn survives_a_cut(store: impl StateStore, folder: &Path) {
        let (file, temporary) = (folder.join("planet"), folder.join(".planet.new"));
        for left in [b"".as_slice(), b"ne", b"new", b"a new one that is longer than what comes next"] {
            store.replace(&file, 0o644, b"old and whole".to_vec()).await.expect("first");
            fs::write(&temporary, left).expect("left behind");
            fs::set_permissions(&temporary, Permissions::from_mode(0o600)).expect("mode");
            assert_eq!(fs::read(&file).expect("read"), b"old and whole");
            store.replace(&file, 0o644, b"new".to_vec()).await.expect("next");
            assert_eq!(fs::read(&file).expect("read"), b"new");
            assert_eq!(fs::metadata(&file).expect("metadata").permissions().mode() & 0o777, 0o644);
            assert_eq!(names(folder), ["planet"], "nothing is left");
            // cut off after the rename: the new file is whole, and replaced again
            store.replace(&file, 0o644, b"newer".to_vec()).await.expect("once more");
            assert_eq!(fs::read(&file).expect("read"), b"newer");
        }
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_old_file_and_does_not_stop_the_next_write() {
        let dir = tempfile::tempdir().expect("tempdir");
        let plain = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        plain.block_on(survives_a_cut(StdStore, &dir.path().join("std")));
        tokio_uring::start(survives_a_cut(UringStore, &dir.path().join("uring")));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_content_and_no_temporary_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("taken");
        fs::create_dir(&file).expect("a folder in the way");
        fs::write(file.join("inside"), b"kept").expect("write");
        assert!(replace(&file, 0o644, b"new").is_err());
        assert_eq!(fs::read(file.join("inside")).expect("read"), b"kept");
        assert_eq!(names(dir.path()), ["taken"]);
    }
}
