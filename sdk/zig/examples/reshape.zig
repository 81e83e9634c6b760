//! Makes a small message of each change of an order, in a group for each customer.
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Reshape = struct {
    var body: rm.Buffer = .{};
    var group: rm.Buffer = .{};

    pub fn table(t: *rm.Table) rm.Interest {
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) !void {
        const customer = try r.int("customer");
        body.clear();
        body.put("{\"id\":");
        body.int(try r.int("id"));
        if (r.operation == .delete) {
            body.put(",\"deleted\":true}");
        } else {
            body.put(",\"customer\":");
            body.int(customer);
            inline for (.{ "status", "total", "email" }) |name| {
                body.put(",\"" ++ name ++ "\":");
                body.json(try r.text(name));
            }
            body.put("}");
        }
        group.clear();
        group.put("customer-");
        if (customer) |number| group.int(number);
        r.emit(.{ .body = body.slice(), .group = group.slice() });
    }
};

comptime {
    rm.transform(Reshape);
}
