/* Makes a small message of each change of an order, in a group for each customer. */
#include "rowmill.h"

rm_interest transform_table(const rm_table *table) { return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS; }

static rm_buffer body, group;

static void put_number(const char *label, rm_row *row, const char *column) {
    int64_t number;
    rm_puts(&body, label);
    if (rm_get_int(row, column, &number)) rm_put_int(&body, number);
    else rm_puts(&body, "null");
}

static void put_text(const char *label, rm_row *row, const char *column) {
    rm_puts(&body, label);
    rm_put_json(&body, rm_get_text(row, column));
}

void transform_row(rm_row *row) {
    int64_t customer;
    body.len = group.len = 0;
    rm_puts(&group, "customer-");
    if (rm_get_int(row, "customer", &customer)) rm_put_int(&group, customer);
    put_number("{\"id\":", row, "id");
    if (row->operation == RM_DELETE) {
        rm_puts(&body, ",\"deleted\":true}");
    } else {
        put_number(",\"customer\":", row, "customer");
        put_text(",\"status\":", row, "status");
        put_text(",\"total\":", row, "total");
        put_text(",\"email\":", row, "email");
        rm_puts(&body, "}");
    }
    rm_message message = {.body = rm_built(&body), .group = rm_built(&group)};
    rm_emit(row, message);
}
