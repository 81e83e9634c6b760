//! Makes a message of each order that became paid, in a group for each customer.
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Paid = struct {
    pub const sinks = .{"order-management"};

    var became_paid: rm.Condition = .{ .text = "changed_to(status, 'paid')" };
    var order_paid: rm.Recipe = .{ .json =
        \\{
        \\  "body": {"event": "order_paid", "order": "{id}", "customer": "{customer}", "total": "{total}"},
        \\  "group": "customer-{customer}",
        \\  "deduplication_id": "paid-{id}",
        \\  "attributes": {"event": "order_paid"}
        \\}
    };

    pub fn table(t: *rm.Table) rm.Interest {
        if (!t.is("shop", "orders")) return .pass;
        inline for (.{ "id", "customer", "status", "total" }) |name| t.want(name);
        return .all;
    }

    pub fn row(r: *rm.Row) !void {
        if (became_paid.holds(r)) r.writeTo(&order_paid, "order-management");
    }
};

comptime {
    rm.transform(Paid);
}
