//! Makes a flat message of each new or changed line: without its note, with its sum and its day.
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Flatten = struct {
    var line: rm.Recipe = .{ .json =
        \\{
        \\  "body": {
        \\    "*": "{row_except(note, price)}",
        \\    "unit_price": "{price}",
        \\    "sum": "{price * quantity}",
        \\    "day": "{date_format(created_at, '%Y-%m-%d')}"
        \\  }
        \\}
    };

    pub fn table(t: *rm.Table) rm.Interest {
        return if (t.is("shop", "lines")) .all else .pass;
    }

    pub fn row(r: *rm.Row) !void {
        if (r.operation != .delete) r.write(&line);
    }
};

comptime {
    rm.transform(Flatten);
}
