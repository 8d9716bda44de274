//! Budgets: reserve, then settle, exactly once.
//!
//! A [`Book`] is the whole rule, without a clock, a lock or storage: what every owner has used and holds
//! open in every window, and whether one more request fits under all that covers it. It promises that under
//! every Hard budget `settled + open <= limit` at every moment (what a request used beyond its reservation
//! excepted, which is charged and marked), that a refusal changes no counter, and that a hold ends once.
//! Keeping it durable is the ledger's business; limits come from a snapshot with every request.

mod balance;
mod book;
mod cover;
mod limit;
mod meter;
mod places;
mod rate;
mod refusal;
mod saved;
mod window;

pub use book::{
    Admission, Book, Denied, Ended, Grants, HoldId, Reading, Settled, Spent, Standing, Taken, Used,
};
pub use cover::{Cover, Covering};
pub use limit::{
    Admits, Budget, BudgetSpec, CalendarSpec, Concurrency, ConcurrencySpec, Enforcement, LimitFault, Limits,
    LimitsSpec, MAX_REQUESTS, Rate, RateSpec, WindowSpec, check_budgets,
};
pub use meter::Grant;
pub use rate::{Level, Pace};
pub use refusal::{Refused, RefusedBy};
pub use saved::{SavedBook, SavedMeter, SavedOwner, SavedPart};
pub use window::{Every, Period, ROLLING_BUCKETS, Window, WindowError, Zone};

#[cfg(test)]
mod tests;
