//! What the commands do beside `run`: check, tail, replay, and the authors' commands.

pub mod check;
pub mod plugin;
pub mod printer;
pub mod replay;
pub mod tail;
