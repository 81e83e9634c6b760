//! Sends German orders to another sink, in a group for each country, and hides e-mail addresses.
const std = @import("std");
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Route = struct {
    pub const sinks = .{"europe"};

    pub fn table(t: *rm.Table) rm.Interest {
        if (!t.is("shop", "orders")) return .pass;
        t.want("country");
        t.want("email");
        return .all;
    }

    pub fn row(r: *rm.Row) !void {
        const country = try r.text("country") orelse "";
        if (std.mem.eql(u8, country, "DE")) r.keepTo("europe", country) else r.keep();
        try r.replace("email", "hidden");
    }
};

comptime {
    rm.transform(Route);
}
