//! In which order the usable accounts of a provider are tried for a request.
//!
//! Priorities come first, under every strategy: an account is tried after all that have a lower number. Among
//! equals a new session is placed by weighted rendezvous hashing, in integers only, so that replicas with the
//! same configuration place it on the same account without talking, and an account that comes or goes moves
//! only the sessions that it gets or had. What only one replica knows (requests in flight, requests served)
//! therefore never decides for a session; the strategy says which weight an account has then. Without a
//! session the strategy decides with everything that is known here.
//!
//! | Strategy | Weight of an account for a session | Without a session |
//! |---|---|---|
//! | `LeastUtilized` | 8, 4, 2, 1 by the fuller window: under 50, 75, 90 %, or above | fewest in flight for the room that is left |
//! | `RoundRobin` | 1 | in turn |
//! | `LeastUsed` | 1 | fewest served |
//! | `Priority` | 1 | always the same order |
//! | `Weighted` | its own | by chance, in proportion to its own |

use serde::{Deserialize, Serialize};

use super::AccountId;
use super::affinity::SessionKey;
use super::health::Utilization;

/// How accounts of the same priority share requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Strategy {
    /// Those with the most room left first.
    #[default]
    LeastUtilized,
    /// In turn.
    RoundRobin,
    /// Those that served the fewest requests first.
    LeastUsed,
    /// Only by priority.
    Priority,
    /// In proportion to their weights.
    Weighted,
}

/// An account that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: AccountId,
    /// Lower is tried first.
    pub priority: u32,
    /// Its share under [`Strategy::Weighted`]; 0 counts as 1.
    pub weight: u32,
    /// Requests that it serves now.
    pub in_flight: u32,
    /// Most of them at once.
    pub max_concurrency: Option<u32>,
    /// Requests that it has served since the process began.
    pub served: u64,
    /// How full its windows are.
    pub utilization: Utilization,
}

impl Candidate {
    /// Whether it serves as many requests as it may.
    pub fn is_full(&self) -> bool {
        self.max_concurrency.is_some_and(|most| self.in_flight >= most)
    }
}

/// What a choice is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chooser {
    /// A session that is on no account yet.
    Session(SessionKey),
    /// A request without a session; the number rises by one with each.
    Turn(u64),
}

/// The places of candidates in the given list, in the order in which they are tried.
#[derive(Debug, Clone)]
pub struct Order {
    next: usize,
    places: Places,
}

/// Providers rarely have more accounts than are held in place.
const IN_PLACE: usize = 16;

#[derive(Debug, Clone)]
enum Places {
    Few([u8; IN_PLACE], usize),
    Many(Vec<usize>),
}

impl Iterator for Order {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let place = match &self.places {
            Places::Few(places, count) => places.get(..*count)?.get(self.next).copied().map(usize::from),
            Places::Many(places) => places.get(self.next).copied(),
        };
        self.next += 1;
        place
    }
}

/// What candidates are sorted by, the lowest first.
type Rank = (u32, bool, u128, u64);

/// The order in which candidates are tried. Every candidate is in it once; full ones too, after the others of
/// their priority where no session is concerned: they may have room when their turn comes.
pub fn order(strategy: Strategy, chooser: Chooser, candidates: &[Candidate]) -> Order {
    let rank = |candidate: &Candidate| rank(strategy, chooser, candidate);
    let mut order = sorted(candidates, rank);
    if let (Strategy::RoundRobin, Chooser::Turn(turn)) = (strategy, chooser) {
        order.turn(turn, candidates);
    }
    order
}

fn sorted(candidates: &[Candidate], rank: impl Fn(&Candidate) -> Rank) -> Order {
    let places = if candidates.len() <= IN_PLACE {
        let mut ranked = [((0, false, 0, 0), 0); IN_PLACE];
        for (at, (slot, candidate)) in (0_u8..).zip(ranked.iter_mut().zip(candidates)) {
            *slot = (rank(candidate), at);
        }
        if let Some(used) = ranked.get_mut(..candidates.len()) {
            used.sort_unstable();
        }
        Places::Few(ranked.map(|(_, at)| at), candidates.len())
    } else {
        let mut ranked: Vec<(Rank, usize)> = candidates.iter().map(rank).zip(0..).collect();
        ranked.sort_unstable();
        Places::Many(ranked.into_iter().map(|(_, at)| at).collect())
    };
    Order { next: 0, places }
}

