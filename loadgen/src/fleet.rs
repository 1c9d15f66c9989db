//! Worker threads: each with an engine of its own.
//!
//! The threads share nothing but the clock: no connection moves between them. That is what lets each
//! have a descriptor table of its own, when one table is too small. No descriptor made on another
//! thread may then be used, so nobody may wake such a worker: it looks at shared flags at every tick.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use moorgate::engine::chunk::Budget;
use moorgate::engine::core::Core;
use moorgate::engine::parked::Facts;
use moorgate::engine::reactor::clock::Clock;
use moorgate::engine::reactor::epoll::Epoll;
use moorgate::engine::worker::{App, Worker};

/// Bytes a worker's buffer pool may hold. Little is ever in it.
const BUFFER_BYTES: usize = 64 << 20;

/// How many threads, and of what kind.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Threads.
    pub threads: usize,
    /// Each has a descriptor table of its own.
    pub private_tables: bool,
    /// The process's clock.
    pub clock: Clock,
}

/// Threads that run until their applications have finished.
#[derive(Debug)]
pub struct Fleet<A>(Vec<JoinHandle<io::Result<A>>>);

impl<A> Fleet<A>
where
    A: Send + fmt::Debug + 'static,
{
    /// Starts the threads; `make` makes the application of each, on that thread.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start<F, M>(plan: Plan, make: M) -> io::Result<Self>
    where
        F: Facts,
        A: App<Epoll, Facts = F>,
        M: Fn(usize, &mut Core<Epoll, F>) -> io::Result<A> + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        (0..plan.threads)
            .map(|number| {
                let make = Arc::clone(&make);
                Builder::new()
                    .name(format!("load-{number}"))
                    .spawn(move || work(plan, number, &*make))
            })
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Every thread has ended.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    /// Waits for all threads and gives back their applications.
    ///
    /// # Errors
    /// The first thread's that failed.
    pub fn join(self) -> io::Result<Vec<A>> {
        self.0
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    }
}

fn work<A, F, M>(plan: Plan, number: usize, make: &M) -> io::Result<A>
where
    F: Facts,
    A: App<Epoll, Facts = F>,
    M: Fn(usize, &mut Core<Epoll, F>) -> io::Result<A>,
{
    if plan.private_tables {
        leave_descriptor_table()?;
    }
    let reactor = Epoll::new(plan.clock)?;
    let budget = Arc::new(Budget::new(BUFFER_BYTES));
    let mut core = Core::group(vec![reactor], &budget)
        .pop()
        .ok_or(io::ErrorKind::InvalidInput)?;
    let app = make(number, &mut core)?;
    let mut worker = Worker::new(core, app);
    worker.run()?;
    Ok(worker.app)
}

/// Gives the calling thread a descriptor table of its own in which only standard input, output and
/// error are open.
fn leave_descriptor_table() -> io::Result<()> {
    // SAFETY: takes no pointer. Nothing is closed for other threads: the table is unshared first, and
    // this thread owns no descriptor yet.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_UNSHARE,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
