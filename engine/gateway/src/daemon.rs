//! `hawser up`.
use crate::cli::UpArgs;
use crate::home::Home;

/// Runs the daemon.
pub fn run(_home: &Home, _args: &UpArgs) -> Result<(), String> {
    Err("the daemon is not put together yet".into())
}
