//! The Rowmill SDK for transforms in Zig, in one file.
//!
//! ```zig
//! const rm = @import("rowmill.zig");
//! pub const panic = rm.panic;
//!
//! const Filter = struct {
//!     pub fn table(t: *rm.Table) rm.Interest {
//!         return if (t.is("shop", "orders")) .all else .pass;
//!     }
//!     pub fn row(r: *rm.Row) !void {
//!         if (try r.changedTo("status", "paid")) r.keep();
//!     }
//! };
//! comptime {
//!     rm.transform(Filter);
//! }
//! ```
//!
//! A row that is neither kept nor failed is dropped. An error that `row` returns is a failure of that row: its edits
//! and messages are discarded, and the plugin's `on_error` decides on it; other rows are not affected. `error.Retry` is
//! a transient failure of the batch. A panic is logged as an error, and traps.
//!
//! An optional `pub fn configure(settings: []const u8) ?[]const u8` is called once, with the settings as JSON. If it
//! returns a message, the plugin does not load.
//!
//! `pub const sinks = .{ "warehouse", "europe" };` declares the sinks that the transform sends to. If the configuration
//! lacks one, the plugin does not load; one that is not declared is looked up for each row.
//!
//! Declarations without `pub` are not seen by the SDK: such a `configure` is not called.
//!
//! The engine can evaluate conditions and write messages itself, as Rowmill's docs/expressions.md says. If `table`
//! declares columns, theirs must be among them:
//!
//! ```zig
//! var paid: rm.Condition = .{ .text = "changed_to(status, 'paid') and total >= 100" };
//! var order: rm.Recipe = .{ .json =
//!     \\{"body": {"id": "{id}", "total": "{total}"}, "group": "customer-{customer}"}
//! };
//! pub fn row(r: *rm.Row) !void {
//!     if (paid.holds(r)) r.write(&order);
//! }
//! ```
//!
//!     zig build-exe -target wasm32-freestanding -O ReleaseSafe -fno-entry -rdynamic NAME.zig
//!
//! ReleaseFast and ReleaseSmall check nothing: there, `(try r.text("note")).?` on NULL is undefined behavior.
//!
//! The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md.
const std = @import("std");

pub const allocator = std.heap.wasm_allocator;

/// Logs the message of a panic as an error, and traps. The root file must declare `pub const panic = rm.panic;`.
pub const panic = std.debug.FullPanic(logPanic);

/// A failure of the row, with a message that the SDK keeps until `row` returns.
pub const Error = error{RowFailed};

pub const Interest = enum(u32) { pass, drop, all };
/// `read`: a row that a snapshot read, which has an after image, as an insert has.
pub const Operation = enum(u8) { insert = 1, update, delete, read };
pub const Level = enum(u32) { err, warn, info, debug, trace };

/// A column's kind, which decides how its values are packed.
pub const Kind = enum(u32) {
    int,
    uint,
    float,
    decimal,
    text,
    bytes,
    json,
    date,
    time,
    datetime,
    timestamp,
    year,
    bit,
    @"enum",
    set,
    geometry,
    vector,

    /// Returns which getters read columns of this kind.
    pub fn form(self: Kind) Form {
        return switch (self) {
            .decimal, .text, .json, .date, .time, .datetime, .timestamp, .@"enum", .set => .text,
            .int, .uint, .year, .bit => .integer,
            .float => .float,
            .bytes, .geometry, .vector => .bytes,
        };
    }
};

/// What a column is read as: by `text`, by `int` and `uint`, by `float`, or by `bytes`.
pub const Form = enum {
    text,
    integer,
    float,
    bytes,

    fn words(self: Form) []const u8 {
        return switch (self) {
            .text => "text",
            .integer => "an integer",
            .float => "a float",
            .bytes => "bytes",
        };
    }
};

/// What a row image has of a column. Values are packed as packed-batch.md says; `changes` are those of a partial JSON
/// update, as JSON text.
pub const Cell = union(enum) {
    absent,
    null,
    value: []const u8,
    changes: []const u8,

    fn eql(self: Cell, other: Cell) bool {
        return switch (self) {
            .absent => other == .absent,
            .null => other == .null,
            .value => |bytes| other == .value and std.mem.eql(u8, bytes, other.value),
            .changes => |bytes| other == .changes and std.mem.eql(u8, bytes, other.changes),
        };
    }
};

pub const Column = struct {
    name: []const u8,
    mysql_type: []const u8,
    kind: Kind,
    nullable: bool,
    /// Whether the column is part of the primary key.
    key: bool,
    declared: bool = false,
};

