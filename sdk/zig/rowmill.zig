//! Write Rowmill transforms in Zig: this file is all there is.
//!
//! ```zig
//! const rm = @import("rowmill.zig");
//!
//! const Filter = struct {
//!     pub fn table(t: *const rm.Table) rm.Interest {
//!         return if (t.is("shop", "orders")) .all else .pass;
//!     }
//!     pub fn row(r: *rm.Row) void {
//!         if (r.changedTo("status", "paid")) r.keep();
//!     }
//! };
//! comptime {
//!     rm.transform(Filter);
//! }
//! ```
//!
//! A row that is neither kept nor failed is dropped. A `pub fn configure(settings: []const u8) ?[]const u8` is
//! called once with the settings, as JSON; what it returns (but null) stops the engine's start.
//!
//!     zig build-exe -target wasm32-freestanding -O ReleaseSmall -fno-entry -rdynamic NAME.zig
//!
//! The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md.
const std = @import("std");

pub const allocator = std.heap.wasm_allocator;

pub const Kind = enum(u32) { int, uint, float, decimal, text, bytes, json, date, time, datetime, timestamp, year, bit, @"enum", set, geometry, vector };
pub const Interest = enum(u32) { pass, drop, all };
pub const Operation = enum(u8) { insert = 1, update, delete };
pub const Level = enum(u32) { err, warn, info, debug, trace };
/// What a row image has of a column.
pub const Cell = union(enum) { absent, null, value: []const u8, changes: []const u8 };

pub const Column = struct { name: []const u8, mysql_type: []const u8, kind: Kind, nullable: bool, key: bool, wanted: bool = false };

/// Once very many tables have come and gone, another may take its place: don't keep its address by yourself.
pub const Table = struct {
    id: u32,
    schema: []const u8,
    name: []const u8,
    columns: []Column,
    interest: Interest = .all,
    /// Whether only columns that are wanted are there.
    narrow: bool = false,

    pub fn is(self: *const Table, schema: []const u8, name: []const u8) bool {
        return std.mem.eql(u8, self.schema, schema) and std.mem.eql(u8, self.name, name);
    }

    /// The index of the column of this name.
    pub fn column(self: *const Table, name: []const u8) ?usize {
        for (self.columns, 0..) |c, index| {
            if (std.mem.eql(u8, c.name, name)) {
                if (self.narrow and !c.wanted) unwanted(name);
                return index;
            }
        }
        return null;
    }

    /// Of the table's rows the transform uses this column, and those of which it says the same. The engine needn't
    /// decode the others to ask about a row; without a call it uses all.
    pub fn want(self: *const Table, name: []const u8) void {
        if (self.column(name)) |index| self.columns[index].wanted = true;
    }

    /// Of a column that it didn't want it would read what isn't so.
    fn unwanted(name: []const u8) noreturn {
        @branchHint(.cold);
        const message = std.fmt.allocPrint(allocator, "the transform uses the column `{s}`, which isn't among those that it wants", .{name});
        fatal(message catch "the transform uses a column that it didn't want");
    }
};

pub const Message = struct {
    body: []const u8,
    group: []const u8 = "",
    deduplication_id: []const u8 = "",
    /// By default the one that the routes give.
    sink: ?[]const u8 = null,
};

