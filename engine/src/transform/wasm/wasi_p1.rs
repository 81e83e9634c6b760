//! The part of WASI (preview 1) that language runtimes need at their start: no files, no network, no arguments, no
//! environment; printed output goes to the engine's log. The clock shows the time of day if it is granted, else the
//! commit time of the batch's first row.
//! <https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md>

use rand::Rng;
use wasmtime::{Caller, Linker, bail};

use super::limits::{PIECES_MAX, RANDOM_BYTES_MAX};
use super::memory::memory;
use super::state::PluginState;

const MODULE: &str = "wasi_snapshot_preview1";
const SUCCESS: u32 = 0;
const BAD_DESCRIPTOR: u32 = 8;
const INVALID: u32 = 28;

const REALTIME: u32 = 0;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Functions that only return the error "bad file descriptor", with the number of their parameters.
const EMPTY: [(&str, usize); 20] = [
    ("fd_advise", 4),
    ("fd_allocate", 3),
    ("fd_datasync", 1),
    ("fd_filestat_get", 2),
    ("fd_prestat_dir_name", 3),
    ("fd_prestat_get", 2),
    ("fd_read", 4),
    ("fd_readdir", 5),
    ("fd_renumber", 2),
    ("fd_sync", 1),
    ("fd_tell", 2),
    ("path_create_directory", 3),
    ("path_filestat_get", 5),
    ("path_open", 9),
    ("path_readlink", 6),
    ("path_remove_directory", 3),
    ("path_rename", 6),
    ("path_unlink_file", 3),
    ("sock_accept", 3),
    ("sock_shutdown", 2),
];

pub(in crate::transform) fn add_to_linker(linker: &mut Linker<PluginState>) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, parameters) in EMPTY {
        // All parameters have 32 bits, except file sizes, offsets, cookies and rights.
        let wide: &[usize] = match name {
            "fd_advise" => &[1, 2],
            "fd_allocate" => &[1, 2],
            "fd_readdir" => &[3],
            "path_open" => &[5, 6],
            _ => &[],
        };
        let types = (0..parameters).map(|index| match wide.contains(&index) {
            true => wasmtime::ValType::I64,
            false => wasmtime::ValType::I32,
        });
        let signature = wasmtime::FuncType::new(&engine, types, [wasmtime::ValType::I32]);
        linker.func_new(MODULE, name, signature, |_, _, results| {
            results[0] = wasmtime::Val::I32(BAD_DESCRIPTOR as i32);
            Ok(())
        })?;
    }
    for name in ["args_sizes_get", "environ_sizes_get"] {
        linker.func_wrap(MODULE, name, |mut caller: Caller<'_, PluginState>, count: u32, size: u32| {
            write(&mut caller, count, &[0; 4])?;
            write(&mut caller, size, &[0; 4])?;
            Ok(SUCCESS)
        })?;
    }
    for name in ["args_get", "environ_get"] {
        linker.func_wrap(MODULE, name, |_: u32, _: u32| SUCCESS)?;
    }
    linker.func_wrap(
        MODULE,
        "clock_time_get",
        |mut caller: Caller<'_, PluginState>, clock: u32, _precision: u64, to: u32| {
            let state = caller.data_mut();
            let now_ns = if clock == REALTIME { state.clock_us() * 1000 } else { state.next_tick_ns() };
            write(&mut caller, to, &now_ns.to_le_bytes())?;
            Ok(SUCCESS)
        },
    )?;
    linker.func_wrap(MODULE, "clock_res_get", |mut caller: Caller<'_, PluginState>, _clock: u32, to: u32| {
        write(&mut caller, to, &1000u64.to_le_bytes())?;
        Ok(SUCCESS)
    })?;
    linker.func_wrap(MODULE, "random_get", |mut caller: Caller<'_, PluginState>, to: u32, len: u32| {
        if len as usize > RANDOM_BYTES_MAX {
            return Ok(INVALID);
        }
        let memory = memory(&mut caller)?;
        let bytes = memory.data_mut(&mut caller).get_mut(to as usize..).and_then(|rest| rest.get_mut(..len as usize));
        match bytes {
            Some(bytes) => rand::rng().fill_bytes(bytes),
            None => bail!("{len} bytes at {to} are outside its memory"),
        }
        Ok(SUCCESS)
    })?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, PluginState>, descriptor: u32, vectors: u32, count: u32, written: u32| {
            if !matches!(descriptor, STDOUT | STDERR) {
                return Ok(BAD_DESCRIPTOR);
            }
            if count > PIECES_MAX {
                return Ok(INVALID);
            }
            let mut len = 0u32;
            for index in 0..count {
                let vector = read(&mut caller, vectors.saturating_add(8 * index), 8)?;
                let (at, piece_len) = (word(&vector), word(&vector[4..]));
                // Output beyond the limit is dropped, and never copied.
                let printed = piece_len.min(caller.data().print_room() as u32);
                let piece = read(&mut caller, at, printed)?;
                len = len.saturating_add(piece_len);
                caller.data_mut().print(&piece, descriptor == STDERR);
            }
            write(&mut caller, written, &len.to_le_bytes())?;
            Ok(SUCCESS)
        },
    )?;
    linker.func_wrap(MODULE, "fd_close", |_: u32| BAD_DESCRIPTOR)?;
    linker.func_wrap(MODULE, "fd_seek", |_: u32, _: u64, _: u32, _: u32| BAD_DESCRIPTOR)?;
    linker.func_wrap(MODULE, "fd_fdstat_set_flags", |_: u32, _: u32| BAD_DESCRIPTOR)?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut caller: Caller<'_, PluginState>, descriptor: u32, to: u32| {
        if !matches!(descriptor, STDOUT | STDERR) {
            return Ok(BAD_DESCRIPTOR);
        }
        let mut status = [0; 24];
        status[0] = 2; // a character device
        status[8] = 1 << 6; // with the right to write
        write(&mut caller, to, &status)?;
        Ok(SUCCESS)
    })?;
    // A sleep ends at once.
    linker.func_wrap(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, PluginState>, subscriptions: u32, events: u32, count: u32, happened: u32| {
            if count > PIECES_MAX {
                return Ok(INVALID);
            }
            for index in 0..count {
                let subscription = read(&mut caller, subscriptions.saturating_add(48 * index), 48)?;
                let mut event = [0; 32];
                event[..8].copy_from_slice(&subscription[..8]);
                event[10] = subscription[8];
                write(&mut caller, events.saturating_add(32 * index), &event)?;
            }
            write(&mut caller, happened, &count.to_le_bytes())?;
            Ok(SUCCESS)
        },
    )?;
    linker.func_wrap(MODULE, "sched_yield", || SUCCESS)?;
    linker.func_wrap(MODULE, "proc_exit", |code: u32| -> wasmtime::Result<()> { bail!("exit with code {code}") })?;
    Ok(())
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn write(caller: &mut Caller<'_, PluginState>, at: u32, bytes: &[u8]) -> wasmtime::Result<()> {
    memory(caller)?.write(caller, at as usize, bytes)?;
    Ok(())
}

fn read(caller: &mut Caller<'_, PluginState>, at: u32, len: u32) -> wasmtime::Result<Vec<u8>> {
    let memory = memory(caller)?;
    match memory.data(&caller).get(at as usize..).and_then(|rest| rest.get(..len as usize)) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => bail!("{len} bytes at {at} are outside its memory"),
    }
}