/// A version of a table. Its address may be given to another table later: do not keep it.
pub const Table = struct {
    id: u32,
    schema: []const u8,
    name: []const u8,
    columns: []Column,
    interest: Interest = .all,
    /// The number of columns that the transform declares; 0: it uses all columns.
    declared: u32 = 0,

    /// Returns whether this is the table's name. Case counts, as it may in MySQL.
    pub fn is(self: *const Table, schema: []const u8, name: []const u8) bool {
        return std.mem.eql(u8, self.schema, schema) and std.mem.eql(u8, self.name, name);
    }

    /// Returns the index of the column of this name, in upper or lower case.
    pub fn column(self: *const Table, name: []const u8) ?usize {
        for (self.columns, 0..) |*c, index| {
            if (std.mem.eql(u8, c.name, name)) return index;
        }
        for (self.columns, 0..) |*c, index| {
            if (isSameName(c.name, name)) return index;
        }
        return null;
    }

    /// Declares that the transform uses this column. Then it may use only the columns that it declares, and the engine
    /// need not decode the others; without a call, it may use all. A column that the table lacks is an error of the
    /// plugin.
    pub fn want(self: *Table, name: []const u8) void {
        add(&declarations, std.mem.asBytes(&len(name)));
        add(&declarations, name);
        self.declared += 1;
        if (self.column(name)) |index| self.columns[index].declared = true;
    }

    /// Returns the index of a column that the transform may use.
    fn find(self: *const Table, name: []const u8) Error!usize {
        const index = self.column(name) orelse
            return failRow("{s}.{s} has no column `{s}`", .{ self.schema, self.name, name });
        if (self.declared > 0 and !self.columns[index].declared)
            return self.failColumn(index, "is not among the columns that the transform declares", .{});
        return index;
    }

    fn check(self: *const Table, index: usize, form: Form) Error!void {
        if (self.columns[index].kind.form() != form) return self.failForm(index, form);
    }

    fn failForm(self: *const Table, index: usize, form: Form) Error {
        const c = &self.columns[index];
        return self.failColumn(index, "is {s}, which is read as {s}, not as {s}", .{
            c.mysql_type, c.kind.form().words(), form.words(),
        });
    }

    fn failColumn(self: *const Table, index: usize, comptime problem: []const u8, args: anytype) Error {
        @branchHint(.cold);
        const subject = .{ self.columns[index].name, self.schema, self.name };
        return failRow("column `{s}` of {s}.{s} " ++ problem, subject ++ args);
    }
};

/// A row as it was before or after the change. Getters return null for NULL. Their error is a failure of the row: the
/// table lacks the column, the transform declares columns but not this one, there is no such image, the image lacks the
/// column, or the column is of another kind. Texts and bytes are valid until `row` returns.
pub const Image = struct {
    table: *const Table,
    /// The packed image.
    at: ?[*]const u8,
    side: Side,

    const Side = enum { before, after };

    /// Returns whether the row has this image.
    pub fn exists(self: Image) bool {
        return self.at != null;
    }

    /// Returns whether the image has the column, which may be NULL. It does not if the table lacks the column, or if
    /// the row does not have this image.
    pub fn has(self: Image, name: []const u8) bool {
        const at = self.at orelse return false;
        const index = self.table.column(name) orelse return false;
        return unpack(at, self.table, index) != .absent;
    }

    /// Reads a column of the kinds decimal, text, json, date, time, datetime, timestamp, enum and set.
    pub fn text(self: Image, name: []const u8) Error!?[]const u8 {
        return self.value(try self.table.find(name), .text);
    }

    /// Reads a column of the kinds int, uint, year and bit. A value that does not fit fails the row.
    pub fn int(self: Image, name: []const u8) Error!?i64 {
        const index = try self.table.find(name);
        const packed_value = try self.value(index, .integer) orelse return null;
        const number = std.mem.readInt(i64, packed_value[0..8], .little);
        if (number < 0 and self.table.columns[index].kind != .int) {
            const unsigned: u64 = @bitCast(number);
            return self.table.failColumn(index, "is {d}, which does not fit a signed integer", .{unsigned});
        }
        return number;
    }

    /// Reads a column of the kinds int, uint, year and bit. A negative value fails the row.
    pub fn uint(self: Image, name: []const u8) Error!?u64 {
        const index = try self.table.find(name);
        const packed_value = try self.value(index, .integer) orelse return null;
        const number = std.mem.readInt(i64, packed_value[0..8], .little);
        if (number < 0 and self.table.columns[index].kind == .int)
            return self.table.failColumn(index, "is {d}, which does not fit an unsigned integer", .{number});
        return @bitCast(number);
    }

    /// Reads a column of the kind float.
    pub fn float(self: Image, name: []const u8) Error!?f64 {
        const packed_value = try self.value(try self.table.find(name), .float) orelse return null;
        return @bitCast(std.mem.readInt(u64, packed_value[0..8], .little));
    }

    /// Reads a column of the kinds bytes, geometry and vector.
    pub fn bytes(self: Image, name: []const u8) Error!?[]const u8 {
        return self.value(try self.table.find(name), .bytes);
    }

    /// Returns what the image has of a column of any kind; it may be absent.
    pub fn cell(self: Image, name: []const u8) Error!Cell {
        const index = try self.table.find(name);
        return unpack(self.at orelse return self.failMissing(), self.table, index);
    }

    fn value(self: Image, index: usize, form: Form) Error!?[]const u8 {
        const at = self.at orelse return self.failMissing();
        try self.table.check(index, form);
        return switch (unpack(at, self.table, index)) {
            .value => |packed_value| packed_value,
            .null => null,
            .absent => self.table.failColumn(index, "is absent from the row's image; ask `has` first", .{}),
            .changes => self.table.failColumn(index, "has only its changes: the update was partial", .{}),
        };
    }

    fn isText(self: Image, index: usize, wanted: []const u8) bool {
        const at = self.at orelse return false;
        return switch (unpack(at, self.table, index)) {
            .value => |string| std.mem.eql(u8, string, wanted),
            .absent, .null, .changes => false,
        };
    }

    fn failMissing(self: Image) Error {
        return failRow("the row has no {s} image", .{@tagName(self.side)});
    }

    fn unpack(at: [*]const u8, table: *const Table, index: usize) Cell {
        const columns = table.columns.len;
        const states = (((columns + 3) / 4) + 3) & ~@as(usize, 3);
        const state = (at[4 + index / 4] >> @intCast(index % 4 * 2)) & 3;
        if (state == 0) return .absent;
        if (state == 1) return .null;
        const ends = at + 4 + states;
        const data = ends + 4 * columns;
        const from = if (index == 0) 0 else word(ends + 4 * (index - 1));
        const packed_value = data[from..word(ends + 4 * index)];
        return if (state == 2) .{ .value = packed_value } else .{ .changes = packed_value };
    }
};

