//! Signals, as events of the control thread.
//!
//! They are blocked in every thread and read from a descriptor, so nothing ever runs inside a signal
//! handler.

use std::io;
use std::os::fd::AsRawFd;

use mio::Interest;
use mio::unix::SourceFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::control::{Cx, Readiness, Source, Turn};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: drain and end.
    Terminate,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR1: open log files again.
    Reopen,
}

const SIGNALS: [(Signal, Request); 4] = [
    (Signal::SIGTERM, Request::Terminate),
    (Signal::SIGINT, Request::Terminate),
    (Signal::SIGHUP, Request::Reload),
    (Signal::SIGUSR1, Request::Reopen),
];

fn set() -> SigSet {
    SIGNALS.into_iter().map(|(signal, _)| signal).collect()
}

/// Keeps these signals from interrupting this thread and all that it starts later. To be called
/// before the first thread is made.
///
/// # Errors
/// Those of the operating system.
pub fn block() -> io::Result<()> {
    Ok(set().thread_block()?)
}

/// The one who is asked.
pub trait SignalState {
    /// A signal came.
    fn signalled(&mut self, request: Request, turn: &mut Turn);
}

/// Reads signals.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Opens the descriptor. [`block`] must have been called.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn new() -> io::Result<Self> {
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self {
            descriptor: SignalFd::with_flags(&set(), flags)?,
        })
    }

    /// The next signal that waits.
    fn next(&mut self) -> Option<Request> {
        loop {
            match self.descriptor.read_signal() {
                Ok(Some(info)) => {
                    let number = info.ssi_signo as i32;
                    let known = SIGNALS.iter().find(|(signal, _)| *signal as i32 == number);
                    if let Some((_, request)) = known {
                        return Some(*request);
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl<S: SignalState> Source<S> for Signals {
    fn name(&self) -> &'static str {
        "signals"
    }

    fn start(&mut self, _: &mut S, cx: &mut Cx<'_>) -> io::Result<()> {
        let descriptor = self.descriptor.as_raw_fd();
        cx.register(&mut SourceFd(&descriptor), 0, Interest::READABLE)
    }

    fn ready(&mut self, state: &mut S, cx: &mut Cx<'_>, _: usize, _: Readiness) {
        while let Some(request) = self.next() {
            state.signalled(request, cx.turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use nix::sys::signal::raise;

    use super::super::control::{ControlLoop, State};
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<Request>);

    impl State for Seen {}

    impl SignalState for Seen {
        fn signalled(&mut self, request: Request, turn: &mut Turn) {
            self.0.push(request);
            if request == Request::Terminate {
                turn.stop();
            }
        }
    }

    /// On a thread of its own: `raise` signals only the thread that calls it, so nothing else in
    /// this process notices.
    #[test]
    fn signals_become_requests() {
        let seen = thread::spawn(|| {
            block().unwrap();
            let mut control = ControlLoop::new(Seen::default()).unwrap();
            control.add(Box::new(Signals::new().unwrap())).unwrap();
            raise(Signal::SIGUSR1).unwrap();
            raise(Signal::SIGHUP).unwrap();
            control.turn(Some(Duration::ZERO)).unwrap();
            control.turn(Some(Duration::ZERO)).unwrap();
            raise(Signal::SIGTERM).unwrap();
            control.run().unwrap().0
        });
        let mut seen = seen.join().unwrap();
        // Signals that wait together come in the order of their numbers.
        seen[..2].sort_by_key(|request| *request == Request::Reopen);
        assert_eq!(seen, [Request::Reload, Request::Reopen, Request::Terminate]);
    }
}