pub const Row = struct {
    table: *const Table,
    operation: Operation,
    /// Images, as they are packed.
    before: ?[*]const u8,
    after: ?[*]const u8,
    /// When the statement ran, in microseconds since 1970.
    time_us: i64,
    index: u32,

    fn cellIn(self: *const Row, image: ?[*]const u8, name: []const u8) Cell {
        const at = image orelse return .absent;
        const index = self.table.column(name) orelse return .absent;
        const columns = self.table.columns.len;
        const states = (((columns + 3) / 4) + 3) & ~@as(usize, 3);
        const state = (at[4 + index / 4] >> @intCast(index % 4 * 2)) & 3;
        if (state == 0) return .absent;
        if (state == 1) return .null;
        const ends = at + 4 + states;
        const data = ends + 4 * columns;
        const from = if (index == 0) 0 else word(ends + 4 * (index - 1));
        const value = data[from..word(ends + 4 * index)];
        return if (state == 2) .{ .value = value } else .{ .changes = value };
    }

    /// A column as it is now; of a deleted row as it was.
    pub fn cell(self: *const Row, name: []const u8) Cell {
        return self.cellIn(self.after orelse self.before, name);
    }

    /// A column as it was before an update or a delete.
    pub fn cellBefore(self: *const Row, name: []const u8) Cell {
        return self.cellIn(self.before, name);
    }

    /// A column's text (or bytes); null for NULL.
    pub fn text(self: *const Row, name: []const u8) ?[]const u8 {
        return switch (self.cell(name)) {
            .value => |value| value,
            else => null,
        };
    }

    /// An integer column.
    pub fn int(self: *const Row, name: []const u8) ?i64 {
        const value = self.text(name) orelse return null;
        if (value.len != 8) return null;
        return std.mem.readInt(i64, value[0..8], .little);
    }

    /// Whether a text column is this now and wasn't before.
    pub fn changedTo(self: *const Row, name: []const u8, wanted: []const u8) bool {
        const isIt = struct {
            fn f(c: Cell, w: []const u8) bool {
                return switch (c) {
                    .value => |value| std.mem.eql(u8, value, w),
                    else => false,
                };
            }
        }.f;
        return self.operation != .delete and isIt(self.cell(name), wanted) and !isIt(self.cellBefore(name), wanted);
    }

    /// The row stays.
    pub fn keep(self: *Row) void {
        put(&out.keep, &.{self.index});
    }

    /// The row stays, and goes to this sink (null: as the routes say) in this group ("": as the routes say).
    pub fn keepTo(self: *Row, sink_name: ?[]const u8, group: []const u8) void {
        self.keep();
        put(&out.reroutes, &.{ self.index, sink(sink_name), len(group) });
        add(&out.reroute_text, group);
    }

    /// A column of a kept row that has an `after` gets another value there: text, or 8 bytes for a number.
    pub fn set(self: *Row, name: []const u8, value: ?[]const u8) void {
        if (self.after != null) self.edit(1, name, value);
    }

    /// The same wherever it has a value, in the row as it is now and as it was: what must not get out is hidden by this.
    pub fn replace(self: *Row, name: []const u8, value: ?[]const u8) void {
        for ([_]?[*]const u8{ self.before, self.after }, 0..) |image, number| {
            switch (self.cellIn(image, name)) {
                .absent, .null => {},
                else => self.edit(@intCast(number), name, value),
            }
        }
    }

    fn edit(self: *Row, image: u32, name: []const u8, value: ?[]const u8) void {
        const index = self.table.column(name) orelse return;
        put(&out.edits, &.{ self.index, image, @intCast(index), if (value == null) 1 else 2, len(value orelse "") });
        add(&out.edit_text, value orelse "");
    }

    /// A message is made of the row.
    pub fn emit(self: *Row, message: Message) void {
        put(&out.emits, &.{ self.index, sink(message.sink), len(message.group), len(message.deduplication_id), len(message.body) });
        add(&out.emit_text, message.group);
        add(&out.emit_text, message.deduplication_id);
        add(&out.emit_text, message.body);
    }

    /// The row can't be processed; the plugin's `on_error` says what becomes of it.
    pub fn fail(self: *Row, message: []const u8) void {
        put(&out.fails, &.{ self.index, len(message) });
        add(&out.fail_text, message);
    }
};

