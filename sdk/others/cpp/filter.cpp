// Keeps orders that became paid; drops all other changes of orders.
#include "rowmill.h"

rm_interest transform_table(const rm_table *table) {
    rm_want(table, "status");
    return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS;
}

void transform_row(rm_row *row) {
    if (rm_changed_to(row, "status", "paid")) rm_keep(row);
}
