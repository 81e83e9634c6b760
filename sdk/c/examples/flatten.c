/* Makes a flat message of each new or changed line: without its note, with its sum and its day. */
#include "rowmill.h"

static rm_recipe line = RM_RECIPE({
    "body": {
        "*": "{row_except(note, price)}",
        "unit_price": "{price}",
        "sum": "{price * quantity}",
        "day": "{date_format(created_at, '%Y-%m-%d')}"
    }
});

rm_interest transform_table(const rm_table *table) { return rm_is(table, "shop", "lines") ? RM_ALL : RM_PASS; }

void transform_row(rm_row *row) {
    if (row->operation != RM_DELETE) rm_write(row, &line);
}
