//! The part of WASI (0.2) that the runtimes of components need, as [`wasi_p1`](super::wasi_p1) is for core modules: printed
//! output goes to the engine's log, the clock shows the time of day if it is granted, else the commit time of the batch's
//! first row, random numbers are random, and there are no files, no network, no arguments and no environment. A function
//! that is not among these is a trap when it is called: a runtime may import functions that it never calls.
//! <https://github.com/WebAssembly/WASI/tree/main/wasip2>

use rand::Rng;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList,
};
use wasmtime::{Engine, StoreContextMut, bail};

use super::limits::{HANDLES_MAX, PIECES_MAX, PRINTED_BYTES_MAX, RANDOM_BYTES_MAX};
use super::state::PluginState;

type Context<'a> = StoreContextMut<'a, PluginState>;

/// A standard output, by its descriptor.
struct OutputStream;
/// The standard input, which is empty.
struct InputStream;
/// An event that has happened.
struct Pollable;
struct IoError;
struct TerminalInput;
struct TerminalOutput;
struct Descriptor;
/// A resource that no function returns.
struct Other;

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

impl Datetime {
    fn of_nanos(nanos: u64) -> Self {
        Self { seconds: nanos / 1_000_000_000, nanoseconds: (nanos % 1_000_000_000) as u32 }
    }
}

