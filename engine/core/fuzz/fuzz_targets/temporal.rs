//! Fuzzes the decoding of dates and times of all types.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rowmill_core::binlog::fuzzing::temporal(bytes));