/// The transaction of a row.
pub const Transaction = struct {
    /// The binlog file, and the transaction's position in it.
    file: []const u8,
    position: u64,
    /// null where there is none.
    gtid: ?[]const u8,
    /// The time of the commit, in microseconds since 1970; null where the server does not log it.
    commit_time_us: ?i64,
    /// The server on which the transaction first ran.
    server_id: u32,
    /// The session in which the transaction ran; null where unknown.
    session_id: ?u32,
};

/// A message that is made of a row. An empty group or deduplication ID is the row's own.
pub const Message = struct {
    body: []const u8,
    group: []const u8 = "",
    deduplication_id: []const u8 = "",
    attributes: []const Attribute = &.{},
    /// null: the sink of the row's route.
    sink: ?[]const u8 = null,
};

/// An attribute of a message, of the type String.
pub const Attribute = struct { name: []const u8, value: []const u8 };

/// A condition on rows, a variable outside of functions. An invalid one, and one that makes no sense for a table whose
/// interest is `.all` (begin it with `table() = 'orders' and`), is an error of the batch.
pub const Condition = struct {
    text: []const u8,
    /// The number of the batch from which `rows` are selected.
    batch: u64 = 0,
    /// The indexes of the selected rows, ascending.
    rows: Words = .empty,
    /// The index in `rows` of the first one that is not before the current row.
    next: usize = 0,

    /// Returns whether the condition holds for the row. The engine evaluates it once for all rows of a batch.
    pub fn holds(self: *Condition, row: *const Row) bool {
        if (self.batch != batch_number) self.select(word(row.batch + 4));
        const rows = self.rows.items;
        while (self.next < rows.len and rows[self.next] < row.index) self.next += 1;
        return self.next < rows.len and rows[self.next] == row.index;
    }

    fn select(self: *Condition, batch_rows: u32) void {
        @branchHint(.cold);
        self.rows.resize(allocator, batch_rows) catch fatal("out of memory");
        const selected = host.select(self.text.ptr, len(self.text), self.rows.items.ptr);
        self.rows.shrinkRetainingCapacity(selected);
        self.batch = batch_number;
        self.next = 0;
    }
};

/// The description of messages that the engine writes, a variable outside of functions. A text that is not a recipe is
/// an error of the batch.
pub const Recipe = struct {
    json: []const u8,
    /// The engine's number of the recipe.
    number: u32 = none,

    fn add(self: *Recipe) u32 {
        // An invalid recipe has no number: it is refused at each use.
        if (self.number == none) self.number = host.recipe(self.json.ptr, len(self.json));
        return self.number;
    }
};

