//! Projects of transforms, created from templates that contain everything, including the language's SDK.

use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};
use std::process::Command;

use anyhow::{Context, bail};

/// A language that has an SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum Language {
    /// Rust.
    Rust,
    /// C.
    C,
    /// Zig.
    Zig,
    /// AssemblyScript.
    AssemblyScript,
    /// Go.
    Go,
    /// JavaScript.
    Js,
    /// TypeScript.
    Ts,
    /// Python.
    Python,
}

/// A file of a project: its path and its text. `PLUGIN_NAME` stands for the project's name, in paths and in the texts
/// of templates, and the line `PLUGIN_COMPILER` for the steps by which CI gets the language's compiler.
struct File {
    path: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($($path:literal <- $from:literal),+ $(,)?) => {
        &[$(File { path: $path, text: include_str!(concat!("../../../../sdk/", $from)) }),+]
    };
}

/// The files of every project, with a test case that keeps orders which became paid.
const COMMON: &[File] = files![
    "README.md" <- "template/README.md.txt",
    ".gitignore" <- "template/gitignore.txt",
    ".github/workflows/transform.yml" <- "template/workflow.yml.txt",
    "PLUGIN_NAME.toml" <- "template/plugin.toml.txt",
    "tests/example.rows.jsonl" <- "cases/filter/example.rows.jsonl",
    "tests/example.expected.jsonl" <- "cases/filter/example.expected.jsonl",
];

impl Language {
    /// Returns the language of a project, by the files that its template has.
    ///
    /// # Errors
    /// If the directory is no project, or of several languages.
    pub(super) fn of_project(directory: &Path) -> anyhow::Result<Self> {
        const FILES: [(Language, &str); 8] = [
            (Language::Rust, "Cargo.toml"),
            (Language::C, "rowmill.h"),
            (Language::Zig, "rowmill.zig"),
            (Language::AssemblyScript, "rowmill.ts"),
            (Language::Go, "go.mod"),
            (Language::Ts, "tsconfig.json"),
            (Language::Js, "rowmill.js"),
            (Language::Python, "app.py"),
        ];
        let mut found: Vec<Self> =
            FILES.iter().filter(|(_, file)| directory.join(file).is_file()).map(|(language, _)| *language).collect();
        // Projects in the first language have a file of the second one as well.
        for (language, other) in [(Self::AssemblyScript, Self::Ts), (Self::Ts, Self::Js)] {
            if found.contains(&language) {
                found.retain(|found| *found != other);
            }
        }
        match found.as_slice() {
            [language] => Ok(*language),
            [] => bail!(
                "{} is no project of a plugin: it has none of {}; name a project's directory, or its language by --lang",
                directory.display(),
                FILES.map(|(_, file)| file).join(", ")
            ),
            _ => bail!("{} has files of several languages; name the plugin's by --lang", directory.display()),
        }
    }

