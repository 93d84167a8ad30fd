//! Writes state files one after the other, newest content only, so that the control plane never waits for a disk. What
//! is waiting is bounded by the number of files there are: a newer content takes the place of an older one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{error, trace};

use crate::store::StateStore;

/// How long the end of the program waits for the disk.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// New content with its mode, or removal.
type Change = Option<(u32, Vec<u8>)>;

#[derive(Debug, Default)]
struct Shared {
    waiting: RefCell<BTreeMap<PathBuf, Change>>,
    busy: RefCell<bool>,
    asked: Notify,
    idle: Notify,
    failures: RefCell<u64>,
}

/// The way to the writer.
#[derive(Clone, Debug)]
pub struct Writer(Rc<Shared>);

impl Writer {
    /// Starts the writer on this thread's local set.
    pub fn start(store: impl StateStore + 'static) -> Writer {
        let shared = Rc::new(Shared::default());
        let mine = shared.clone();
        tokio::task::spawn_local(async move {
            loop {
                let next = mine.waiting.borrow_mut().pop_first();
                *mine.busy.borrow_mut() = next.is_some();
                let Some((file, change)) = next else {
                    mine.idle.notify_waiters();
                    mine.asked.notified().await;
                    continue;
                };
                trace!(file = %file.display(), removed = change.is_none(), "writing");
                let done = match change {
                    Some((mode, bytes)) => store.replace(&file, mode, bytes).await,
                    None => store.remove(&file).await,
                };
                if let Err(e) = done {
                    *mine.failures.borrow_mut() += 1;
                    error!("{}: {e}; what it held before is still there", file.display());
                }
            }
        });
        Writer(shared)
    }

    /// Has a file replaced.
    pub fn replace(&self, file: PathBuf, mode: u32, bytes: Vec<u8>) {
        self.put(file, Some((mode, bytes)));
    }

    /// Has a file removed.
    pub fn remove(&self, file: PathBuf) {
        self.put(file, None);
    }

    fn put(&self, file: PathBuf, change: Change) {
        self.0.waiting.borrow_mut().insert(file, change);
        self.0.asked.notify_one();
    }

    /// Writes that failed so far.
    pub fn failures(&self) -> u64 {
        *self.0.failures.borrow()
    }

    /// Waits until everything is written. False if the disk takes too long.
    pub async fn flush(&self) -> bool {
        let settled = async {
            loop {
                let idle = self.0.idle.notified();
                if self.0.waiting.borrow().is_empty() && !*self.0.busy.borrow() {
                    return;
                }
                self.0.asked.notify_one();
                idle.await;
            }
        };
        tokio::time::timeout(FLUSH_LIMIT, settled).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::UringStore;

    #[test]
    fn the_newest_content_of_each_file_is_on_disk_after_a_flush() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&b, "old").expect("write");
        tokio_uring::start(async {
            let writer = Writer::start(UringStore);
            for n in 0..100 {
                writer.replace(a.clone(), 0o644, format!("{n}").into_bytes());
            }
            writer.remove(b.clone());
            writer.replace(dir.path().join("no/such/\0name"), 0o644, vec![1]);
            assert!(writer.flush().await);
            assert_eq!(writer.failures(), 1, "a failure is counted and stops nothing");
        });
        assert_eq!(fs::read_to_string(&a).expect("read"), "99");
        assert!(!b.exists());
    }
}