/// Text that grows, with what JSON needs.
pub const Buffer = struct {
    bytes: std.ArrayList(u8) = .empty,

    pub fn clear(self: *Buffer) void {
        self.bytes.clearRetainingCapacity();
    }
    pub fn slice(self: *const Buffer) []const u8 {
        return self.bytes.items;
    }
    pub fn put(self: *Buffer, text: []const u8) void {
        add(&self.bytes, text);
    }
    /// An integer; `null` without one.
    pub fn int(self: *Buffer, number: ?i64) void {
        var digits: [24]u8 = undefined;
        self.put(if (number) |n| std.fmt.bufPrint(&digits, "{d}", .{n}) catch unreachable else "null");
    }
    /// A JSON string with its quotes; `null` without one. What SQS refuses is escaped.
    pub fn json(self: *Buffer, value: ?[]const u8) void {
        const text = value orelse return self.put("null");
        self.put("\"");
        var from: usize = 0;
        var i: usize = 0;
        while (i < text.len) : (i += 1) {
            const c = text[i];
            const refused = c == 0xef and i + 2 < text.len and text[i + 1] == 0xbf and text[i + 2] >= 0xbe;
            if (c >= 0x20 and c != '"' and c != '\\' and !refused) continue;
            self.put(text[from..i]);
            if (refused) {
                self.put(if (text[i + 2] == 0xbe) "\\ufffe" else "\\uffff");
                i += 2;
            } else if (c < 0x20) {
                var escape: [6]u8 = undefined;
                self.put(std.fmt.bufPrint(&escape, "\\u{x:0>4}", .{c}) catch unreachable);
            } else {
                self.put(&.{ '\\', c });
            }
            from = i + 1;
        }
        self.put(text[from..]);
        self.put("\"");
    }
};

const Words = std.ArrayList(u32);
const Bytes = std.ArrayList(u8);
var out: struct {
    keep: Words = .empty,
    reroutes: Words = .empty,
    edits: Words = .empty,
    emits: Words = .empty,
    fails: Words = .empty,
    reroute_text: Bytes = .empty,
    edit_text: Bytes = .empty,
    emit_text: Bytes = .empty,
    fail_text: Bytes = .empty,
} = .{};
var input: []align(8) u8 = &.{};
var answer: Bytes = .empty;
var tables: std.ArrayList(?*Table) = .empty;

const host = struct {
    extern "rowmill" fn sink(at: [*]const u8, len: u32) u32;
    extern "rowmill" fn log(level: u32, at: [*]const u8, len: u32) void;
    extern "rowmill" fn count(at: [*]const u8, len: u32, n: u64) void;
};

/// A line in the engine's log.
pub fn log(level: Level, message: []const u8) void {
    host.log(@intFromEnum(level), message.ptr, len(message));
}

/// Adds to a counter of the plugin's own.
pub fn count(counter: []const u8, n: u64) void {
    host.count(counter.ptr, len(counter), n);
}

fn fatal(message: []const u8) noreturn {
    log(.err, message);
    @trap();
}

fn len(text: []const u8) u32 {
    return @intCast(text.len);
}

fn word(at: [*]const u8) u32 {
    return std.mem.readInt(u32, at[0..4], .little);
}

fn put(list: *Words, words: []const u32) void {
    list.appendSlice(allocator, words) catch fatal("out of memory");
}

fn add(list: *Bytes, text: []const u8) void {
    list.appendSlice(allocator, text) catch fatal("out of memory");
}

fn sink(name: ?[]const u8) u32 {
    const routed = std.math.maxInt(u32);
    const text = name orelse return routed;
    const number = host.sink(text.ptr, len(text));
    if (number == routed) fatal("the configuration has no sink of a name that this transform sends to");
    return number;
}

fn answered() u64 {
    return @as(u64, @intFromPtr(answer.items.ptr)) << 32 | answer.items.len;
}

fn addWords(words: []const u32) void {
    add(&answer, std.mem.sliceAsBytes(words));
}

