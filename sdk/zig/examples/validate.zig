//! Fails orders with a negative total, and keeps all others. The first order of a certain customer waits for a retry.
const std = @import("std");
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Validate = struct {
    var has_waited = false;

    pub fn table(t: *rm.Table) rm.Interest {
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) !void {
        const email = try r.text("email") orelse "";
        if (!has_waited and std.mem.eql(u8, email, "later@example.com")) {
            has_waited = true;
            return r.retry("the rates are not there yet");
        }
        const total = try r.text("total") orelse "";
        if (r.operation != .delete and std.mem.startsWith(u8, total, "-"))
            return r.failFmt("order {?d}: the total {s} is negative", .{ try r.int("id"), total });
        r.keep();
    }
};

comptime {
    rm.transform(Validate);
}
