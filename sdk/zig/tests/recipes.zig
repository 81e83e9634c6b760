//! Selects rows by conditions, and makes messages of them by recipes: for the case sdk/cases/recipes.
const rm = @import("rowmill.zig");
pub const panic = rm.panic;

const Recipes = struct {
    var became_paid: rm.Condition = .{ .text = "changed_to(status, 'paid')" };
    var order_paid: rm.Recipe = .{ .json =
        \\{
        \\  "body": {"event": "order_paid", "id": "{id}", "sum": "{price * quantity}"},
        \\  "group": "customer-{customer}",
        \\  "deduplication_id": "paid-{id}",
        \\  "attributes": {"event": "order_paid", "status": "{status}"}
        \\}
    };

    var has_new_lines: rm.Condition = .{ .text = "op() = 'c' and lines is not null" };
    var order_line: rm.Recipe = .{ .json =
        \\{
        \\  "for_each": "lines",
        \\  "body": {"order": "{id}", "line": "{item_number()}", "sku": "{item()->'$.sku'}"},
        \\  "group": "order-{id}"
        \\}
    };

    var paid_is_deleted: rm.Condition = .{ .text = "old.status = 'paid' and op() = 'd'" };
    var deleted_order: rm.Recipe = .{ .json =
        \\{
        \\  "body": {
        \\    "*": "{old_row_except(email, price)}",
        \\    "cost": "{number(price)}",
        \\    "day": "{date_format(created_at, '%d.%m.%Y')}"
        \\  }
        \\}
    };

    var is_kept: rm.Condition = .{ .text = "email like '%@example.com' or price > quantity * 100" };

    pub fn table(t: *rm.Table) rm.Interest {
        return if (t.is("shop", "orders")) .all else .pass;
    }

    pub fn row(r: *rm.Row) !void {
        if (became_paid.holds(r)) r.write(&order_paid);
        if (has_new_lines.holds(r)) r.writeTo(&order_line, "lines");
        if (paid_is_deleted.holds(r)) r.write(&deleted_order);
        if (is_kept.holds(r)) r.keep();
    }
};

comptime {
    rm.transform(Recipes);
}
