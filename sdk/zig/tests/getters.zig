//! Calls the getter that each row's column `ask` names, as `GETTER COLUMN [IMAGE]`, and makes a message of its answer:
//! for the cases in sdk/cases/getters.
const std = @import("std");
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Getters = struct {
    var body: rm.Buffer = .{};

    const Getter = enum { text, int, uint, float, bytes, has, changed_to, changed, set, set_int, replace, fail };

    pub fn table(t: *rm.Table) rm.Interest {
        if (!std.mem.eql(u8, t.schema, "shop")) return .pass;
        if (t.is("shop", "misspelt")) {
            t.want("ask");
            t.want("statuss");
        } else if (t.is("shop", "declared")) {
            t.want("ask");
            t.want("NAME");
        }
        return .all;
    }

    pub fn row(r: *rm.Row) !void {
        var words = std.mem.tokenizeScalar(u8, try r.text("ask") orelse "", ' ');
        const getter = std.meta.stringToEnum(Getter, words.next() orelse "") orelse return r.fail("unknown getter");
        const column = words.next() orelse "";
        const argument = words.next() orelse "";
        const image = if (std.mem.eql(u8, argument, "before"))
            r.before()
        else if (std.mem.eql(u8, argument, "after"))
            r.after()
        else
            r.newest();
        body.clear();
        body.put("{\"value\":");
        switch (getter) {
            .text => body.json(try image.text(column)),
            .int => body.int(try image.int(column)),
            .uint => body.uint(try image.uint(column)),
            .float => body.float(try image.float(column)),
            .bytes => if (try image.bytes(column)) |bytes| body.print("\"{x}\"", .{bytes}) else body.put("null"),
            .has => {
                // `has` is false for an image that the row does not have; the case expects the getters' error.
                if (!image.exists()) _ = try image.cell(column);
                body.print("{}", .{image.has(column)});
            },
            .changed_to => body.print("{}", .{try r.changedTo(column, argument)}),
            .changed => body.print("{}", .{try r.changed(column)}),
            .set => {
                try r.set(column, "x");
                return r.keep();
            },
            .set_int => {
                try r.setInt(column, 7);
                return r.keep();
            },
            .replace => {
                try r.replace(column, "x");
                return r.keep();
            },
            .fail => return r.fail("asked to"),
        }
        body.put("}");
        r.emit(.{ .body = body.slice() });
    }
};

comptime {
    rm.transform(Getters);
}