/// A row change. Its getters are those of `Image`, for the newest image.
pub const Row = struct {
    table: *const Table,
    operation: Operation,
    /// The time at which the statement ran, in microseconds since 1970.
    time_us: i64,
    /// The row's index in the batch.
    index: u32,
    batch: [*]const u8,
    header: [*]const u8,
    /// The packed images.
    images: [2]?[*]const u8,

    /// Returns the row as it was before an update or a delete. An insert has no such image: its getters fail the row.
    pub fn before(self: *const Row) Image {
        return .{ .table = self.table, .at = self.images[0], .side = .before };
    }

    /// Returns the row as it is after an insert or an update. A delete has no such image: its getters fail the row.
    pub fn after(self: *const Row) Image {
        return .{ .table = self.table, .at = self.images[1], .side = .after };
    }

    /// Returns the row after the change, and a deleted row as it was before: the getters below read this image.
    pub fn newest(self: *const Row) Image {
        return if (self.operation == .delete) self.before() else self.after();
    }

    pub fn has(self: *const Row, name: []const u8) bool {
        return self.newest().has(name);
    }
    pub fn text(self: *const Row, name: []const u8) Error!?[]const u8 {
        return self.newest().text(name);
    }
    pub fn int(self: *const Row, name: []const u8) Error!?i64 {
        return self.newest().int(name);
    }
    pub fn uint(self: *const Row, name: []const u8) Error!?u64 {
        return self.newest().uint(name);
    }
    pub fn float(self: *const Row, name: []const u8) Error!?f64 {
        return self.newest().float(name);
    }
    pub fn bytes(self: *const Row, name: []const u8) Error!?[]const u8 {
        return self.newest().bytes(name);
    }
    pub fn cell(self: *const Row, name: []const u8) Error!Cell {
        return self.newest().cell(name);
    }

    /// Returns whether a column that `text` reads has this value now and did not have it before: true for an insert
    /// with the value and an update to it, false for a delete and a read. A column that is absent after an update was not changed,
    /// and one that is absent before it counts as another value: row images may lack columns (`binlog_row_image`).
    pub fn changedTo(self: *const Row, name: []const u8, wanted: []const u8) Error!bool {
        const index = try self.table.find(name);
        try self.table.check(index, .text);
        if (self.operation == .read) return false;
        return self.after().isText(index, wanted) and !self.before().isText(index, wanted);
    }

    /// Returns whether an update changed a column, of any kind; false for other operations. A column that is
    /// absent after an update (`binlog_row_image`) was not changed.
    pub fn changed(self: *const Row, name: []const u8) Error!bool {
        const index = try self.table.find(name);
        if (self.operation != .update) return false;
        const old = Image.unpack(self.images[0].?, self.table, index);
        const new = Image.unpack(self.images[1].?, self.table, index);
        return new != .absent and !old.eql(new);
    }

    /// Keeps the row.
    pub fn keep(self: *Row) void {
        const kept = out.keep.items;
        if (kept.len == 0 or kept[kept.len - 1] != self.index) put(&out.keep, &.{self.index});
    }

    /// Keeps the row, and sends it to this sink (null: the route's) in this message group ("": the route's).
    pub fn keepTo(self: *Row, sink_name: ?[]const u8, group: []const u8) void {
        self.keep();
        put(&out.reroutes, &.{ self.index, sink(sink_name), len(group) });
        add(&out.reroute_text, group);
    }

    /// Sets a column of the after image, of the kinds that `text` and `bytes` read; to null: of any kind. A deleted row
    /// has no after image, and remains as it is.
    pub fn set(self: *Row, name: []const u8, value: ?[]const u8) Error!void {
        return self.setTo(name, if (value) |v| .{ .text = v } else .null);
    }

    /// The same for the kinds that `int` and `uint` read.
    pub fn setInt(self: *Row, name: []const u8, value: ?i128) Error!void {
        return self.setTo(name, if (value) |v| .{ .integer = v } else .null);
    }

    /// The same for the kind float.
    pub fn setFloat(self: *Row, name: []const u8, value: ?f64) Error!void {
        return self.setTo(name, if (value) |v| .{ .float = v } else .null);
    }

    /// Sets a column in each image where it has a value, that is, is neither NULL nor absent: use it to hide what must
    /// not get out. The kinds are those of `set`.
    pub fn replace(self: *Row, name: []const u8, value: ?[]const u8) Error!void {
        return self.replaceBy(name, if (value) |v| .{ .text = v } else .null);
    }

    /// The same for the kinds that `int` and `uint` read.
    pub fn replaceInt(self: *Row, name: []const u8, value: ?i128) Error!void {
        return self.replaceBy(name, if (value) |v| .{ .integer = v } else .null);
    }

    /// The same for the kind float.
    pub fn replaceFloat(self: *Row, name: []const u8, value: ?f64) Error!void {
        return self.replaceBy(name, if (value) |v| .{ .float = v } else .null);
    }

    const Value = union(enum) { null, text: []const u8, integer: i128, float: f64 };

    fn setTo(self: *Row, name: []const u8, value: Value) Error!void {
        const index = try self.table.find(name);
        var buffer: [8]u8 = undefined;
        const new = try self.pack(index, value, &buffer);
        if (self.images[1] != null) self.edit(1, index, new);
    }

    fn replaceBy(self: *Row, name: []const u8, value: Value) Error!void {
        const index = try self.table.find(name);
        var buffer: [8]u8 = undefined;
        const new = try self.pack(index, value, &buffer);
        for (self.images, 0..) |image, number| {
            switch (Image.unpack(image orelse continue, self.table, index)) {
                .absent, .null => {},
                .value, .changes => self.edit(@intCast(number), index, new),
            }
        }
    }

    /// Returns a value as it is packed for a column; null for NULL.
    fn pack(self: *const Row, index: usize, value: Value, buffer: *[8]u8) Error!?[]const u8 {
        const kind = self.table.columns[index].kind;
        switch (value) {
            .null => return null,
            .text => |string| {
                if (kind.form() != .text and kind.form() != .bytes) return self.table.failForm(index, .text);
                return string;
            },
            .integer => |number| {
                try self.table.check(index, .integer);
                const is_signed = kind == .int;
                const low: i128 = if (is_signed) std.math.minInt(i64) else 0;
                const high: i128 = if (is_signed) std.math.maxInt(i64) else std.math.maxInt(u64);
                if (number < low or number > high) {
                    const sign = if (is_signed) "a signed" else "an unsigned";
                    const problem = "cannot be {d}, which does not fit {s} integer";
                    return self.table.failColumn(index, problem, .{ number, sign });
                }
                std.mem.writeInt(i64, buffer, @truncate(number), .little);
            },
            .float => |number| {
                try self.table.check(index, .float);
                std.mem.writeInt(u64, buffer, @bitCast(number), .little);
            },
        }
        return buffer;
    }

    fn edit(self: *Row, image: u32, index: usize, new: ?[]const u8) void {
        const state: u32 = if (new == null) 1 else 2;
        put(&out.edits, &.{ self.index, image, @intCast(index), state, len(new orelse "") });
        add(&out.edit_text, new orelse "");
    }

    /// Makes a message of the row.
    pub fn emit(self: *Row, message: Message) void {
        const number: u32 = @intCast(out.emits.items.len / 5);
        const group, const id = .{ message.group, message.deduplication_id };
        put(&out.emits, &.{ self.index, sink(message.sink), len(group), len(id), len(message.body) });
        for ([_][]const u8{ group, id, message.body }) |string| add(&out.emit_text, string);
        for (message.attributes) |attribute| {
            put(&out.attributes, &.{ number, len(attribute.name), len(attribute.value) });
            add(&out.attribute_text, attribute.name);
            add(&out.attribute_text, attribute.value);
        }
    }

    /// Lets the engine make the recipe's messages of the row. They follow those of `emit`.
    pub fn write(self: *Row, recipe: *Recipe) void {
        self.writeTo(recipe, null);
    }

    /// The same for this sink (null: the route's).
    pub fn writeTo(self: *Row, recipe: *Recipe, sink_name: ?[]const u8) void {
        put(&out.writes, &.{ self.index, recipe.add(), sink(sink_name) });
    }

    /// Fails the row with this message: `return r.fail("...")`.
    pub fn fail(_: *Row, message: []const u8) Error {
        return failRow("{s}", .{message});
    }

    /// Fails the row with a formatted message: `return r.failFmt("order {?d} is empty", .{id})`.
    pub fn failFmt(_: *Row, comptime format: []const u8, args: anytype) Error {
        return failRow(format, args);
    }

    /// Asks for the whole batch again, after a pause, with this message: `return r.retry("...")`. A batch is tried four
    /// times, then each of its rows by itself.
    pub fn retry(_: *Row, message: []const u8) error{Retry} {
        failure.set(error.Retry, "{s}", .{message});
        return error.Retry;
    }

    /// Returns the position of the row's event in the binlog file.
    pub fn position(self: *const Row) u64 {
        return long(self.header + 24);
    }

    /// Returns the row's index in the binlog event, from 0.
    pub fn indexInEvent(self: *const Row) u32 {
        return word(self.header + 16);
    }

    /// Returns the row's index in the transaction, from 0.
    pub fn indexInTransaction(self: *const Row) u32 {
        return word(self.header + 12);
    }

    pub fn isLastInTransaction(self: *const Row) bool {
        return self.header[5] & 1 != 0;
    }

    pub fn transaction(self: *const Row) Transaction {
        const at = self.batch + word(self.batch + word(self.batch + 16) + 4 * word(self.header + 8));
        const file, const gtid = .{ word(at + 24), word(at + 28) };
        const commit_time_us: i64 = @bitCast(long(at + 8));
        const session_id = word(at + 20);
        return .{
            .file = (at + 32)[0..file],
            .position = long(at),
            .gtid = if (gtid == 0) null else (at + 32 + file)[0..gtid],
            .commit_time_us = if (commit_time_us == 0) null else commit_time_us,
            .server_id = word(at + 16),
            .session_id = if (session_id == 0) null else session_id,
        };
    }
};

