//! Makes a small message of each change of an order, in a group for each customer.
const rm = @import("rowmill.zig");

const Reshape = struct {
    var body: rm.Buffer = .{};
    var group: rm.Buffer = .{};

    pub fn table(t: *const rm.Table) rm.Interest {
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) void {
        body.clear();
        body.put("{\"id\":");
        body.int(r.int("id"));
        if (r.operation == .delete) {
            body.put(",\"deleted\":true}");
        } else {
            body.put(",\"customer\":");
            body.int(r.int("customer"));
            inline for (.{ "status", "total", "email" }) |name| {
                body.put(",\"" ++ name ++ "\":");
                body.json(r.text(name));
            }
            body.put("}");
        }
        group.clear();
        group.put("customer-");
        if (r.int("customer")) |customer| group.int(customer);
        r.emit(.{ .body = body.slice(), .group = group.slice() });
    }
};

comptime {
    rm.transform(Reshape);
}
