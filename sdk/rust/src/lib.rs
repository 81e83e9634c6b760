//! Write Rowmill transforms in Rust.
//!
//! A transform is asked about each row change: keep it, drop it, change it, send it elsewhere, or
//! make messages of it. This one keeps orders that became paid, and sends them to another queue:
//!
//! ```ignore
//! use rowmill_sdk::{Failure, Interest, Outcome, Row, Table, Transform, export};
//!
//! #[derive(Default)]
//! struct PaidOrders;
//!
//! impl Transform for PaidOrders {
//!     fn interest(&mut self, table: &Table) -> Interest {
//!         Interest::only(table.is("shop.orders")).columns(&["status"])
//!     }
//!     fn sinks(&self) -> &'static [&'static str] {
//!         &["order-management"]
//!     }
//!     fn row(&mut self, row: &Row) -> Result<Outcome, Failure> {
//!         Ok(if row.changed_to("status", "paid")? { row.keep().to("order-management") } else { row.drop() })
//!     }
//! }
//! export!(PaidOrders);
//! ```
//!
//! Build it as a `cdylib` with `cargo build --release --target wasm32-unknown-unknown` and copy the
//! `.wasm` file into the plugins directory. Rows are read in place: nothing is copied for a column
//! that the transform doesn't ask for. A column that the table does not have, or that is of another kind than the transform
//! reads, is an error of the row, never an empty value.

mod error;
pub mod json;
mod out;
mod outcome;
mod recipe;
mod row;
#[doc(hidden)]
pub mod runtime;
mod table;
mod view;

pub use error::{ColumnError, Failure};
pub use outcome::{Message, Outcome};
pub use recipe::{Condition, Recipe};
pub use row::Row;
pub use rowmill_batch::{Cell, Column, Kind, Operation, RowHeader, TransactionHeader};
pub use table::Table;
pub use view::View;

use bindings::rowmill::transform::host;

#[doc(hidden)]
#[allow(missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "transform",
        pub_export_macro: true,
        export_macro_name: "export_transform",
        default_bindings_module: "rowmill_sdk::bindings",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// What a transform does; see the crate's description.
pub trait Transform: Default {
    /// Takes the `[settings]` of the plugin's `.toml`, as JSON (`{}` where there are none).
    ///
    /// # Errors
    /// Whatever it says stops the engine's start, with the plugin's name.
    fn configure(&mut self, settings: &str) -> Result<(), String> {
        let _ = settings;
        Ok(())
    }

    /// Returns the names of the sinks that the transform uses. The engine's start and `rowmill check` then report one that the
    /// configuration lacks; a sink that is not declared is looked up for its first row.
    fn sinks(&self) -> &'static [&'static str] {
        &[]
    }

    /// Which rows of a table the transform decides on. Called for each table version before its first rows, and maybe again
    /// later: it must always say the same of a table.
    fn interest(&mut self, table: &Table) -> Interest {
        let _ = table;
        Interest::All
    }

    /// Decides on a row.
    ///
    /// # Errors
    /// The row cannot be processed, and the plugin's `on_error` says what is done with it: [`Failure::reject`], or an error of
    /// any type by `?`. [`Failure::retry`] has the rows tried again.
    fn row(&mut self, row: &Row<'_>) -> Result<Outcome, Failure>;
}

/// Which rows of a table a transform decides on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// On none: they pass on untouched.
    Pass,
    /// On none: they are dropped.
    Drop,
    /// On all.
    All,
    /// On all, and it declares that it uses these columns alone: the others may be absent, and to use one is an error of the
    /// row. A column that the table does not have is an error of the table's rows.
    Columns(&'static [&'static str]),
}

impl Interest {
    /// All rows if `wanted`; else they pass on untouched.
    pub fn only(wanted: bool) -> Self {
        if wanted { Self::All } else { Self::Pass }
    }

    /// Of the rows that it decides on the transform uses these columns alone. The engine needn't decode the others to ask
    /// about a row.
    pub fn columns(self, columns: &'static [&'static str]) -> Self {
        if self == Self::All { Self::Columns(columns) } else { self }
    }
}

pub use bindings::rowmill::transform::host::Level;

/// Writes a line to the engine's log, with the plugin's name.
pub fn log(level: Level, message: &str) {
    host::log(level, message);
}

/// Adds to a counter of the plugin's own.
pub fn count(counter: &str, n: u64) {
    host::count(counter, n);
}

/// The time since 1970, if the plugin's `.toml` grants the clock (`[grant] clock = true`).
pub fn now() -> Option<std::time::Duration> {
    host::now().map(std::time::Duration::from_micros)
}

/// An environment variable, if it is set and the plugin's `.toml` grants it (`[grant] env = [...]`).
pub fn env(name: &str) -> Option<String> {
    host::env(name)
}

/// From now on a panic writes its message and place to the engine's log, and to the error of its row.
#[doc(hidden)]
pub fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("panicked");
        let place = panic.location().map_or_else(String::new, |place| format!(" ({place})"));
        host::log(host::Level::Error, &format!("{message}{place}"));
    }));
}

/// Makes a [`Transform`] the module's own.
#[macro_export]
macro_rules! export {
    ($transform:ty) => {
        const _: () = {
            use $crate::bindings::{Failure, Guest, Interest, Table};
            use $crate::runtime::Runtime;

            ::std::thread_local! {
                static RUNTIME: ::std::cell::RefCell<Runtime<$transform>> = ::std::default::Default::default();
            }

            struct Component;

            impl Guest for Component {
                fn configure(settings: ::std::string::String) -> ::std::result::Result<(), ::std::string::String> {
                    $crate::report_panics();
                    RUNTIME.with_borrow_mut(|runtime| runtime.configure(&settings))
                }
                fn describe(table: Table) -> ::std::result::Result<Interest, ::std::string::String> {
                    RUNTIME.with_borrow_mut(|runtime| runtime.describe(table))
                }
                fn process(_rows: u32) -> ::std::result::Result<(), Failure> {
                    RUNTIME.with_borrow_mut(|runtime| runtime.process())
                }
            }

    $crate::bindings::export_transform!(Component with_types_in $crate::bindings);
        };
    };
}