/// Text that grows, with functions for JSON.
pub const Buffer = struct {
    bytes: Bytes = .empty,

    pub fn clear(self: *Buffer) void {
        self.bytes.clearRetainingCapacity();
    }
    pub fn slice(self: *const Buffer) []const u8 {
        return self.bytes.items;
    }
    pub fn put(self: *Buffer, text: []const u8) void {
        add(&self.bytes, text);
    }
    pub fn print(self: *Buffer, comptime format: []const u8, args: anytype) void {
        self.bytes.print(allocator, format, args) catch fatal("out of memory");
    }
    /// Appends an integer; `null` without one.
    pub fn int(self: *Buffer, number: ?i64) void {
        const n = number orelse return self.put("null");
        if (n < 0) self.put("-");
        self.uint(@abs(n));
    }
    /// Appends an integer; `null` without one.
    pub fn uint(self: *Buffer, number: ?u64) void {
        var digits: [20]u8 = undefined;
        var from = digits.len;
        var rest = number orelse return self.put("null");
        while (true) {
            from -= 1;
            digits[from] = '0' + @as(u8, @intCast(rest % 10));
            rest /= 10;
            if (rest == 0) break;
        }
        self.put(digits[from..]);
    }
    /// Appends a number, with as few digits as tell it from others; `null` without one, and for infinity and NaN.
    pub fn float(self: *Buffer, number: ?f64) void {
        const n = number orelse return self.put("null");
        if (!std.math.isFinite(n)) return self.put("null");
        const is_plain = n == 0 or (@abs(n) >= 1e-5 and @abs(n) < 1e16);
        if (is_plain) self.print("{d}", .{n}) else self.print("{e}", .{n});
    }
    /// Appends a JSON string with its quotes; `null` without one. What SQS refuses is escaped.
    pub fn json(self: *Buffer, value: ?[]const u8) void {
        const text = value orelse return self.put("null");
        self.put("\"");
        var from: usize = 0;
        for (text, 0..) |c, i| {
            if (c >= 0x20 and c != '"' and c != '\\' and c != 0xef) continue;
            const rest = text[i..];
            const is_refused = std.mem.startsWith(u8, rest, "\u{fffe}") or std.mem.startsWith(u8, rest, "\u{ffff}");
            if (c == 0xef and !is_refused) continue;
            self.put(text[from..i]);
            switch (c) {
                '"', '\\' => self.put(&.{ '\\', c }),
                0xef => self.put(if (rest[2] == 0xbe) "\\ufffe" else "\\uffff"),
                else => self.print("\\u{x:0>4}", .{c}),
            }
            from = if (is_refused) i + 3 else i + 1;
        }
        self.put(text[from..]);
        self.put("\"");
    }
};

