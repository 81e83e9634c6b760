//! The bindings generated from the WIT world, and the conversion of a table to the world's type.

use rowmill_core::batch::{Kind, Table};

mod generated {
    #![allow(missing_docs)]
    wasmtime::component::bindgen!({ path: "../wit", world: "transform" });
}

pub(in crate::transform) use generated::rowmill::transform::{host, outcome, query, types};
pub(in crate::transform) use generated::{Failure, Transform, TransformPre};

pub(in crate::transform) const INTERFACE: &str = "rowmill:transform/";
pub(in crate::transform) const VERSION: &str = "0.1.0";

pub(super) fn wit_table(table: &Table) -> types::Table {
    types::Table {
        id: table.id.0,
        schema: table.schema.clone(),
        name: table.name.clone(),
        columns: table
            .columns
            .iter()
            .map(|column| types::Column {
                name: column.name.clone(),
                kind: wit_kind(column.kind),
                mysql_type: column.mysql_type.clone(),
                nullable: column.nullable,
                key: column.key,
            })
            .collect(),
    }
}

fn wit_kind(kind: Kind) -> types::Kind {
    match kind {
        Kind::Int => types::Kind::Int,
        Kind::Uint => types::Kind::Uint,
        Kind::Float => types::Kind::Float,
        Kind::Decimal => types::Kind::Decimal,
        Kind::Text => types::Kind::Text,
        Kind::Bytes => types::Kind::Bytes,
        Kind::Json => types::Kind::Json,
        Kind::Date => types::Kind::Date,
        Kind::Time => types::Kind::Time,
        Kind::Datetime => types::Kind::Datetime,
        Kind::Timestamp => types::Kind::Timestamp,
        Kind::Year => types::Kind::Year,
        Kind::Bit => types::Kind::Bit,
        Kind::Enum => types::Kind::Enum,
        Kind::Set => types::Kind::Set,
        Kind::Geometry => types::Kind::Geometry,
        Kind::Vector => types::Kind::Vector,
    }
}
