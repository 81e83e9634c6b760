//! Fuzzes the decoding of a table map and of its row events, whole and by projection.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rowmill_core::binlog::fuzzing::rows(bytes));
