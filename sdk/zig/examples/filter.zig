//! Keeps orders that became paid; drops all other changes of orders.
const rm = @import("rowmill.zig");

const Filter = struct {
    pub fn table(t: *const rm.Table) rm.Interest {
        t.want("status");
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) void {
        if (r.changedTo("status", "paid")) r.keep();
    }
};

comptime {
    rm.transform(Filter);
}
