//! Keeps orders that became paid, by typed rows.
const std = @import("std");
const rm = @import("rowmill.zig");
const rows = @import("rows.zig");
pub const panic = rm.panic;

const Filter = struct {
    pub fn table(t: *rm.Table) rm.Interest {
        return if (rows.Orders.table(t)) .all else .pass;
    }

    pub fn row(r: *rm.Row) !void {
        const order = try rows.Orders.of(r);
        const status = try order.status() orelse return;
        if (status == .new) {
            const id: i64 = try order.id();
            const customer: ?u64 = try order.customer();
            const rating: ?f64 = try order.rating();
            const total: ?[]const u8 = try order.total();
            if (id != 1 or customer != 7 or rating != null or !std.mem.eql(u8, total.?, "9.50")) return r.fail("not the row");
        }
        if (r.before().has(rows.OrdersColumns.status)) {
            if (try order.before().?.status() == status) return;
        }
        if (status == .paid and try r.changedTo(rows.OrdersColumns.status, status.text())) r.keep();
    }
};

comptime {
    rm.transform(Filter);
}