/// Writes a line of up to 4 KiB to the engine's log.
pub fn log(level: Level, message: []const u8) void {
    host.log(@intFromEnum(level), message.ptr, len(message));
}

/// Writes a formatted line to the engine's log.
pub fn logFmt(level: Level, comptime format: []const u8, args: anytype) void {
    var line: Buffer = .{};
    defer line.bytes.deinit(allocator);
    line.print(format, args);
    log(level, line.slice());
}

/// Adds to a counter of the plugin.
pub fn count(counter: []const u8, n: u64) void {
    host.count(counter.ptr, len(counter), n);
}

/// Returns the time in microseconds since 1970; null unless the plugin's .toml grants the clock.
pub fn now() ?u64 {
    const time_us = host.now();
    return if (time_us == 0) null else time_us;
}

/// Returns an environment variable; null if it is not set, or the plugin's .toml does not grant it. The value stays
/// valid.
pub fn env(name: []const u8) ?[]const u8 {
    for (variables.items) |variable| {
        if (std.mem.eql(u8, variable.name, name)) return variable.value;
    }
    var value: ?[]u8 = &.{};
    while (value) |room| {
        const size = host.env(name.ptr, len(name), room.ptr, room.len);
        if (size == room.len) break;
        allocator.free(room);
        value = if (size == none) null else allocate(u8, size);
    }
    const copy = allocator.dupe(u8, name) catch fatal("out of memory");
    variables.append(allocator, .{ .name = copy, .value = value }) catch fatal("out of memory");
    return value;
}

const Words = std.ArrayList(u32);
const Bytes = std.ArrayList(u8);

/// The number for no sink, no recipe and no variable.
const none = std.math.maxInt(u32);

/// The verdict on the current batch.
var out: struct {
    keep: Words = .empty,
    reroutes: Words = .empty,
    edits: Words = .empty,
    emits: Words = .empty,
    attributes: Words = .empty,
    writes: Words = .empty,
    fails: Words = .empty,
    reroute_text: Bytes = .empty,
    edit_text: Bytes = .empty,
    emit_text: Bytes = .empty,
    attribute_text: Bytes = .empty,
    fail_text: Bytes = .empty,
} = .{};
/// The number of calls of `process`.
var batch_number: u64 = 0;
var input: []align(8) u8 = &.{};
var answer: Bytes = .empty;
var tables: std.ArrayList(?*Table) = .empty;
/// The names of the columns that are declared in the current call of `table`, packed for the answer.
var declarations: Bytes = .empty;
/// The sinks that the transform declares, and their numbers.
var declared_sinks: std.ArrayList(struct { name: []const u8, number: u32 }) = .empty;
var variables: std.ArrayList(struct { name: []const u8, value: ?[]const u8 }) = .empty;

/// The last error of the current row that has a message.
var failure: struct {
    of: ?anyerror = null,
    message: Buffer = .{},

    fn set(self: *@This(), err: anyerror, comptime format: []const u8, args: anytype) void {
        self.of = err;
        self.message.clear();
        self.message.print(format, args);
    }

    /// Returns the message of the error that `row` returned.
    fn messageOf(self: *const @This(), err: anyerror) []const u8 {
        const of = self.of orelse return @errorName(err);
        return if (of == err) self.message.slice() else @errorName(err);
    }
} = .{};

