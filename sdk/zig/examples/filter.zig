//! Keeps orders that became paid; drops all other changes of orders.
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Filter = struct {
    pub fn table(t: *rm.Table) rm.Interest {
        if (!t.is("shop", "orders")) return .pass;
        t.want("status");
        return .all;
    }

    pub fn row(r: *rm.Row) !void {
        if (try r.changedTo("status", "paid")) r.keep();
    }
};

comptime {
    rm.transform(Filter);
}
