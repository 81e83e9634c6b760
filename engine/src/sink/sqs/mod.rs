//! The service SQS, for [remote sinks](super::remote): how a queue is opened, and its transport.

mod codes;
mod open;
mod transport;

pub(super) use open::open;
#[cfg(test)]
pub(super) use transport::{LIMITS, SqsQueue};
