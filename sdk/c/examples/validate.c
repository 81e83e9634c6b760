/* Fails orders with a negative total, and keeps all others. The first order of a certain customer waits for a retry. */
#include "rowmill.h"

static bool has_waited;
static rm_buffer message;

rm_interest transform_table(const rm_table *table) { return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS; }

void transform_row(rm_row *row) {
    int64_t id;
    rm_text total = rm_get_text(row, "total");
    if (!has_waited && rm_equals(rm_get_text(row, "email"), "later@example.com")) {
        has_waited = true;
        rm_retry(row, "the rates are not there yet");
    } else if (row->operation != RM_DELETE && total.len && total.at[0] == '-' && rm_get_int(row, "id", &id)) {
        message.len = 0;
        rm_puts(&message, "order "), rm_put_int(&message, id);
        rm_puts(&message, ": the total "), rm_put(&message, total), rm_puts(&message, " is negative");
        rm_fail_text(row, rm_built(&message));
    } else {
        rm_keep(row);
    }
}
