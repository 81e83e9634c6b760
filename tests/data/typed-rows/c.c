/* Keeps orders that became paid, by typed rows. */
#include "rows.h"

rm_interest transform_table(const rm_table *table) {
    return rm_is(table, ORDERS_SCHEMA, ORDERS_NAME) ? RM_ALL : RM_PASS;
}

void transform_row(rm_row *row) {
    orders_row order = orders_of(row, RM_NEWEST);
    enum orders_status status, old;
    if (!orders_status(order, &status)) return;
    if (status == ORDERS_STATUS_NEW) {
        int64_t id;
        uint64_t customer;
        double rating;
        if (!orders_id(order, &id)) return;
        if (!orders_customer(order, &customer) || orders_rating(order, &rating)) rm_fail(row, "not the row");
        if (id != 1 || customer != 7 || !rm_equals(orders_total(order), "9.50")) rm_fail(row, "not the row");
    }
    if (rm_has_in(row, RM_BEFORE, ORDERS_COLUMN_STATUS) && orders_status(orders_of(row, RM_BEFORE), &old) && old == status) return;
    const char *paid = orders_status_text(ORDERS_STATUS_PAID);
    if (status == ORDERS_STATUS_PAID && rm_changed_to(row, ORDERS_COLUMN_STATUS, paid)) rm_keep(row);
}
