//! Counts new orders by their status, and makes a message of each count. Its .toml says `instances = 1`.
const std = @import("std");
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Count = struct {
    var counts: std.StringHashMapUnmanaged(u64) = .empty;
    var body: rm.Buffer = .{};

    pub fn table(t: *rm.Table) rm.Interest {
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) !void {
        if (r.operation != .insert) return;
        const status = try r.text("status") orelse
            return r.failFmt("order {?d} has no status", .{try r.int("id")});
        const count = try counts.getOrPut(rm.allocator, status);
        if (!count.found_existing) {
            count.key_ptr.* = try rm.allocator.dupe(u8, status);
            count.value_ptr.* = 0;
        }
        count.value_ptr.* += 1;
        body.clear();
        body.put("{\"status\":");
        body.json(status);
        body.print(",\"count\":{d}}}", .{count.value_ptr.*});
        r.emit(.{ .body = body.slice(), .group = status });
    }
};

comptime {
    rm.transform(Count);
}
