/* Makes a message of each line of a new order. */
#include "rowmill.h"

static rm_recipe order_line = RM_RECIPE({
    "for_each": "lines",
    "body": {
        "order": "{id}",
        "line": "{item_number()}",
        "sku": "{item()->'$.sku'}",
        "quantity": "{item()->'$.quantity'}"
    },
    "group": "order-{id}"
});

rm_interest transform_table(const rm_table *table) {
    rm_want(table, "id");
    rm_want(table, "lines");
    return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS;
}

void transform_row(rm_row *row) {
    if (row->operation == RM_INSERT) rm_write(row, &order_line);
}
