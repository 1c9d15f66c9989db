//! SIGINT and SIGTERM end a measurement early, with its report.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The user wants it to end. Workers look at it at least every tick.
static STOP: AtomicBool = AtomicBool::new(false);

/// SIGINT or SIGTERM came.
#[must_use]
pub fn stopped() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// From now on SIGINT and SIGTERM are noted once; the second one ends the process.
///
/// # Errors
/// What sigaction(2) says.
pub fn listen() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: all zeroes is a valid sigaction: no mask, no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as *const () as usize;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        // SAFETY: the handler only stores to an atomic; no old action is asked for.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn note(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}
