//! An order's life: planned, proved, finalized, stored, published; and gone on with where another run was killed.
//!
//! - [`Issuance`]: everything that ordering needs, made once; [`Issuance::issue`] is the way in.
//! - `site`: what is asked for and what the store has of it. `attempt`: what is lacking, under the site's lease: one order
//!   for each key type, published together; names that spoil an order are cut out. `slot`: the orders for one key type.
//! - `publication`: from stored certificates to served ones, to the canaries first or to all.
//! - `aftermath`: what is written when a group is given back: how it stands, and when it is looked at next.
//! - `renewal`: when what is served is renewed, as the CA wants it.
//! - `ahead`: names looked at before they are ordered. `check`: the challenge itself, before the CA is told to look.
//! - `turn`: an order's turn among the CA's limits. `placing`: the step that places it. `profiles`: which one it asks for.
//! - `steps`: the order machine. Each step does one thing with the CA and persists what came of it.
//! - `proofs`: how each name is proved, put in place and taken back.
//! - `issuing`: the last steps, from proved names to a stored certificate. `ends`: of an order that leads nowhere.
//! - `look`: what the CA has made of an order, and why it failed. `answers`: what it says of each proof.
//! - `account`: the account's key and URL, made where there are none. `rollover`: another key for it. `keeper`: as the store has it now. `directory`: the CA's, and what changes in it.
//! - `pace`: when to ask the CA again. `patience`: what is tried again when the CA or the store stumbles.
//! - `hsts`: lowered while a certificate fails.
//! - `verdict`: what went wrong, what it is about, whose fault it is, and what to change. `refusal`: what a CA's refusal is about.
//! - `progress`: what is told to whoever watches.

mod account;
mod aftermath;
mod ahead;
mod answers;
mod attempt;
mod check;
mod directory;
mod ends;
pub(crate) mod hsts;
mod issuing;
mod keeper;
mod lease;
mod look;
mod pace;
pub(crate) mod patience;
mod place;
mod placing;
mod profiles;
mod progress;
mod proofs;
mod publication;
mod refusal;
mod renewal;
mod rollover;
mod setup;
mod site;
mod slot;
mod steps;
mod turn;
mod verdict;

pub use account::{
    AccountError, AtCa, ask_for_account, check_contact, create_account, import_account, open_account,
    replace_account,
};
pub(crate) use aftermath::draw;
pub(crate) use attempt::paused;
pub(crate) use directory::seen_profiles;
pub(crate) use lease::HeldLease;
pub use progress::{Progress, Step, Timeline};
pub(crate) use publication::{look_for_promotion, promote_what_is_due};
pub(crate) use renewal::{Follows, Oracle, Renewals, place_of_served};
pub use rollover::{resolve_candidate, roll_over};
pub(crate) use setup::{DEFAULT_ACCOUNT, are_all_public, client_for, reach, validator};
pub use setup::{Issuance, SetupError};
pub use site::{Issue, Outcome, Published, Urge, Wanted};
pub(crate) use site::{lacks_nothing, valid_certificates};
pub use verdict::{About, Verdict};