const host = struct {
    extern "rowmill" fn sink(at: [*]const u8, len: u32) u32;
    extern "rowmill" fn log(level: u32, at: [*]const u8, len: u32) void;
    extern "rowmill" fn count(at: [*]const u8, len: u32, n: u64) void;
    extern "rowmill" fn now() u64;
    extern "rowmill" fn env(at: [*]const u8, len: u32, to: [*]u8, room: u32) u32;
    extern "rowmill" fn recipe(at: [*]const u8, len: u32) u32;
    extern "rowmill" fn select(at: [*]const u8, len: u32, to: [*]u32) u32;
};

fn failRow(comptime format: []const u8, args: anytype) Error {
    @branchHint(.cold);
    failure.set(error.RowFailed, format, args);
    return error.RowFailed;
}

fn logPanic(message: []const u8, _: ?usize) noreturn {
    var line: [4096]u8 = undefined;
    fatal(std.fmt.bufPrint(&line, "panic: {s}", .{message}) catch message);
}

/// Logs an error, which becomes part of the trap's message, and traps.
fn fatal(message: []const u8) noreturn {
    @branchHint(.cold);
    log(.err, message);
    @trap();
}

fn len(text: []const u8) u32 {
    return @intCast(text.len);
}

fn word(at: [*]const u8) u32 {
    return std.mem.readInt(u32, at[0..4], .little);
}

fn long(at: [*]const u8) u64 {
    return std.mem.readInt(u64, at[0..8], .little);
}

fn put(list: *Words, words: []const u32) void {
    list.appendSlice(allocator, words) catch fatal("out of memory");
}

fn add(list: *Bytes, text: []const u8) void {
    list.appendSlice(allocator, text) catch fatal("out of memory");
}

fn allocate(comptime T: type, count_: usize) []T {
    return allocator.alloc(T, count_) catch fatal("out of memory");
}

fn sink(name: ?[]const u8) u32 {
    const text = name orelse return none;
    for (declared_sinks.items) |declared| {
        if (std.mem.eql(u8, declared.name, text)) return declared.number;
    }
    const number = host.sink(text.ptr, len(text));
    if (number == none) {
        logFmt(.err, "the configuration has no sink `{s}`", .{text});
        @trap();
    }
    return number;
}

/// Compares names without regard to case: of ASCII, and of the letters that UTF-8 has in two bytes.
fn isSameName(a: []const u8, b: []const u8) bool {
    if (a.len != b.len) return false;
    var i: usize = 0;
    while (i < a.len) {
        if (i + 1 < a.len and isTwoByteLetter(a[i]) and isTwoByteLetter(b[i])) {
            if (lower(a[i..][0..2]) != lower(b[i..][0..2])) return false;
            i += 2;
        } else {
            if (std.ascii.toLower(a[i]) != std.ascii.toLower(b[i])) return false;
            i += 1;
        }
    }
    return true;
}

/// Returns whether a byte begins a character from U+00C0 to U+053F.
fn isTwoByteLetter(first: u8) bool {
    return first >= 0xc3 and first <= 0xd4;
}

/// Returns a letter of Latin-1, Latin Extended-A, Greek or Cyrillic in lower case, and other characters as they are.
fn lower(bytes: *const [2]u8) u32 {
    const c = @as(u32, bytes[0] & 0x1f) << 6 | (bytes[1] & 0x3f);
    return switch (c) {
        0xd7, 0x130, 0x131, 0x138, 0x149, 0x17f, 0x3a2, 0x482...0x489 => c,
        0xc0...0xd6, 0xd8...0xde, 0x391...0x3a1, 0x3a3...0x3ab, 0x410...0x42f => c + 32,
        0x100...0x12f, 0x132...0x137, 0x14a...0x177 => c | 1,
        0x3d8...0x3ef, 0x460...0x481, 0x48a...0x4bf, 0x4d0...0x52f => c | 1,
        0x139...0x148, 0x179...0x17e, 0x4c1...0x4ce => (c + 1) & ~@as(u32, 1),
        0x178 => 0xff,
        0x386 => 0x3ac,
        0x388...0x38a => c + 37,
        0x38c => 0x3cc,
        0x38e, 0x38f => c + 63,
        0x400...0x40f => c + 80,
        0x4c0 => 0x4cf,
        else => c,
    };
}

fn answered() u64 {
    return @as(u64, @intFromPtr(answer.items.ptr)) << 32 | answer.items.len;
}

fn addWords(words: []const u32) void {
    add(&answer, std.mem.sliceAsBytes(words));
}