    /// Returns the steps of a GitHub workflow by which the compiler is installed.
    fn compiler_steps(self) -> &'static str {
        match self {
            Self::Rust => include_str!("../../../../sdk/template/compilers/rust.yml.txt"),
            Self::C | Self::Zig => include_str!("../../../../sdk/template/compilers/zig.yml.txt"),
            Self::Go => include_str!("../../../../sdk/template/compilers/go.yml.txt"),
            Self::AssemblyScript | Self::Js | Self::Ts => {
                include_str!("../../../../sdk/template/compilers/npm.yml.txt")
            }
            Self::Python => include_str!("../../../../sdk/template/compilers/python.yml.txt"),
        }
    }

    fn files(self) -> &'static [File] {
        match self {
            Self::Rust => files![
                "build" <- "rust/template/build",
                "Cargo.toml" <- "rust/template/Cargo.toml.txt",
                "src/lib.rs" <- "rust/examples/filter.rs",
                "vendor/rowmill-sdk/Cargo.toml" <- "rust/template/sdk.toml.txt",
                "vendor/rowmill-sdk/src/lib.rs" <- "rust/src/lib.rs",
                "vendor/rowmill-sdk/src/error.rs" <- "rust/src/error.rs",
                "vendor/rowmill-sdk/src/json.rs" <- "rust/src/json.rs",
                "vendor/rowmill-sdk/src/out.rs" <- "rust/src/out.rs",
                "vendor/rowmill-sdk/src/outcome.rs" <- "rust/src/outcome.rs",
                "vendor/rowmill-sdk/src/recipe.rs" <- "rust/src/recipe.rs",
                "vendor/rowmill-sdk/src/row.rs" <- "rust/src/row.rs",
                "vendor/rowmill-sdk/src/runtime.rs" <- "rust/src/runtime.rs",
                "vendor/rowmill-sdk/src/table.rs" <- "rust/src/table.rs",
                "vendor/rowmill-sdk/src/view.rs" <- "rust/src/view.rs",
                "vendor/rowmill-batch/Cargo.toml" <- "rust/template/batch.toml.txt",
                "vendor/rowmill-batch/src/lib.rs" <- "../engine/batch/src/lib.rs",
                "vendor/rowmill-batch/src/builder.rs" <- "../engine/batch/src/builder.rs",
                "vendor/rowmill-batch/src/json.rs" <- "../engine/batch/src/json.rs",
                "vendor/rowmill-batch/src/layout.rs" <- "../engine/batch/src/layout.rs",
                "vendor/rowmill-batch/src/packed.rs" <- "../engine/batch/src/packed.rs",
                "vendor/rowmill-batch/src/reader.rs" <- "../engine/batch/src/reader.rs",
                "vendor/rowmill-batch/src/schema.rs" <- "../engine/batch/src/schema.rs",
                "wit/transform.wit" <- "../wit/transform.wit",
            ],
            Self::C => files![
                "build" <- "c/template/build",
                "compile_flags.txt" <- "c/template/compile_flags.txt",
                "PLUGIN_NAME.c" <- "c/examples/filter.c",
                "rowmill.h" <- "c/rowmill.h",
            ],
            Self::Zig => files![
                "build" <- "zig/template/build",
                "PLUGIN_NAME.zig" <- "zig/examples/filter.zig",
                "rowmill.zig" <- "zig/rowmill.zig",
            ],
            Self::AssemblyScript => files![
                "build" <- "assemblyscript/template/build",
                "tsconfig.json" <- "assemblyscript/template/tsconfig.json.txt",
                "PLUGIN_NAME.ts" <- "assemblyscript/examples/filter.ts",
                "rowmill.ts" <- "assemblyscript/rowmill.ts",
            ],
            Self::Go => files![
                "build" <- "go/template/build",
                "go.mod" <- "go/template/go.mod.txt",
                "main.go" <- "go/examples/filter/main.go",
                "rowmill/rowmill.go" <- "go/rowmill/rowmill.go",
                "rowmill/host_other.go" <- "go/rowmill/host_other.go",
                "rowmill/host_wasip1.go" <- "go/rowmill/host_wasip1.go",
            ],
            Self::Js => files![
                "build" <- "js/template/build",
                "jsconfig.json" <- "js/template/jsconfig.json.txt",
                "PLUGIN_NAME.js" <- "js/examples/filter.js",
                "rowmill.js" <- "js/rowmill.js",
                "rowmill.d.ts" <- "js/rowmill.d.ts",
                "wit/transform.wit" <- "../wit/transform.wit",
            ],
            Self::Ts => files![
                "build" <- "ts/template/build",
                "tsconfig.json" <- "ts/template/tsconfig.json.txt",
                "PLUGIN_NAME.ts" <- "ts/examples/filter.ts",
                "rowmill.js" <- "js/rowmill.js",
                "rowmill.d.ts" <- "js/rowmill.d.ts",
                "wit/transform.wit" <- "../wit/transform.wit",
            ],
            Self::Python => files![
                "build" <- "python/template/build",
                "app.py" <- "python/examples/filter.py",
                "rowmill.py" <- "python/rowmill.py",
                "wit/transform.wit" <- "../wit/transform.wit",
            ],
        }
    }
}

/// Creates a project in a new directory. Returns a text with the next steps.
///
/// # Errors
/// If the name is invalid, the directory exists, or a file cannot be written.
pub fn new(directory: &Path, language: Language) -> anyhow::Result<String> {
    let name = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !is_name || directory.components().any(|part| part == Component::ParentDir) {
        bail!("`{}` is not a valid plugin name; use lower-case letters, digits and `-`", directory.display());
    }
    if directory.exists() {
        bail!("{} already exists", directory.display());
    }
    for File { path, text } in language.files().iter().chain(COMMON) {
        let to = directory.join(path.replace("PLUGIN_NAME", name));
        let write = || {
            std::fs::create_dir_all(to.parent().unwrap_or(directory))?;
            // Only templates contain the placeholders.
            let text = text.replace("PLUGIN_COMPILER\n", language.compiler_steps()).replace("PLUGIN_NAME", name);
            std::fs::write(&to, text)?;
            if *path == "build" {
                std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
            }
            Ok::<_, std::io::Error>(())
        };
        write().with_context(|| format!("cannot write {}", to.display()))?;
    }
    let shown = directory.display();
    Ok(format!(
        "created {shown}; next:\n  rowmill plugin build {shown}\n  rowmill plugin test {shown}\n  cp {shown}/{name}.wasm \
         PLUGINS_DIRECTORY/\n"
    ))
}

/// Runs a project's script `build`.
///
/// # Errors
/// If the project has no such script, or the script fails.
pub fn build(directory: &Path) -> anyhow::Result<()> {
    let script = directory.join("build");
    let script = std::path::absolute(&script).unwrap_or(script);
    if !script.is_file() {
        bail!("{} has no script `build`; name the directory of a plugin's project", directory.display());
    }
    let status = Command::new(&script)
        .current_dir(directory)
        .status()
        .with_context(|| format!("cannot run {}", script.display()))?;
    if !status.success() {
        bail!("{} failed: {status}", script.display());
    }
    Ok(())
}
