//! Tests of hostile plugins: each is confined to its limits of time, memory, log lines and output.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rowmill_core::batch::{RowIndex, Table, TableId};

use super::error::PluginError;
use super::wasm::limits::LINES_MAX;
use super::wasm::load::{Loader, Settings};
use super::{Decided, Passed, Plugin, Transform};
use crate::fixture::sample_rows;

const LIMITS: &str = "deadline = \"100ms\"\nmemory = \"16MiB\"\noutput = \"1MiB\"\n";
/// The time for a call with a deadline of 100 ms, on a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// Returns a module with its imports, 4 MiB of memory and an allocator that always returns the same address. `process` runs
/// `body` on the rows at `$at`, of `$len` bytes, and returns the words at 0: a verdict that keeps no row, unless `body`
/// wrote another.
fn module(declarations: &str, body: &str) -> Vec<u8> {
    let text = format!(
        "(module
           (import \"wasi_snapshot_preview1\" \"random_get\" (func $random_get (param i32 i32) (result i32)))
           (import \"wasi_snapshot_preview1\" \"fd_write\" (func $fd_write (param i32 i32 i32 i32) (result i32)))
           (import \"wasi_snapshot_preview1\" \"poll_oneoff\" (func $poll (param i32 i32 i32 i32) (result i32)))
           (import \"wasi_snapshot_preview1\" \"clock_time_get\" (func $clock (param i32 i64 i32) (result i32)))
           (import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))
           (import \"rowmill\" \"log\" (func $log (param i32 i32 i32)))
           (import \"rowmill\" \"count\" (func $count (param i32 i32 i64)))
           (import \"rowmill\" \"sink\" (func $sink (param i32 i32) (result i32)))
           (import \"rowmill\" \"recipe\" (func $recipe (param i32 i32) (result i32)))
           (import \"rowmill\" \"select\" (func $select (param i32 i32 i32) (result i32)))
           (import \"rowmill\" \"env\" (func $env (param i32 i32 i32 i32) (result i32)))
           (memory (export \"memory\") 64)
           {declarations}
           (func (export \"rowmill_process\") (param $at i32) (param $len i32) (result i64)
             (local $i i32)
             {body}
             (i64.const 36))
           (func (export \"rowmill_alloc\") (param i32) (result i32) (i32.const 0x100000)))"
    );
    wat::parse_str(text).expect("a module")
}

fn load(bytes: &[u8], manifest: &str) -> anyhow::Result<Arc<Plugin>> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("guest.wasm");
    std::fs::write(&path, bytes).expect("written");
    std::fs::write(path.with_extension("toml"), manifest).expect("written");
    Loader::new(Settings::for_tests(vec!["out".to_owned()]))?.load(&path)
}

fn decide(plugin: &Plugin) -> Result<Decided, PluginError> {
    let (bytes, tables) = sample_rows();
    let rows: Vec<Passed> = (0..256).map(|row| Passed { row: RowIndex(row), origin: row, reroute: None }).collect();
    plugin.decide(&bytes, &rows, &tables, &mut Duration::default())
}

/// Returns the outcome of a call, which must end within `SOON`.
fn outcome(name: &str, bytes: &[u8]) -> String {
    let plugin = match load(bytes, LIMITS) {
        Ok(plugin) => plugin,
        Err(error) => return format!("not loaded: {error:#}"),
    };
    let started = Instant::now();
    let outcome = match decide(&plugin) {
        Ok(decided) => {
            let fails = decided.decision.map(|(_, decision)| decision.fails).unwrap_or_default();
            fails.into_iter().next().map_or_else(|| "ok".to_owned(), |(_, error)| error)
        }
        Err(error) => error.to_string(),
    };
    assert!(started.elapsed() < SOON, "{name} took {:?}: {outcome}", started.elapsed());
    outcome
}

/// A list of arrays on the managed heap.
const MANAGED: &str = "(type $bytes (array (mut i8))) (type $node (struct (field (ref null $node)) (field (ref $bytes)))) \
                       (global $last (mut (ref null $node)) (ref.null $node))";

/// Returns an endless loop around `what`.
fn forever(what: &str) -> String {
    format!("(loop $again {what} (br $again))")
}

#[test]
fn each_guest_stays_within_its_limits() {
    let interrupted = "interrupt";
    let is_invalid = |call: &str| format!("(if (i32.ne {call} (i32.const 28)) (then unreachable))");
    // Writes the words of an answer at address 0.
    let answer = |words: &[u32]| {
        let store = |(index, word): (usize, &u32)| format!("(i32.store (i32.const {}) (i32.const {word}))", 4 * index);
        words.iter().enumerate().map(store).collect::<String>()
    };
    let deep = |count: usize| format!("{}{}", "(loop ".repeat(count), ")".repeat(count));
    let guests: Vec<(&str, String, String, &str)> = vec![
        ("4 GiB of random bytes", String::new(), is_invalid("(call $random_get (i32.const 0) (i32.const -1))"), "ok"),
        (
            "random bytes beyond its memory",
            String::new(),
            "(drop (call $random_get (i32.const 0x3ffffc) (i32.const 8)))".to_owned(),
            "outside its memory",
        ),
        ("random bytes for ever", String::new(), forever("(drop (call $random_get (i32.const 0) (i32.const 0x10000)))"), interrupted),
        (
            "prints a thousand times its memory in one call",
            String::new(),
            format!(
                "(loop $next (i32.store (i32.add (i32.const 0x2000) (i32.mul (local.get $i) (i32.const 8))) (i32.const 0x8000))
                   (i32.store (i32.add (i32.const 0x2004) (i32.mul (local.get $i) (i32.const 8))) (i32.const 0x380000))
                   (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
                 {}",
                "(drop (call $fd_write (i32.const 1) (i32.const 0x2000) (i32.const 1000) (i32.const 0x1000)))".repeat(100)
            ),
            "ok",
        ),
        ("prints 4 billion pieces", String::new(), is_invalid("(call $fd_write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0))"), "ok"),
        (
            "prints what isn't in its memory",
            String::new(),
            "(i32.store (i32.const 0x2000) (i32.const -8)) (i32.store (i32.const 0x2004) (i32.const 64))
             (drop (call $fd_write (i32.const 1) (i32.const 0x2000) (i32.const 1) (i32.const 0x1000)))"
                .to_owned(),
            "outside its memory",
        ),
        ("waits for 4 billion events", String::new(), is_invalid("(call $poll (i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0))"), "ok"),
        ("sleeps for ever", String::new(), forever("(drop (call $poll (i32.const 0x1000) (i32.const 0x2000) (i32.const 1) (i32.const 0x3000)))"), interrupted),
        ("looks at the clock for ever", String::new(), forever("(drop (call $clock (i32.const 0) (i64.const 0) (i32.const 0x1000)))"), interrupted),
        ("loops", String::new(), forever(""), interrupted),
        ("exits", String::new(), "(call $exit (i32.const 3))".to_owned(), "exit with code 3"),
        ("recurses", "(func $f (param i32) (result i32) (i32.add (call $f (local.get 0)) (i32.const 1)))".to_owned(), "(drop (call $f (i32.const 1)))".to_owned(), "call stack exhausted"),
        ("grows", String::new(), forever("(drop (memory.grow (i32.const 16)))"), "raise `memory` in its .toml"),
        ("has nine memories", "(memory 64) (memory 64) (memory 64) (memory 64) (memory 64) (memory 64) (memory 64) (memory 64)".to_owned(), String::new(), "raise `memory` in its .toml"),
        ("has 200 memories", "(memory 0)".repeat(200), String::new(), "not loaded"),
        ("grows another memory", "(memory $other 1)".to_owned(), forever("(drop (memory.grow $other (i32.const 16)))"), "raise `memory` in its .toml"),
        ("has a table of a million", "(table 1000000 funcref)".to_owned(), String::new(), "tables of"),
        ("grows a table", "(table $t 0 funcref)".to_owned(), forever("(drop (table.grow $t (ref.null func) (i32.const 1000)))"), "tables of"),
        ("fills its memory for ever", String::new(), forever("(memory.fill (i32.const 0x1000) (i32.const 1) (i32.const 0x3f0000))"), interrupted),
        ("logs for ever", String::new(), forever("(call $log (i32.const 4) (i32.const 0) (i32.const 100))"), interrupted),
        ("logs all of its memory for ever", String::new(), forever("(call $log (i32.const 4) (i32.const 0) (i32.const 0x400000))"), interrupted),
        ("logs what isn't in its memory", String::new(), "(call $log (i32.const 4) (i32.const -100) (i32.const 4000))".to_owned(), "outside its memory"),
        (
            "counts under 3,000 names",
            String::new(),
            "(loop $next (i32.store (i32.const 0x2000) (local.get $i)) (call $count (i32.const 0x2000) (i32.const 4) (i64.const 1))
               (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3000))))"
                .to_owned(),
            "more than 1000 counters",
        ),
        ("counts under a long name", String::new(), "(call $count (i32.const 0) (i32.const 0x100000) (i64.const 1))".to_owned(), "names may have 1024 bytes"),
        ("asks for a long sink", String::new(), "(drop (call $sink (i32.const 0) (i32.const 0x100000)))".to_owned(), "names may have 1024 bytes"),
        ("asks for variables that aren't granted", String::new(), "(i32.store (i32.const 0x2000) (i32.const 0x48544150)) (if (i32.ne (call $env (i32.const 0x2000) (i32.const 4) (i32.const 0) (i32.const 100)) (i32.const -1)) (then unreachable))".to_owned(), "ok"),
        ("answers with 4 GiB", String::new(), "(return (i64.const 0xffffffff))".to_owned(), "raise `output` in its .toml"),
        ("answers with more than it may", String::new(), "(return (i64.const 0x200000))".to_owned(), "raise `output` in its .toml"),
        ("answers from beyond its memory", String::new(), "(return (i64.const 0x7fffffff00000020))".to_owned(), "outside its memory"),
        ("answers with nothing", String::new(), "(return (i64.const 0))".to_owned(), "too short"),
        ("says that there are 4 billion rows", String::new(), answer(&[0, u32::MAX]), "malformed"),
        ("says that there are 4 billion of everything", String::new(), answer(&[0, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX]), "malformed"),
        // Messages without any text: what they take besides their texts is more than the output.
        ("makes 50,000 messages of a row", String::new(), format!("{}(return (i64.const 1000036))", answer(&[0, 0, 0, 0, 50_000])), "raise `output` in its .toml"),
        ("says that a text is longer than the arena", String::new(), format!("{}(return (i64.const 56))", answer(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9])), "malformed verdict: the arena is shorter"),
        ("has bytes of no item", String::new(), format!("{}(return (i64.const 37))", answer(&[0, 0, 0, 0, 0, 0, 0, 0, 1])), "malformed verdict: 1 unused bytes in the arena"),
        ("writes by a recipe that does not exist", String::new(), format!("{}(return (i64.const 48))", answer(&[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 7, u32::MAX])), "malformed verdict: recipe 7 does not exist: there are 0"),
        ("adds a recipe of its whole memory", String::new(), "(drop (call $recipe (i32.const 0) (i32.const 0x400000)))".to_owned(), "recipes may have 1048576 bytes"),
        ("adds a recipe that is none", String::new(), "(drop (call $recipe (i32.const 0) (i32.const 2)))".to_owned(), "invalid recipe: "),
        ("adds recipes for ever", String::new(), format!("(i64.store (i32.const 0x2000) (i64.const {})) (i64.store (i32.const 0x2008) (i64.const {})) {}", u64::from_le_bytes(*b"{\"body\":"), u64::from_le_bytes(*b"1}      "), forever("(drop (call $recipe (i32.const 0x2000) (i32.const 16)))")), interrupted),
        ("selects by its whole memory", String::new(), "(drop (call $select (i32.const 0) (i32.const 0x400000) (i32.const 0)))".to_owned(), "conditions may have 262144 bytes"),
        ("selects by nonsense", String::new(), "(drop (call $select (i32.const 0) (i32.const 4) (i32.const 0)))".to_owned(), "invalid expression"),
        ("selects to beyond its memory", String::new(), format!("(i32.store (i32.const 0x2000) (i32.const {})) (drop (call $select (i32.const 0x2000) (i32.const 4) (i32.const -8)))", u32::from_le_bytes(*b"true")), "out of bounds"),
        ("describes a table by nonsense", "(func (export \"rowmill_describe\") (param i32 i32) (result i64) (i64.const 0x7fffffff7fffffff))".to_owned(), String::new(), "the limit is 1048576"),
        ("loops when it starts", format!("(func $start {}) (start $start)", forever("")), String::new(), "not loaded"),
        ("has 50,000 loops within each other", format!("(func {})", deep(50_000)), String::new(), "nested blocks"),
        ("has 4,000 loops within each other", format!("(func {})", deep(4_000)), String::new(), "ok"),
        (
            "keeps managed objects for ever",
            MANAGED.to_owned(),
            forever("(global.set $last (struct.new $node (global.get $last) (array.new_default $bytes (i32.const 65536))))"),
            "raise `memory` in its .toml",
        ),
        (
            "drops managed objects for ever",
            MANAGED.to_owned(),
            forever("(drop (array.new_default $bytes (i32.const 65536)))"),
            interrupted,
        ),
        ("throws what nothing catches", "(tag $oops)".to_owned(), "(throw $oops)".to_owned(), "exception"),
        (
            "throws what it catches",
            "(tag $oops)".to_owned(),
            "(block $caught (try_table (catch_all $caught) (throw $oops)))".to_owned(),
            "ok",
        ),
        (
            "edits a date to something that ends the text that it stands in",
            String::new(),
            edit(8, b"x\",\"MessageGroupId\":\"other"),
            "is not a valid value of shop.orders.created_at (datetime)",
        ),
        (
            "edits a float to no number",
            String::new(),
            edit(6, &f64::NAN.to_le_bytes()),
            "invalid value for shop.orders.rating (double)",
        ),
    ];
    assert!(guests.len() > 30);
    for (name, declarations, body, expected) in guests {
        let found = outcome(name, &module(&declarations, &body));
        assert!(found.contains(expected), "{name}: {found}");
    }
}

/// Returns a body that answers with an edit of a column of the first row.
fn edit(column: u32, value: &[u8]) -> String {
    let len = value.len() as u32;
    let words = [0, 0, 0, 1, 0, 0, 0, 0, len, 0, 1, column, 2, len];
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).chain(value.iter().copied());
    let store = |(index, byte): (usize, u8)| format!("(i32.store8 (i32.const {index}) (i32.const {byte}))");
    let stores: String = bytes.enumerate().map(store).collect();
    format!("{stores}(return (i64.const {}))", 4 * words.len() + value.len())
}

#[test]
fn random_bytes_differ_from_call_to_call() {
    // A rejection with random bytes as its message.
    let body = "(i32.store (i32.const 0) (i32.const 1)) (drop (call $random_get (i32.const 4) (i32.const 28)))";
    let bytes = module("", body);
    let plugin = load(&bytes, LIMITS).expect("loaded");
    let other = load(&bytes, LIMITS).expect("loaded");
    let said = |plugin: &Plugin| match decide(plugin) {
        Err(PluginError::Reject(message)) => message,
        other => panic!("{other:?}"),
    };
    let all = [said(&plugin), said(&plugin), said(&other)];
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2], "{all:?}");
}

/// Output without line breaks is logged in pieces, and does not slow down later calls.
#[test]
fn what_is_printed_without_an_end_does_not_pile_up() {
    let body = "(i32.store (i32.const 0x2000) (i32.const 0x8000)) (i32.store (i32.const 0x2004) (i32.const 0x1000))
                (drop (call $fd_write (i32.const 1) (i32.const 0x2000) (i32.const 1) (i32.const 0x1000)))";
    let plugin = load(&module("", body), LIMITS).expect("loaded");
    let took = |calls: usize| {
        let started = Instant::now();
        (0..calls).for_each(|_| drop(decide(&plugin).expect("decided")));
        started.elapsed()
    };
    let first = took(300);
    took(20_000);
    let last = took(300);
    assert!(last < first * 5 + Duration::from_millis(100), "{first:?} at first, {last:?} later");
}

/// Counters that exist already do not count again against their number.
#[test]
fn a_call_counts_under_many_known_names_and_a_new_one() {
    // Counts under 600 names, and under one more that is another one in each call.
    let body = "(loop $next
                (i32.store8 (i32.const 0x2000) (i32.add (i32.const 32) (i32.and (local.get $i) (i32.const 63))))
                (i32.store8 (i32.const 0x2001) (i32.add (i32.const 32) (i32.shr_u (local.get $i) (i32.const 6))))
                (call $count (i32.const 0x2000) (i32.const 2) (i64.const 1))
                (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 600))))
                (i32.store8 (i32.const 0x3000) (i32.add (i32.const 1) (i32.load8_u (i32.const 0x3000))))
                (call $count (i32.const 0x3000) (i32.const 1) (i64.const 1))";
    let plugin = load(&module("", body), LIMITS).expect("loaded");
    (0..3).for_each(|_| drop(decide(&plugin).expect("decided")));
    let counters = plugin.counters();
    assert_eq!((counters.len(), counters.values().filter(|count| **count == 3).count()), (603, 600));
}

/// Log lines beyond the limit of a call are dropped, and one line says so.
#[test]
fn a_call_logs_a_bounded_number_of_lines() {
    let body = "(loop $again (call $log (i32.const 1) (i32.const 0) (i32.const 1))
                (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))";
    let plugin = load(&module("", body), LIMITS).expect("loaded");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let subscriber = tracing_subscriber::fmt().with_writer(log.reopen().expect("opened")).finish();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..2 {
            decide(&plugin).expect("decided");
        }
    });
    let log = std::fs::read_to_string(log.path()).expect("read");
    assert_eq!(log.lines().count(), 2 * (LINES_MAX + 1), "{log}");
    assert_eq!(log.matches("dropping the others").count(), 2, "{log}");
}

/// Files that are not regular, or too large, are refused without being opened.
#[test]
fn what_is_no_file_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let started = Instant::now();
    let refused = |path: &Path| {
        let loader = Loader::new(Settings::for_tests(Vec::new())).expect("a loader");
        format!("{:#}", loader.load(path).expect_err("refused"))
    };
    let pipe = directory.path().join("pipe.wasm");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    assert!(refused(&pipe).contains("not a regular file"));
    let of_pipe = directory.path().join("settings.wasm");
    std::fs::write(&of_pipe, module("", "")).expect("written");
    let settings = of_pipe.with_extension("toml");
    assert!(std::process::Command::new("mkfifo").arg(&settings).status().is_ok_and(|status| status.success()));
    assert!(refused(&of_pipe).contains("settings.toml: not a regular file"));
    let nested = directory.path().join("directory.wasm");
    std::fs::create_dir(&nested).expect("made");
    assert!(refused(&nested).contains("not a regular file"));
    let large = directory.path().join("large.wasm");
    std::fs::File::create(&large).and_then(|file| file.set_len(300 << 20)).expect("made");
    assert!(refused(&large).contains("the limit is 268435456"), "{}", refused(&large));
    assert!(started.elapsed() < SOON);
}

