//! The WebAssembly host: loads plugins, creates instances of them, and calls these within limits.

pub(super) mod bindings;
mod core_module;
pub(super) mod instance;
pub(super) mod limits;
pub(super) mod load;
mod memory;
mod state;
mod ticker;
mod wasi_p1;
mod wasi_p2;

pub(crate) use state::LOG_TARGET;
