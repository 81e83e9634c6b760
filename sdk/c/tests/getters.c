/* Does with each row of schema `shop` what its column `ask` says: GETTER COLUMN [IMAGE]. The results are those of
 * sdk/cases/getters, the same in all languages. */
#include "rowmill.h"

rm_interest transform_table(const rm_table *table) {
    if (rm_is(table, "shop", "misspelt")) {
        rm_want(table, "ask");
        rm_want(table, "statuss");
    }
    if (rm_is(table, "shop", "declared")) {
        rm_want(table, "ask");
        rm_want(table, "NAME");
    }
    return rm_equals(table->schema, "shop") ? RM_ALL : RM_PASS;
}

/* The words of `ask`, each ended by a zero. */
static rm_buffer words[3];
static rm_buffer body;

static void split(rm_text ask) {
    uint32_t word = 0;
    for (uint32_t i = 0; i < 3; i++) words[i].len = 0;
    for (uint32_t i = 0; i < ask.len; i++) {
        rm_text letter = {ask.at + i, 1};
        if (ask.at[i] != ' ') rm_put(&words[word], letter);
        else if (++word == 3) break;
    }
    for (uint32_t i = 0; i < 3; i++) *rm_more(&words[i], 1) = 0;
}

static const char *word(uint32_t i) { return (const char *)words[i].at; }

/* A number with a few binary digits after the point. */
static void put_float(double number) {
    if (number < 0) rm_puts(&body, "-"), number = -number;
    uint64_t whole = (uint64_t)number;
    rm_put_uint(&body, whole);
    number -= (double)whole;
    if (number > 0) rm_puts(&body, ".");
    for (; number > 0; number -= (double)whole) {
        number *= 10;
        whole = (uint64_t)number;
        rm_put_uint(&body, whole);
    }
}

static void put_hex(rm_text bytes) {
    rm_buffer hex = {NULL, 0, 0};
    for (uint32_t i = 0; i < bytes.len; i++) {
        *rm_more(&hex, 1) = (uint8_t)"0123456789abcdef"[bytes.at[i] >> 4];
        *rm_more(&hex, 1) = (uint8_t)"0123456789abcdef"[bytes.at[i] & 15];
    }
    rm_put_json(&body, bytes.at ? rm_built(&hex) : rm_none);
}

static void put_bool(bool value) { rm_puts(&body, value ? "true" : "false"); }

/* Puts the value that a getter returns; false if there is no such getter. */
static bool put_value(rm_row *row, rm_text getter, const char *column) {
    rm_text third = rm_of(word(2));
    rm_image image = rm_equals(third, "before") ? RM_BEFORE : rm_equals(third, "after") ? RM_AFTER : RM_NEWEST;
    int64_t integer;
    uint64_t natural;
    double number;
    if (rm_equals(getter, "text")) {
        rm_put_json(&body, rm_get_text_in(row, image, column));
    } else if (rm_equals(getter, "bytes")) {
        put_hex(rm_get_bytes_in(row, image, column));
    } else if (rm_equals(getter, "int")) {
        if (rm_get_int_in(row, image, column, &integer)) rm_put_int(&body, integer);
        else rm_puts(&body, "null");
    } else if (rm_equals(getter, "uint")) {
        if (rm_get_uint_in(row, image, column, &natural)) rm_put_uint(&body, natural);
        else rm_puts(&body, "null");
    } else if (rm_equals(getter, "float")) {
        if (rm_get_float_in(row, image, column, &number)) put_float(number);
        else rm_puts(&body, "null");
    } else if (rm_equals(getter, "has")) {
        /* rm_has_in is false for an image that the row does not have; other SDKs have no such image to ask. */
        if (image == RM_BEFORE && !row->before) rm_fail(row, "the row has no before image");
        if (image == RM_AFTER && !row->after) rm_fail(row, "the row has no after image");
        put_bool(rm_has_in(row, image, column));
    } else if (rm_equals(getter, "changed")) {
        put_bool(rm_changed(row, column));
    } else if (rm_equals(getter, "changed_to")) {
        put_bool(rm_changed_to(row, column, word(2)));
    } else {
        return false;
    }
    return true;
}

void transform_row(rm_row *row) {
    split(rm_get_text(row, "ask"));
    rm_text getter = rm_of(word(0));
    const char *column = word(1);
    body.len = 0;
    rm_puts(&body, "{\"value\":");
    if (put_value(row, getter, column)) {
        rm_puts(&body, "}");
        rm_message message = {.body = rm_built(&body)};
        rm_emit(row, message);
        return;
    }
    rm_keep(row);
    if (rm_equals(getter, "set")) rm_set(row, column, rm_of("x"));
    else if (rm_equals(getter, "set_int")) rm_set_int(row, column, 7);
    else if (rm_equals(getter, "replace")) rm_replace(row, column, rm_of("x"));
    else if (rm_equals(getter, "fail")) rm_fail(row, "asked to");
    else rm_fail(row, "unknown getter");
}
