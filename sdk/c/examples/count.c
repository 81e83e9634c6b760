/* Counts new orders by their status, and makes a message of each count. Its .toml says `instances = 1`. */
#include "rowmill.h"

typedef struct counter {
    rm_text status;
    uint64_t orders;
    struct counter *next;
} counter;

static counter *counters;
static rm_buffer message;

static uint64_t count(rm_text status) {
    counter *found = counters;
    while (found && !rm_same(found->status, status)) found = found->next;
    if (!found) {
        rm_buffer copy = {0};
        rm_put(&copy, status);
        found = (counter *)rm_take(sizeof *found);
        *found = (counter){.status = rm_built(&copy), .next = counters};
        counters = found;
    }
    return ++found->orders;
}

rm_interest transform_table(const rm_table *table) { return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS; }

void transform_row(rm_row *row) {
    int64_t id;
    if (row->operation != RM_INSERT || !rm_get_int(row, "id", &id)) return;
    rm_text status = rm_get_text(row, "status");
    message.len = 0;
    if (!status.at) {
        rm_puts(&message, "order "), rm_put_int(&message, id), rm_puts(&message, " has no status");
        rm_fail_text(row, rm_built(&message));
        return;
    }
    rm_puts(&message, "{\"status\":"), rm_put_json(&message, status);
    rm_puts(&message, ",\"count\":"), rm_put_uint(&message, count(status)), rm_puts(&message, "}");
    rm_emit(row, (rm_message){.body = rm_built(&message), .group = status});
}
