//! Makes a message of each line of a new order.
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Split = struct {
    var order_line: rm.Recipe = .{ .json =
        \\{
        \\  "for_each": "lines",
        \\  "body": {
        \\    "order": "{id}",
        \\    "line": "{item_number()}",
        \\    "sku": "{item()->'$.sku'}",
        \\    "quantity": "{item()->'$.quantity'}"
        \\  },
        \\  "group": "order-{id}"
        \\}
    };

    pub fn table(t: *rm.Table) rm.Interest {
        if (!t.is("shop", "orders")) return .pass;
        t.want("id");
        t.want("lines");
        return .all;
    }

    pub fn row(r: *rm.Row) !void {
        if (r.operation == .insert) r.write(&order_line);
    }
};

comptime {
    rm.transform(Split);
}
