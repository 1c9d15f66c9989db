//! Random scripts: both ends of one connection are written, read, armed, closed in any order.
//!
//! What the written scripts did not think of, these find. A failing seed prints its calls.

use super::*;
use crate::engine::reactor::random::Random;

/// Connections each family is tried with.
const SEEDS: u64 = 150;
/// Calls on each.
const CALLS: usize = 24;

#[derive(Clone, Copy, Debug)]
enum Call {
    Write,
    Read(usize),
    Arm(Interest),
    Remove,
    Shutdown,
    TakeError,
    PeerAddr,
    Close { reset: bool },
}

fn draw(random: &mut Random) -> Call {
    let interests = [
        Interest::Silent,
        Interest::ReadOnce,
        Interest::Edge { write: false },
        Interest::Edge { write: true },
    ];
    match random.below(40) {
        0..=8 => Call::Write,
        9..=13 => Call::Read(1 + random.below(4) as usize),
        14..=18 => Call::Read(1000),
        19..=30 => Call::Arm(interests[random.below(4) as usize]),
        31..=32 => Call::Remove,
        33..=34 => Call::Shutdown,
        35 => Call::TakeError,
        36 => Call::PeerAddr,
        37..=38 => Call::Close { reset: false },
        _ => Call::Close { reset: true },
    }
}

fn script<R: Reactor>(t: &mut Bench<R>, seed: u64) {
    let mut random = Random::from_seed(seed);
    let (a, b) = t.pair();
    let mut ends = [Some(a), Some(b)];
    let mut armed: [Option<(u64, Interest)>; 2] = [None; 2];
    let mut shut = [false; 2];
    for step in 0..CALLS {
        let at = random.below(2) as usize;
        let call = draw(&mut random);
        let Some(sock) = ends[at] else { continue };
        t.steps.push(Step::Call(format!("end {at}: {call:?}")));
        let tag = (step * 2 + at) as u64;
        match call {
            Call::Write => t.write(sock, b"0123456789"),
            Call::Read(most) => t.read(sock, most),
            Call::Arm(interest) if armed[at].is_some() => {
                t.modify(sock, tag, interest);
                armed[at] = Some((tag, interest));
            }
            Call::Arm(interest) => {
                t.add(sock, tag, interest);
                armed[at] = Some((tag, interest));
            }
            Call::Remove => {
                t.remove(sock);
                armed[at] = None;
            }
            Call::Shutdown => {
                t.shutdown(sock);
                shut[at] = true;
            }
            Call::TakeError => t.take_error(sock),
            Call::PeerAddr => t.peer_addr(sock),
            Call::Close { reset } => {
                if armed[at].is_some() {
                    t.remove(sock);
                }
                t.close(sock, reset);
                ends[at] = None;
            }
        }
        if let Some((tag, Interest::Edge { .. })) = armed[at]
            && shut[at]
        {
            t.unsteady.insert(tag);
        }
        t.settle();
    }
}

fn compare_all(family: Family) {
    for seed in 0..SEEDS {
        let sim = on_sim(family, |t| script(t, seed));
        let kernel = on_epoll(family, &sim, |t| script(t, seed));
        compare(&format!("seed {seed}"), family, sim, kernel);
    }
}

#[test]
fn random_scripts_agree_over_tcp() {
    compare_all(Family::Tcp);
}

#[test]
fn random_scripts_agree_over_unix() {
    compare_all(Family::Unix);
}
