//! A private planet inside network namespaces of this machine, and what can be measured in it.
//!
//! `hawser lab` shows it to people, the interop tests and bench-harness build their own worlds from the same parts. This
//! room drives finished programs from outside, through their command line and real sockets; it knows nothing of how a
//! gateway works inside.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub mod daemon;
pub mod impair;
pub mod measure;
pub mod meeting;
pub mod nat;
pub mod netns;
pub mod reference;
pub mod run;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP do not end the process but make every wait of this room give up.
pub fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, flag.clone()).doing("catch signals")?;
    }
    Ok(())
}

/// A signal that [`catch_signals`] catches came in.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Acquire))
}

/// What can go wrong while a world is built or measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not make namespaces.
    #[error("{0}")]
    Privilege(String),
    /// A program of the host failed.
    #[error("{command}: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        reason: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s{detail}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// What was seen instead, if anything; begins with a separator.
        detail: String,
    },
    /// A program or an option cannot be used; the text says why and what to do.
    #[error("{0}")]
    Unusable(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Result of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when a system call failed.
pub trait IoContext<T> {
    /// Turns the failure into [`Error::Io`] of `what`.
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::Io { what: what.into(), source: e.into() })
    }
}