/// Adds the functions of WASI that a component imports, in the versions that it asks for.
pub(super) fn add_to_linker(
    linker: &mut Linker<PluginState>,
    component: &Component,
    engine: &Engine,
) -> wasmtime::Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        let Some(path) = name.strip_prefix("wasi:") else { continue };
        let path = path.split('@').next().unwrap_or(path);
        let mut instance = linker.instance(name)?;
        for (item, export) in interface.exports(engine) {
            match export.ty {
                ComponentItem::Resource(_) => add_resource(&mut instance, item)?,
                ComponentItem::ComponentFunc(_) => add_function(&mut instance, path, item)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn add_resource(instance: &mut LinkerInstance<'_, PluginState>, name: &str) -> wasmtime::Result<()> {
    let resource = match name {
        "output-stream" => ResourceType::host::<OutputStream>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "error" => ResourceType::host::<IoError>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        _ => ResourceType::host::<Other>(),
    };
    instance.resource(name, resource, |mut store, _| {
        store.data_mut().drop_handle();
        Ok(())
    })
}

/// Returns a new handle.
fn handle<T: 'static>(store: &mut Context<'_>, number: u32) -> wasmtime::Result<Resource<T>> {
    if !store.data_mut().add_handle() {
        bail!("more than {HANDLES_MAX} open handles of WASI");
    }
    Ok(Resource::new_own(number))
}

fn add_function(instance: &mut LinkerInstance<'_, PluginState>, path: &str, name: &str) -> wasmtime::Result<()> {
    match (path, name) {
        ("cli/environment", "get-environment") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((Vec::<(String, String)>::new(),)))
        }
        ("cli/environment", "get-arguments") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((Vec::<String>::new(),)))
        }
        ("cli/environment", "initial-cwd") => instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((None::<String>,))),
        ("cli/exit", "exit") => instance.func_wrap(name, |_: Context<'_>, (status,): (Result<(), ()>,)| {
            let code = if status.is_ok() { 0 } else { 1 };
            bail!("exit with code {code}");
            #[expect(unreachable_code, reason = "the type of the result")]
            Ok(())
        }),
        ("cli/stdin", "get-stdin") => {
            instance.func_wrap(name, |mut store: Context<'_>, (): ()| Ok((handle::<InputStream>(&mut store, 0)?,)))
        }
        ("cli/stdout", "get-stdout") => instance
            .func_wrap(name, |mut store: Context<'_>, (): ()| Ok((handle::<OutputStream>(&mut store, STDOUT)?,))),
        ("cli/stderr", "get-stderr") => instance
            .func_wrap(name, |mut store: Context<'_>, (): ()| Ok((handle::<OutputStream>(&mut store, STDERR)?,))),
        ("cli/terminal-stdin", "get-terminal-stdin") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((None::<Resource<TerminalInput>>,)))
        }
        ("cli/terminal-stdout", "get-terminal-stdout") | ("cli/terminal-stderr", "get-terminal-stderr") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((None::<Resource<TerminalOutput>>,)))
        }
        ("clocks/wall-clock", "now") => instance.func_wrap(name, |store: Context<'_>, (): ()| {
            Ok((Datetime::of_nanos(store.data().clock_us().saturating_mul(1000)),))
        }),
        ("clocks/wall-clock", "resolution") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((Datetime::of_nanos(1000),)))
        }
        ("clocks/monotonic-clock", "now") => {
            instance.func_wrap(name, |mut store: Context<'_>, (): ()| Ok((store.data_mut().next_tick_ns(),)))
        }
        ("clocks/monotonic-clock", "resolution") => instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((1000u64,))),
        // A sleep ends at once.
        ("clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            instance.func_wrap(name, |mut store: Context<'_>, (_,): (u64,)| Ok((handle::<Pollable>(&mut store, 0)?,)))
        }
        ("io/poll", "[method]pollable.block") => {
            instance.func_wrap(name, |_: Context<'_>, (_,): (Resource<Pollable>,)| Ok(()))
        }
        ("io/poll", "[method]pollable.ready") => {
            instance.func_wrap(name, |_: Context<'_>, (_,): (Resource<Pollable>,)| Ok((true,)))
        }
        ("io/poll", "poll") => {
            instance.func_wrap(name, |mut store: Context<'_>, (events,): (WasmList<Resource<Pollable>>,)| {
                if events.len() > PIECES_MAX as usize {
                    bail!("wait for more than {PIECES_MAX} events");
                }
                // The borrowed handles end with the call.
                events.iter(&mut store)?.try_for_each(|event| event.map(drop))?;
                Ok(((0..events.len() as u32).collect::<Vec<_>>(),))
            })
        }
        ("io/error", "[method]error.to-debug-string") => {
            instance.func_wrap(name, |_: Context<'_>, (_,): (Resource<IoError>,)| Ok((String::new(),)))
        }
        ("io/streams", "[method]input-stream.read" | "[method]input-stream.blocking-read") => instance
            .func_wrap(name, |_: Context<'_>, (_, _): (Resource<InputStream>, u64)| {
                Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
            }),
        ("io/streams", "[method]input-stream.subscribe") => instance
            .func_wrap(name, |mut store: Context<'_>, (_,): (Resource<InputStream>,)| {
                Ok((handle::<Pollable>(&mut store, 0)?,))
            }),
        ("io/streams", "[method]output-stream.subscribe") => instance
            .func_wrap(name, |mut store: Context<'_>, (_,): (Resource<OutputStream>,)| {
                Ok((handle::<Pollable>(&mut store, 0)?,))
            }),
        ("io/streams", "[method]output-stream.check-write") => instance
            .func_wrap(name, |_: Context<'_>, (_,): (Resource<OutputStream>,)| {
                Ok((Ok::<_, StreamError>(PRINTED_BYTES_MAX as u64),))
            }),
        ("io/streams", "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush") => instance
            .func_wrap(name, |mut store: Context<'_>, (stream, bytes): (Resource<OutputStream>, WasmList<u8>)| {
                // Output beyond the limit is dropped, and never copied.
                let room = store.data().print_room();
                let bytes = bytes.as_le_slice(&store);
                let piece = bytes[..bytes.len().min(room)].to_vec();
                store.data_mut().print(&piece, stream.rep() == STDERR);
                Ok((Ok::<_, StreamError>(()),))
            }),
        ("io/streams", "[method]output-stream.flush" | "[method]output-stream.blocking-flush") => {
            instance.func_wrap(name, |_: Context<'_>, (_,): (Resource<OutputStream>,)| Ok((Ok::<_, StreamError>(()),)))
        }
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => {
            instance.func_wrap(name, |_: Context<'_>, (len,): (u64,)| {
                if len > RANDOM_BYTES_MAX as u64 {
                    bail!("{len} random bytes: the limit is {RANDOM_BYTES_MAX}");
                }
                let mut bytes = vec![0; len as usize];
                rand::rng().fill_bytes(&mut bytes);
                Ok((bytes,))
            })
        }
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((rand::rng().next_u64(),)))
        }
        ("random/insecure-seed", "insecure-seed") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok(((rand::rng().next_u64(), rand::rng().next_u64()),)))
        }
        ("filesystem/preopens", "get-directories") => {
            instance.func_wrap(name, |_: Context<'_>, (): ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))
        }
        _ => {
            let called = format!("wasi:{path}#{name}");
            instance.func_new(name, move |_, _, _, _| {
                bail!("`{called}` was called: transforms have no files, no network and no processes")
            })
        }
    }
}
