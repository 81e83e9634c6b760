//! Fuzzes the decoding of binary JSON documents and of partial updates.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rowmill_core::binlog::fuzzing::json(bytes));
