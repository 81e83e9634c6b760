/* Selects rows by conditions, and makes messages of them by recipes. The results are those of sdk/cases/recipes, the
 * same in all languages. */
#include "rowmill.h"

static rm_condition became_paid = RM_CONDITION("changed_to(status, 'paid')");
static rm_recipe order_paid = RM_RECIPE({
    "body": {"event": "order_paid", "id": "{id}", "sum": "{price * quantity}"},
    "group": "customer-{customer}",
    "deduplication_id": "paid-{id}",
    "attributes": {"event": "order_paid", "status": "{status}"}
});

static rm_condition has_new_lines = RM_CONDITION("op() = 'c' and lines is not null");
static rm_recipe order_line = RM_RECIPE({
    "for_each": "lines",
    "body": {"order": "{id}", "line": "{item_number()}", "sku": "{item()->'$.sku'}"},
    "group": "order-{id}"
});

static rm_condition paid_is_deleted = RM_CONDITION("old.status = 'paid' and op() = 'd'");
static rm_recipe deleted_order = RM_RECIPE({
    "body": {
        "*": "{old_row_except(email, price)}",
        "cost": "{number(price)}",
        "day": "{date_format(created_at, '%d.%m.%Y')}"
    }
});

static rm_condition is_kept = RM_CONDITION("email like '%@example.com' or price > quantity * 100");

rm_interest transform_table(const rm_table *table) { return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS; }

void transform_row(rm_row *row) {
    if (rm_holds(row, &became_paid)) rm_write(row, &order_paid);
    if (rm_holds(row, &has_new_lines)) rm_write_to(row, &order_line, "lines");
    if (rm_holds(row, &paid_is_deleted)) rm_write(row, &deleted_order);
    if (rm_holds(row, &is_kept)) rm_keep(row);
}
