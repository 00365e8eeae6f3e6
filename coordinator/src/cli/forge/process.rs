//! A process that trains.

use super::super::Failure;

/// Candle counts the machine's cores anew before each product, by reading a file of the kernel, unless this is set; and one thread
/// is what it is to have.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Has this command run with one thread for its products: starts it again in its place, where that is not so yet, since a
/// process must not change its own environment. It decides speed alone.
pub(in crate::cli) fn alone() -> Result<(), Failure> {
    if std::env::var_os(THREADS).is_some() {
        return Ok(());
    }
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        let error = std::process::Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(THREADS, "1")
            .exec();
        tracing::warn!(%error, "cannot start again with {THREADS}=1: training takes up to three times as long");
    }
    Ok(())
}