/// Makes a struct with `table` and `row` the module's transform.
pub fn transform(comptime T: type) void {
    const Exports = struct {
        fn alloc(size: u32) callconv(.c) [*]u8 {
            if (input.len < size) {
                allocator.free(input);
                input = allocator.alignedAlloc(u8, .@"8", @as(usize, size) * 2) catch fatal("out of memory");
            }
            return input.ptr;
        }

        fn configure(at: [*]const u8, size: u32) callconv(.c) u64 {
            const fault: ?[]const u8 = if (@hasDecl(T, "configure")) T.configure(at[0..size]) else null;
            answer.clearRetainingCapacity();
            addWords(&.{if (fault == null) 0 else 1});
            add(&answer, fault orelse "");
            return answered();
        }

        fn describe(at: [*]const u8, _: u32) callconv(.c) u64 {
            var rest = at + 8;
            const t = allocator.create(Table) catch fatal("out of memory");
            t.* = .{ .id = word(at), .schema = copied(&rest), .name = copied(&rest), .columns = undefined };
            t.columns = allocator.alloc(Column, word(at + 4)) catch fatal("out of memory");
            for (t.columns) |*c| {
                const flags = word(rest + 4);
                const kind: Kind = @enumFromInt(word(rest));
                rest += 8;
                c.* = .{ .kind = kind, .nullable = flags & 1 != 0, .key = flags & 2 != 0, .name = copied(&rest), .mysql_type = copied(&rest) };
            }
            while (tables.items.len <= t.id) tables.append(allocator, null) catch fatal("out of memory");
            // An id is given to another table once very many came and went: that one takes the place of the first.
            if (tables.items[t.id]) |old| forget(old);
            tables.items[t.id] = t;
            t.interest = T.table(t);
            var wanted: u32 = 0;
            for (t.columns) |c| wanted += @intFromBool(c.wanted);
            t.narrow = t.interest == .all and wanted > 0;
            answer.clearRetainingCapacity();
            if (!t.narrow) {
                addWords(&.{ 0, @intFromEnum(t.interest) });
                return answered();
            }
            // 3: some columns; of rows as they were and as they are, inserts, updates and deletes
            addWords(&.{ 0, 3, 15, wanted });
            for (t.columns, 0..) |c, index| {
                if (c.wanted) addWords(&.{@intCast(index)});
            }
            return answered();
        }

        fn process(batch: [*]const u8, _: u32) callconv(.c) u64 {
            const lists = [_]*Words{ &out.keep, &out.reroutes, &out.edits, &out.emits, &out.fails };
            const texts = [_]*Bytes{ &out.reroute_text, &out.edit_text, &out.emit_text, &out.fail_text };
            for (lists) |list| list.clearRetainingCapacity();
            for (texts) |text| text.clearRetainingCapacity();
            const offsets = batch + word(batch + 8);
            for (0..word(batch + 4)) |i| {
                const at = batch + word(offsets + 4 * i);
                const first = at + 40;
                const operation: Operation = @enumFromInt(at[4]);
                var r: Row = .{
                    .table = tables.items[word(at)] orelse fatal("a table that was never described"),
                    .operation = operation,
                    .before = if (operation == .insert) null else first,
                    .after = switch (operation) {
                        .insert => first,
                        .update => first + word(first),
                        .delete => null,
                    },
                    .time_us = std.mem.readInt(i64, at[32..40], .little),
                    .index = @intCast(i),
                };
                switch (r.table.interest) {
                    .pass => r.keep(),
                    .drop => {},
                    .all => T.row(&r),
                }
            }
            var arena: u32 = 0;
            for (texts) |text| arena += len(text.items);
            answer.clearRetainingCapacity();
            const counts = [_]usize{ 0, out.keep.items.len, out.reroutes.items.len / 3, out.edits.items.len / 5, out.emits.items.len / 5, 0, out.fails.items.len / 2, arena };
            for (counts) |n| addWords(&.{@intCast(n)});
            for (lists) |list| addWords(list.items);
            for (texts) |text| add(&answer, text.items);
            return answered();
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
