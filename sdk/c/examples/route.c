/* Sends German orders to another sink, in a group for each country, and hides e-mail addresses. */
#include "rowmill.h"

RM_SINKS("europe");

rm_interest transform_table(const rm_table *table) {
    rm_want(table, "country");
    rm_want(table, "email");
    return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS;
}

void transform_row(rm_row *row) {
    rm_text country = rm_get_text(row, "country");
    if (rm_equals(country, "DE")) rm_keep_to(row, "europe", country);
    else rm_keep(row);
    rm_replace(row, "email", rm_of("hidden"));
}