/// A plugin that refuses a table is reported with the reason that it gives.
#[test]
fn a_guest_that_refuses_a_table_is_heard() {
    let declarations = "(func (export \"rowmill_describe\") (param i32 i32) (result i64)
        (i32.store (i32.const 0) (i32.const 1)) (i32.store (i32.const 4) (i32.const 0x6f6e)) (i64.const 6))";
    let plugin = load(&module(declarations, ""), LIMITS).expect("loaded");
    let (_, tables) = sample_rows();
    let table: &Table = &tables[0];
    assert_eq!(plugin.interest(table).err(), Some(PluginError::Reject("`describe` refused the table: no".to_owned())));
}

/// The answer to `describe` may have as many bytes after a batch as before it, however few `output` allows for a batch.
#[test]
fn the_output_of_a_batch_bounds_no_other_call() {
    // The first table's rows are decided on; any other table is refused, with 200,000 bytes.
    let declarations = "(func (export \"rowmill_describe\") (param $at i32) (param $len i32) (result i64)
        (if (i32.eqz (i32.load (local.get $at))) (then
          (i32.store (i32.const 0) (i32.const 0)) (i32.store (i32.const 4) (i32.const 2)) (return (i64.const 8))))
        (i32.store (i32.const 0) (i32.const 1)) (i64.const 200004))";
    let body = "(i32.store (i32.const 4) (i32.const 0))";
    let plugin = load(&module(declarations, body), &LIMITS.replace("1MiB", "1KiB")).expect("loaded");
    decide(&plugin).expect("decided");
    let (_, tables) = sample_rows();
    let other = Table { id: TableId(1), name: "other".to_owned(), ..(*tables[0]).clone() };
    match plugin.interest(&other) {
        Err(PluginError::Reject(message)) => {
            assert!(message.starts_with("`describe` refused the table: "), "{message}")
        }
        other => panic!("{other:?}"),
    }
}