fn rank(strategy: Strategy, chooser: Chooser, candidate: &Candidate) -> Rank {
    let Candidate { id, priority, .. } = *candidate;
    match chooser {
        Chooser::Session(key) => {
            let weight = session_weight(strategy, candidate);
            (priority, false, distance(weight, mix(key.bits(), id)), id.0)
        }
        Chooser::Turn(turn) => {
            let lot = mix(u128::from(turn), id);
            let (load, tie) = match strategy {
                Strategy::LeastUtilized => (projected_load(candidate), lot),
                Strategy::LeastUsed => (u128::from(candidate.served), lot),
                Strategy::Weighted => (distance(candidate.weight, lot), id.0),
                Strategy::RoundRobin | Strategy::Priority => (0, id.0),
            };
            (priority, candidate.is_full(), load, tie)
        }
    }
}

/// The weight of an account where a session is placed: coarse, so that replicas which heard different
/// utilizations last mostly agree, and a share, so that those of them that do not agree on an account still
/// agree on most sessions.
fn session_weight(strategy: Strategy, candidate: &Candidate) -> u32 {
    match strategy {
        Strategy::LeastUtilized => match candidate.utilization.fuller() {
            0..500 => 8,
            500..750 => 4,
            750..900 => 2,
            900.. => 1,
        },
        Strategy::Weighted => candidate.weight,
        Strategy::RoundRobin | Strategy::LeastUsed | Strategy::Priority => 1,
    }
}

/// Requests in flight with this one, for each part of the room that is left in the fuller window.
fn projected_load(candidate: &Candidate) -> u128 {
    let room = 1000_u32.saturating_sub(candidate.utilization.fuller()).max(1);
    let requests = u128::from(candidate.in_flight) + 1;
    (requests << 32) / u128::from(room)
}

/// How far a session is from an account of this weight: `-ln(u) / weight` for the number `u` in (0, 1) that
/// `lot` stands for. Of all accounts each is the nearest in proportion to its weight, and another account
/// changes no distance but its own. In units of 2^-64 of a doubling.
fn distance(weight: u32, lot: u64) -> u128 {
    let doublings = (64_u128 << 32).saturating_sub(u128::from(log2(lot))).max(1);
    (doublings << 32) / u128::from(weight.max(1))
}

/// The logarithm of a number to base 2, in units of 2^-32, by repeated squaring: the same bits everywhere.
fn log2(number: u64) -> u64 {
    let number = number.max(1);
    let whole = number.ilog2();
    // Between 1 and 2, in units of 2^-63.
    let mut part = number << (63 - whole);
    let mut log = u64::from(whole);
    for _ in 0..32 {
        let square = (u128::from(part) * u128::from(part)) >> 63;
        let is_over = square >> 64 != 0;
        log = log << 1 | u64::from(is_over);
        part = (square >> u32::from(is_over)) as u64;
    }
    log
}

/// A number that looks random for every pair: SplitMix64's finalizer over both halves and the account.
fn mix(key: u128, id: AccountId) -> u64 {
    let finish = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let step = |z: u64| finish(z.wrapping_add(0x9e37_79b9_7f4a_7c15));
    step(step(step(id.0) ^ (key >> 64) as u64) ^ key as u64)
}

impl Order {
    /// Lets each account of a priority be the first in its turn, those with room before those without.
    fn turn(&mut self, turn: u64, candidates: &[Candidate]) {
        let group = |at: usize| candidates.get(at).map(|c| (c.priority, c.is_full()));
        let by = |count: usize| (turn % count.max(1) as u64) as usize;
        match &mut self.places {
            Places::Few(places, count) => {
                let places = places.get_mut(..*count).unwrap_or_default();
                for equals in places.chunk_by_mut(|a, b| group((*a).into()) == group((*b).into())) {
                    equals.rotate_left(by(equals.len()));
                }
            }
            Places::Many(places) => {
                for equals in places.chunk_by_mut(|a, b| group(*a) == group(*b)) {
                    equals.rotate_left(by(equals.len()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
