/* Makes a message of each order that became paid, in a group for each customer. */
#include "rowmill.h"

RM_SINKS("order-management");

static rm_condition became_paid = RM_CONDITION("changed_to(status, 'paid')");
static rm_recipe order_paid = RM_RECIPE({
    "body": {"event": "order_paid", "order": "{id}", "customer": "{customer}", "total": "{total}"},
    "group": "customer-{customer}",
    "deduplication_id": "paid-{id}",
    "attributes": {"event": "order_paid"}
});

rm_interest transform_table(const rm_table *table) {
    rm_want(table, "id");
    rm_want(table, "customer");
    rm_want(table, "status");
    rm_want(table, "total");
    return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS;
}

void transform_row(rm_row *row) {
    if (rm_holds(row, &became_paid)) rm_write_to(row, &order_paid, "order-management");
}
