//! Access to the memory of a core module.

use wasmtime::{Caller, Extern, Memory, bail};

use super::state::PluginState;

/// Returns the exported memory of the module that calls.
pub(in crate::transform) fn memory(caller: &mut Caller<'_, PluginState>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => bail!("no memory is exported as `memory`"),
    }
}
