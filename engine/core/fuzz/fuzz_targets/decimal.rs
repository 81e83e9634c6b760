//! Fuzzes the decoding of DECIMAL values, and the decompression of MariaDB's events and columns.
#![no_main]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rowmill_core::binlog::fuzzing::decimal(bytes));