/// Makes a struct with `table` and `row` the module's transform.
pub fn transform(comptime T: type) void {
    if (!@hasDecl(@import("root"), "panic"))
        @compileError("declare `pub const panic = rm.panic;` in the root file, so that panics are logged");
    const Exports = struct {
        fn alloc(size: u32) callconv(.c) [*]u8 {
            if (input.len < size) {
                allocator.free(input);
                input = allocator.alignedAlloc(u8, .@"8", @as(usize, size) * 2) catch fatal("out of memory");
            }
            return input.ptr;
        }

        fn configure(at: [*]const u8, size: u32) callconv(.c) u64 {
            const fault = declareSinks() orelse if (@hasDecl(T, "configure")) T.configure(at[0..size]) else null;
            answer.clearRetainingCapacity();
            addWords(&.{if (fault == null) 0 else 1});
            add(&answer, fault orelse "");
            return answered();
        }

        /// Looks the declared sinks up. Returns a message if the configuration lacks one.
        fn declareSinks() ?[]const u8 {
            if (!@hasDecl(T, "sinks")) return null;
            inline for (T.sinks) |name| {
                const number = host.sink(name.ptr, len(name));
                if (number == none)
                    return "the configuration has no sink `" ++ name ++ "`, which the transform declares";
                declared_sinks.append(allocator, .{ .name = name, .number = number }) catch fatal("out of memory");
            }
            return null;
        }

        fn describe(at: [*]const u8, _: u32) callconv(.c) u64 {
            var rest = at + 8;
            const t = &allocate(Table, 1)[0];
            t.* = .{ .id = word(at), .schema = copied(&rest), .name = copied(&rest), .columns = undefined };
            t.columns = allocate(Column, word(at + 4));
            for (t.columns) |*c| {
                const flags = word(rest + 4);
                const kind: Kind = @enumFromInt(word(rest));
                rest += 8;
                c.* = .{
                    .kind = kind,
                    .nullable = flags & 1 != 0,
                    .key = flags & 2 != 0,
                    .name = copied(&rest),
                    .mysql_type = copied(&rest),
                };
            }
            while (tables.items.len <= t.id) tables.append(allocator, null) catch fatal("out of memory");
            // The engine gives an ID to another table after very many tables have come and gone.
            if (tables.items[t.id]) |old| forget(old);
            tables.items[t.id] = t;
            declarations.clearRetainingCapacity();
            t.interest = T.table(t);
            answer.clearRetainingCapacity();
            if (t.interest != .all or t.declared == 0) {
                addWords(&.{ 0, @intFromEnum(t.interest) });
                return answered();
            }
            // 3: certain columns; 15: before images, inserts, updates and deletes.
            addWords(&.{ 0, 3, 15, t.declared });
            add(&answer, declarations.items);
            return answered();
        }

        fn process(batch: [*]const u8, _: u32) callconv(.c) u64 {
            const lists = [_]*Words{
                &out.keep, &out.reroutes, &out.edits, &out.emits, &out.attributes, &out.writes, &out.fails,
            };
            const texts = [_]*Bytes{
                &out.reroute_text, &out.edit_text, &out.emit_text, &out.attribute_text, &out.fail_text,
            };
            for (lists) |list| list.clearRetainingCapacity();
            for (texts) |text| text.clearRetainingCapacity();
            batch_number += 1;
            const offsets = batch + word(batch + 8);
            for (0..word(batch + 4)) |i| {
                const at = batch + word(offsets + 4 * i);
                const first = at + 40;
                const operation: Operation = @enumFromInt(at[4]);
                // Rows of tables that the plugin's .toml excludes are in the batch as well, and were never described.
                if (word(at) >= tables.items.len) continue;
                var r: Row = .{
                    .table = tables.items[word(at)] orelse continue,
                    .operation = operation,
                    .time_us = @bitCast(long(at + 32)),
                    .index = @intCast(i),
                    .batch = batch,
                    .header = at,
                    .images = switch (operation) {
                        .insert, .read => .{ null, first },
                        .update => .{ first, first + word(first) },
                        .delete => .{ first, null },
                    },
                };
                switch (r.table.interest) {
                    .pass => r.keep(),
                    .drop => {},
                    .all => decide(&r) catch |err| {
                        const message = failure.messageOf(err);
                        if (err == error.Retry) {
                            answer.clearRetainingCapacity();
                            addWords(&.{2});
                            add(&answer, message);
                            return answered();
                        }
                        put(&out.fails, &.{ r.index, len(message) });
                        add(&out.fail_text, message);
                    },
                }
            }
            var arena: u32 = 0;
            for (texts) |text| arena += len(text.items);
            answer.clearRetainingCapacity();
            addWords(&.{0});
            for (lists, [_]u32{ 1, 3, 5, 5, 3, 3, 2 }) |list, size| addWords(&.{@intCast(list.items.len / size)});
            addWords(&.{arena});
            for (lists) |list| addWords(list.items);
            for (texts) |text| add(&answer, text.items);
            return answered();
        }

        fn decide(r: *Row) anyerror!void {
            failure.of = null;
            return T.row(r);
        }

        fn forget(t: *Table) void {
            for (t.columns) |c| {
                allocator.free(c.name);
                allocator.free(c.mysql_type);
            }
            allocator.free(t.columns);
            allocator.free(t.schema);
            allocator.free(t.name);
            allocator.destroy(t);
        }

        fn copied(rest: *[*]const u8) []const u8 {
            const size = word(rest.*);
            const text = (rest.* + 4)[0..size];
            rest.* += 4 + size;
            return allocator.dupe(u8, text) catch fatal("out of memory");
        }
    };
    @export(&Exports.alloc, .{ .name = "rowmill_alloc" });
    @export(&Exports.configure, .{ .name = "rowmill_configure" });
    @export(&Exports.describe, .{ .name = "rowmill_describe" });
    @export(&Exports.process, .{ .name = "rowmill_process" });
}
