//! Sends German orders to another sink, in a group for each country, and hides e-mail addresses.
const std = @import("std");
const rm = @import("rowmill.zig");

const Route = struct {
    pub fn table(t: *const rm.Table) rm.Interest {
        t.want("country");
        t.want("email");
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) void {
        const country = r.text("country") orelse "";
        if (std.mem.eql(u8, country, "DE")) r.keepTo("europe", country) else r.keep();
        r.replace("email", "hidden");
    }
};

comptime {
    rm.transform(Route);
}
