//! What a row costs in a transform, by language: the examples of all SDKs. Prints a table for docs/transforms.md.
//!
//! Needs the examples: `tests/tools/guests` and `tests/tools/languages` build them.

use std::path::Path;

use rowmill::plugin::cost_of_row;

const LANGUAGES: [(&str, &str); 7] = [
    ("rust", "Rust"),
    ("c", "C"),
    ("zig", "Zig"),
    ("assemblyscript", "AssemblyScript"),
    ("go", "Go"),
    ("js", "JavaScript, by questions and recipes"),
    ("python", "Python, by questions and recipes"),
];
const EXAMPLES: [&str; 3] = ["filter", "reshape", "route"];

fn main() {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    println!("| language | {} |\n| --- |{}", EXAMPLES.join(" | "), " --- |".repeat(EXAMPLES.len()));
    for (directory, name) in LANGUAGES {
        let cost = |example: &&str| match cost_of_row(&guests.join(directory).join(format!("{example}.wasm"))) {
            Ok(nanoseconds) => format!("{nanoseconds:.0}"),
            Err(error) => format!("{error:#}"),
        };
        println!("| {name} | {} |", EXAMPLES.iter().map(cost).collect::<Vec<_>>().join(" | "));
    }
}
