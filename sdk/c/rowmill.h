/* Write Rowmill transforms in C (or C++): this header is all there is. Define two functions:
 *
 *     #include "rowmill.h"
 *
 *     rm_interest transform_table(const rm_table *table) {
 *         return rm_is(table, "shop", "orders") ? RM_ALL : RM_PASS;
 *     }
 *     void transform_row(rm_row *row) {
 *         if (rm_changed_to(row, "status", "paid")) rm_keep(row);
 *     }
 *
 * A row that is neither kept nor failed is dropped. `const char *transform_configure(rm_text settings)` is optional: it
 * is called once with the settings, as JSON, and a message that it returns (not NULL) stops the engine's start.
 *
 * `RM_SINKS("warehouse", "europe");` outside of functions declares the sinks that the transform sends to. If the
 * configuration lacks one, the engine does not start; one that is not declared is looked up for each row.
 *
 * Columns are named without regard to case. The row fails if its table has no such column, if the transform does not
 * declare it, if the column is of another kind than the function reads or writes, if the row's image does not have it,
 * and if a number does not fit. The function then returns no value, and the row's first error is reported in place of
 * all else that was done for the row; other rows are not affected.
 *
 * The engine can evaluate conditions and write messages itself, as Rowmill's docs/expressions.md says:
 *
 *     static rm_condition paid = RM_CONDITION("changed_to(status, 'paid') and total >= 100");
 *     static rm_recipe order = RM_RECIPE({"body": {"id": "{id}", "total": "{total}"}, "group": "customer-{customer}"});
 *
 *     void transform_row(rm_row *row) {
 *         if (rm_holds(row, &paid)) rm_write(row, &order);
 *     }
 *
 * If transform_table declares columns, theirs must be among them.
 *
 * Build it without a C library:
 *
 *     zig cc -target wasm32-freestanding -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o NAME.wasm NAME.c
 *     clang --target=wasm32 -ffreestanding -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o NAME.wasm NAME.c
 *
 * The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md. */
#ifndef ROWMILL_H
#define ROWMILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text or bytes, not ended by a zero. `at` is NULL where there is no value. */
typedef struct {
    const uint8_t *at;
    uint32_t len;
} rm_text;

/* No value; where a column is set: NULL. */
static const rm_text rm_none = {NULL, 0};

typedef enum {
    RM_INT, RM_UINT, RM_FLOAT, RM_DECIMAL, RM_STRING, RM_BYTES, RM_JSON, RM_DATE, RM_TIME, RM_DATETIME, RM_TIMESTAMP,
    RM_YEAR, RM_BIT, RM_ENUM, RM_SET, RM_GEOMETRY, RM_VECTOR
} rm_kind;
typedef enum { RM_PASS, RM_DROP, RM_ALL } rm_interest;
/* RM_READ: a row that a snapshot read, which has an after image, as an insert has. */
typedef enum { RM_INSERT = 1, RM_UPDATE, RM_DELETE, RM_READ } rm_operation;
/* The newest image is the one after the change; of a deleted row, the one before it. */
typedef enum { RM_BEFORE, RM_AFTER, RM_NEWEST } rm_image;
typedef enum { RM_ABSENT, RM_NULL, RM_VALUE, RM_CHANGES } rm_state;
typedef enum { RM_ERROR, RM_WARN, RM_INFO, RM_DEBUG, RM_TRACE } rm_level;

/* The kinds that are read as an integer, a float, bytes, and text: a bit each. */
enum {
    RM_INTS = 1 << RM_INT | 1 << RM_UINT | 1 << RM_YEAR | 1 << RM_BIT,
    RM_FLOATS = 1 << RM_FLOAT,
    RM_BLOBS = 1 << RM_BYTES | 1 << RM_GEOMETRY | 1 << RM_VECTOR,
    RM_ANY = (2 << RM_VECTOR) - 1,
    RM_TEXTS = RM_ANY & ~(RM_INTS | RM_FLOATS | RM_BLOBS)
};

typedef struct {
    rm_text name, mysql_type;
    rm_kind kind;
    bool nullable, key;
    bool usable; /* declared with rm_want, or no column is */
} rm_column;

/* Once very many tables have come and gone, another may take its place: don't keep its address by yourself. */
typedef struct {
    uint32_t id, columns;
    rm_text schema, name;
    rm_column *column;
    rm_interest interest;
    uint32_t room; /* bytes of all that is kept of it */
} rm_table;

typedef struct {
    const rm_table *table;
    rm_operation operation;
    const uint8_t *before, *after; /* images; NULL where there is none */
    int64_t time_us;               /* when the statement ran, since 1970 */
    const uint8_t *packed;
    uint32_t index; /* in the batch */
    bool failed;
} rm_row;

/* A row's place in the binlog, and its transaction. */
typedef struct {
    rm_text file, gtid;            /* the binlog file's name; the GTID has no value where there is none */
    uint64_t position;             /* of the row's event in the file */
    uint64_t transaction_position; /* of the transaction in the file */
    int64_t commit_us;             /* when it was committed, since 1970; 0 where the server does not log it */
    uint32_t server_id;            /* of the server on which it ran first */
    uint32_t session_id;           /* of the session in which it ran; 0 where unknown */
    bool is_last;                  /* whether the row is its last one */
} rm_origin;

typedef struct {
    rm_text name, value;
} rm_attribute;

/* What can be said of a message; all but `body` may be left out. */
typedef struct {
    rm_text body, group, deduplication_id;
    const char *sink;
    const rm_attribute *attributes; /* of type String */
    uint32_t attribute_count;
} rm_message;

/* Text that grows; `len = 0` empties it. Its memory is never freed: make it a static object, used for all rows. */
typedef struct {
    uint8_t *at;
    uint32_t len, room;
} rm_buffer;

/* A condition on rows: a static object. An invalid one, and one that makes no sense for a table with RM_ALL (begin it
 * with `table() = 'orders' and`), is an error of the batch. */
typedef struct {
    const char *text;
    uint64_t batch; /* the number of the batch whose rows are selected */
    rm_buffer rows; /* the indexes of the selected rows, ascending */
    uint32_t next;  /* the offset in `rows` of the first one that is not before the current row */
} rm_condition;
#define RM_CONDITION(text) {text, 0, {NULL, 0, 0}, 0}

/* The description of messages that the engine writes: a static object. It is made of JSON as it is, without quotes
 * around it; of a C string by `{.json = string}`. A text that is not a recipe is an error of the batch. */
typedef struct {
    const char *json;
    uint32_t number; /* the engine's number of the recipe, plus 1; 0: not known */
} rm_recipe;
#define RM_RECIPE(...) {#__VA_ARGS__, 0}

rm_interest transform_table(const rm_table *table);
void transform_row(rm_row *row);
/* Weak: NULL if the transform does not define them. */
__attribute__((weak)) const char *transform_configure(rm_text settings);
__attribute__((weak)) extern const char *const transform_sinks[];
/* The names of the sinks that the transform sends to. */
#define RM_SINKS(...) const char *const transform_sinks[] = {__VA_ARGS__, NULL}

#define RM_IMPORT(name) __attribute__((import_module("rowmill"), import_name(name)))
#define RM_EXPORT(name) __attribute__((export_name(name), visibility("default")))
#define RM_COLD __attribute__((noinline, cold)) static inline
#define RM_CHECKED __attribute__((warn_unused_result)) static inline
#ifdef __cplusplus
extern "C" {
#endif
RM_IMPORT("sink") uint32_t rm_host_sink(const void *at, uint32_t len);
RM_IMPORT("log") void rm_host_log(uint32_t level, const void *at, uint32_t len);
RM_IMPORT("count") void rm_host_count(const void *at, uint32_t len, uint64_t n);
RM_IMPORT("now") uint64_t rm_host_now(void);
RM_IMPORT("env") uint32_t rm_host_env(const void *at, uint32_t len, void *to, uint32_t room);
RM_IMPORT("recipe") uint32_t rm_host_recipe(const void *at, uint32_t len);
RM_IMPORT("select") uint32_t rm_host_select(const void *at, uint32_t len, void *to);

/* ---- memory: what is taken is kept, and used again ---- */

extern uint8_t __heap_base;
static uintptr_t rm_heap;

static inline void *rm_take(uint32_t len) {
    if (rm_heap == 0) rm_heap = (uintptr_t)&__heap_base;
    uintptr_t at = (rm_heap + 7) & ~(uintptr_t)7, end = at + len;
    uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) << 16;
    if (end < at) __builtin_trap();
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + 0xffff) >> 16) == (size_t)-1) __builtin_trap();
    rm_heap = end;
    return (void *)at;
}

static inline uint8_t *rm_more(rm_buffer *buffer, uint32_t len) {
    if (len > UINT32_MAX - buffer->len) __builtin_trap();
    if (buffer->len + len > buffer->room) {
        uint64_t room = (uint64_t)(buffer->len + len) * 2 + 64;
        uint8_t *at = (uint8_t *)rm_take(room > UINT32_MAX ? UINT32_MAX : (uint32_t)room);
        if (buffer->len) __builtin_memcpy(at, buffer->at, buffer->len);
        buffer->at = at;
        buffer->room = room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
    }
    uint8_t *at = buffer->at + buffer->len;
    buffer->len += len;
    return at;
}

/* ---- text ---- */

static inline uint32_t rm_length(const char *text) {
    uint32_t len = 0;
    while (text[len]) len++;
    return len;
}
static inline rm_text rm_of(const char *text) {
    rm_text out = {(const uint8_t *)text, rm_length(text)};
    return out;
}
static inline bool rm_same(rm_text a, rm_text b) {
    if (a.len != b.len) return false;
    for (uint32_t i = 0; i < a.len; i++)
        if (a.at[i] != b.at[i]) return false;
    return true;
}
static inline bool rm_equals(rm_text text, const char *other) { return text.at && rm_same(text, rm_of(other)); }

/* The text that was put into a buffer. It is valid until more is put there. */
static inline rm_text rm_built(const rm_buffer *buffer) {
    rm_text out = {buffer->at ? buffer->at : (const uint8_t *)"", buffer->len};
    return out;
}
static inline void rm_put(rm_buffer *out, rm_text text) {
    uint8_t *at = rm_more(out, text.len);
    if (text.len) __builtin_memcpy(at, text.at, text.len);
}
static inline void rm_puts(rm_buffer *out, const char *text) { rm_put(out, rm_of(text)); }
static inline void rm_put_uint(rm_buffer *out, uint64_t number) {
    uint8_t digits[20];
    uint32_t at = 20;
    do digits[--at] = (uint8_t)('0' + number % 10);
    while (number /= 10);
    rm_text text = {digits + at, 20 - at};
    rm_put(out, text);
}
static inline void rm_put_int(rm_buffer *out, int64_t number) {
    if (number < 0) rm_puts(out, "-");
    rm_put_uint(out, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
}
/* As a JSON string, with its quotes; `null` where there is no value. What SQS refuses is escaped. */
static inline void rm_put_json(rm_buffer *out, rm_text text) {
    if (!text.at) {
        rm_puts(out, "null");
        return;
    }
    rm_puts(out, "\"");
    uint32_t from = 0;
    for (uint32_t i = 0; i < text.len; i++) {
        uint8_t c = text.at[i];
        bool special = c == 0xef && i + 2 < text.len && text.at[i + 1] == 0xbf && text.at[i + 2] >= 0xbe;
        if (c >= 0x20 && c != '"' && c != '\\' && !special) continue;
        rm_text plain = {text.at + from, i - from};
        rm_put(out, plain);
        static const char hex[] = "0123456789abcdef";
        char escape[7] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15], 0};
        if (special) {
            rm_puts(out, text.at[i + 2] == 0xbe ? "\\ufffe" : "\\uffff");
            i += 2;
        } else if (c == '"' || c == '\\') {
            escape[1] = (char)c, escape[2] = 0;
            rm_puts(out, escape);
        } else {
            rm_puts(out, escape);
        }
        from = i + 1;
    }
    rm_text plain = {text.at + from, text.len - from};
    rm_put(out, plain);
    rm_puts(out, "\"");
}

/* ---- tables ---- */

static inline uint32_t rm_u32(const uint8_t *at) {
    uint32_t word;
    __builtin_memcpy(&word, at, 4);
    return word;
}
static inline int64_t rm_i64(const uint8_t *at) {
    int64_t word;
    __builtin_memcpy(&word, at, 8);
    return word;
}
static inline void rm_words(rm_buffer *out, const uint32_t *words, uint32_t count) {
    __builtin_memcpy(rm_more(out, 4 * count), words, 4 * count);
}
static inline bool rm_is(const rm_table *table, const char *schema, const char *name) {
    return rm_equals(table->schema, schema) && rm_equals(table->name, name);
}
/* The lower case of a letter of ASCII, Latin-1, Latin Extended-A, Greek and Cyrillic; any other one is as it was. */
static inline uint32_t rm_lower(uint32_t letter) {
    static const struct {
        uint16_t first, last, every; /* the upper-case letters from the first to the last, by steps of `every` */
        int16_t distance;            /* to their lower case */
    } upper[] = {
        {0xc0, 0xd6, 1, 32},      {0xd8, 0xde, 1, 32},      {0x100, 0x12e, 2, 1},     {0x132, 0x136, 2, 1},
        {0x139, 0x147, 2, 1},     {0x14a, 0x176, 2, 1},     {0x178, 0x178, 1, -121},  {0x179, 0x17d, 2, 1},
        {0x386, 0x386, 1, 38},    {0x388, 0x38a, 1, 37},    {0x38c, 0x38c, 1, 64},    {0x38e, 0x38f, 1, 63},
        {0x391, 0x3a1, 1, 32},    {0x3a3, 0x3ab, 1, 32},    {0x400, 0x40f, 1, 80},    {0x410, 0x42f, 1, 32},
        {0x460, 0x480, 2, 1},     {0x48a, 0x4be, 2, 1},     {0x4c0, 0x4c0, 1, 15},    {0x4c1, 0x4cd, 2, 1},
        {0x4d0, 0x52e, 2, 1},
    };
    if (letter < 0x80) return letter >= 'A' && letter <= 'Z' ? letter + 32 : letter;
    for (uint32_t i = 0; i < sizeof upper / sizeof *upper; i++)
        if (letter >= upper[i].first && letter <= upper[i].last && (letter - upper[i].first) % upper[i].every == 0)
            return (uint32_t)((int32_t)letter + upper[i].distance);
    return letter;
}
/* Reads a letter of UTF-8 in lower case; of a letter of three or four bytes only the next byte, with bit 16 set. */
static inline uint32_t rm_next_letter(rm_text text, uint32_t *at) {
    uint32_t byte = text.at[(*at)++];
    if (byte < 0x80) return rm_lower(byte);
    if (byte < 0xc0 || byte >= 0xe0 || *at == text.len) return 0x10000 | byte;
    return rm_lower((byte & 0x1f) << 6 | (text.at[(*at)++] & 0x3f));
}
static inline bool rm_same_name(rm_text a, rm_text b) {
    uint32_t at = 0, at_b = 0;
    while (at < a.len && at_b < b.len)
        if (rm_next_letter(a, &at) != rm_next_letter(b, &at_b)) return false;
    return at == a.len && at_b == b.len;
}
RM_COLD int32_t rm_find_in_other_case(const rm_table *table, const char *name) {
    for (uint32_t i = 0; i < table->columns; i++)
        if (rm_same_name(table->column[i].name, rm_of(name))) return (int32_t)i;
    return -1;
}
/* The index of a column; -1 if there is none of this name. */
static inline int32_t rm_find(const rm_table *table, const char *name) {
    for (uint32_t i = 0; i < table->columns; i++)
        if (rm_equals(table->column[i].name, name)) return (int32_t)i;
    return rm_find_in_other_case(table, name);
}

static rm_buffer rm_wanted; /* names, as the engine is told them */
static uint32_t rm_wanted_count;

/* In transform_table: declares a column that the transform reads or edits. The engine need not decode the others to ask
 * about a row, and a name that the table does not have is an error of the table. Without a call all columns are
 * declared. It has no effect on a table for which transform_table does not return RM_ALL. */
static inline void rm_want(const rm_table *table, const char *name) {
    uint32_t len = rm_length(name);
    int32_t column = rm_find(table, name);
    if (column >= 0) table->column[column].usable = true;
    rm_words(&rm_wanted, &len, 1);
    rm_puts(&rm_wanted, name);
    rm_wanted_count++;
}

/* ---- the verdict ---- */

/* Lists of items of so many words: the row's index (of an attribute: the message's), other numbers, and the lengths of
 * so many texts. */
enum { RM_KEEPS, RM_REROUTES, RM_EDITS, RM_EMITS, RM_ATTRIBUTES, RM_WRITES, RM_FAILS, RM_LISTS };
static const uint8_t rm_item_words[RM_LISTS] = {1, 3, 5, 5, 3, 3, 2}, rm_item_texts[RM_LISTS] = {0, 1, 1, 3, 2, 0, 1};
static struct {
    rm_buffer items, texts;
} rm_out[RM_LISTS];
static rm_buffer rm_answer;
static bool rm_retried;

static inline void rm_add(uint32_t list, const uint32_t *words) {
    rm_words(&rm_out[list].items, words, rm_item_words[list]);
}
/* Removes the items from the end of a list whose first word is `first` or more. */
static inline void rm_remove(uint32_t list, uint32_t first) {
    rm_buffer *items = &rm_out[list].items;
    uint32_t words = rm_item_words[list];
    while (items->len) {
        const uint8_t *item = items->at + items->len - 4 * words;
        if (rm_u32(item) < first) break;
        for (uint32_t i = words - rm_item_texts[list]; i < words; i++) rm_out[list].texts.len -= rm_u32(item + 4 * i);
        items->len -= 4 * words;
    }
}
static inline uint32_t rm_emit_count(void) { return rm_out[RM_EMITS].items.len / (4u * rm_item_words[RM_EMITS]); }

/* The row cannot be processed; the plugin's `on_error` says what becomes of it. Only its first failure counts. */
static inline void rm_fail_text(rm_row *row, rm_text message) {
    uint32_t words[2] = {row->index, message.len};
    if (row->failed) return;
    row->failed = true;
    rm_add(RM_FAILS, words);
    rm_put(&rm_out[RM_FAILS].texts, message);
}
static inline void rm_fail(rm_row *row, const char *message) { rm_fail_text(row, rm_of(message)); }
/* A transient failure: the engine passes the same batch to the transform again, a few times. */
static inline void rm_retry(rm_row *row, const char *message) {
    static const uint32_t status = 2;
    (void)row;
    if (rm_retried) return;
    rm_retried = true;
    rm_answer.len = 0;
    rm_words(&rm_answer, &status, 1);
    rm_puts(&rm_answer, message);
}

/* ---- errors of a row ---- */

static rm_buffer rm_error;

static inline void rm_put_table(const rm_table *table) {
    rm_put(&rm_error, table->schema), rm_puts(&rm_error, "."), rm_put(&rm_error, table->name);
}
static inline void rm_begin_error(const rm_row *row, uint32_t column) {
    rm_error.len = 0;
    rm_puts(&rm_error, "column `"), rm_put(&rm_error, row->table->column[column].name), rm_puts(&rm_error, "` of ");
    rm_put_table(row->table);
}
static inline void rm_end_error(rm_row *row, const char *end) {
    rm_puts(&rm_error, end);
    rm_fail_text(row, rm_built(&rm_error));
}
static inline const char *rm_read_as(uint32_t kinds) {
    return kinds & RM_TEXTS ? "text" : kinds & RM_INTS ? "an integer" : kinds & RM_FLOATS ? "a float" : "bytes";
}
/* Why rm_use refuses a column, which is -1 if the table has none of this name. */
RM_COLD void rm_refuse(rm_row *row, rm_image image, const char *name, int32_t column, uint32_t kinds) {
    if (column < 0) {
        rm_error.len = 0;
        rm_put_table(row->table);
        rm_puts(&rm_error, " has no column `"), rm_puts(&rm_error, name);
        rm_end_error(row, "`");
        return;
    }
    const rm_column *refused = &row->table->column[column];
    rm_begin_error(row, (uint32_t)column);
    if (!refused->usable) {
        rm_end_error(row, " is not among the columns that the transform declares");
    } else if (image == RM_BEFORE && !row->before) {
        rm_fail(row, "the row has no before image");
    } else if (image == RM_AFTER && !row->after) {
        rm_fail(row, "the row has no after image");
    } else {
        rm_puts(&rm_error, " is "), rm_put(&rm_error, refused->mysql_type), rm_puts(&rm_error, ", which is read as ");
        rm_puts(&rm_error, rm_read_as(1u << refused->kind)), rm_puts(&rm_error, ", not as ");
        rm_end_error(row, rm_read_as(kinds));
    }
}
RM_COLD void rm_refuse_state(rm_row *row, uint32_t column, rm_state state) {
    rm_begin_error(row, column);
    rm_end_error(row, state == RM_ABSENT ? " is absent from the row's image; ask `has` first"
                                         : " has only its changes: the update was partial");
}
/* The number is negative, or too large for a signed integer. */
RM_COLD void rm_refuse_number(rm_row *row, uint32_t column, const char *verb, bool is_negative, uint64_t number) {
    rm_begin_error(row, column);
    rm_puts(&rm_error, verb);
    if (is_negative) rm_put_int(&rm_error, (int64_t)number);
    else rm_put_uint(&rm_error, number);
    rm_puts(&rm_error, ", which does not fit ");
    rm_end_error(row, is_negative ? "an unsigned integer" : "a signed integer");
}

/* ---- rows ---- */

static inline const uint8_t *rm_image_of(const rm_row *row, rm_image image) {
    return image == RM_BEFORE || (image == RM_NEWEST && !row->after) ? row->before : row->after;
}
/* What an image has of the column with this index, unchecked: for code that goes through all columns. Numbers are 8
 * bytes. */
static inline rm_state rm_cell(const rm_row *row, rm_image image, uint32_t column, rm_text *value) {
    const uint8_t *at = rm_image_of(row, image);
    *value = rm_none;
    if (!at) return RM_ABSENT;
    uint32_t columns = row->table->columns, states = ((columns + 3) / 4 + 3) & ~3u;
    rm_state state = (rm_state)(at[4 + column / 4] >> (column % 4 * 2) & 3);
    if (state < RM_VALUE) return state;
    const uint8_t *ends = at + 4 + states, *data = ends + 4 * columns;
    uint32_t from = column ? rm_u32(ends + 4 * (column - 1)) : 0;
    value->at = data + from;
    value->len = rm_u32(ends + 4 * column) - from;
    return state;
}
/* The index of a column of these kinds; -1, and the row fails, if the transform may not use it so. */
static inline int32_t rm_use(rm_row *row, rm_image image, const char *name, uint32_t kinds) {
    int32_t column = rm_find(row->table, name);
    if (column >= 0 && rm_image_of(row, image)) {
        const rm_column *found = &row->table->column[column];
        if (found->usable && kinds >> found->kind & 1) return column;
    }
    rm_refuse(row, image, name, column, kinds);
    return -1;
}
/* The value of a column of these kinds, and its index. */
static inline rm_text rm_read(rm_row *row, rm_image image, const char *name, uint32_t kinds, int32_t *column) {
    rm_text value = rm_none;
    *column = rm_use(row, image, name, kinds);
    if (*column < 0) return rm_none;
    rm_state state = rm_cell(row, image, (uint32_t)*column, &value);
    if (state == RM_VALUE || state == RM_NULL) return value;
    rm_refuse_state(row, (uint32_t)*column, state);
    return rm_none;
}

/* Whether the table has the column and this image contains it, be it as NULL. */
static inline bool rm_has_in(const rm_row *row, rm_image image, const char *name) {
    rm_text value;
    int32_t column = rm_find(row->table, name);
    return column >= 0 && rm_cell(row, image, (uint32_t)column, &value) != RM_ABSENT;
}
/* A decimal, text, json, date, time, datetime, timestamp, enum or set. */
static inline rm_text rm_get_text_in(rm_row *row, rm_image image, const char *name) {
    int32_t column;
    return rm_read(row, image, name, RM_TEXTS, &column);
}
/* Bytes, a geometry or a vector. */
static inline rm_text rm_get_bytes_in(rm_row *row, rm_image image, const char *name) {
    int32_t column;
    return rm_read(row, image, name, RM_BLOBS, &column);
}
/* An int, uint, year or bit. False, and 0, where there is no value. */
RM_CHECKED bool rm_get_int_in(rm_row *row, rm_image image, const char *name, int64_t *out) {
    int32_t column;
    rm_text value = rm_read(row, image, name, RM_INTS, &column);
    *out = 0;
    if (!value.at) return false;
    int64_t number = rm_i64(value.at);
    if (number < 0 && row->table->column[column].kind != RM_INT) {
        rm_refuse_number(row, (uint32_t)column, " is ", false, (uint64_t)number);
        return false;
    }
    *out = number;
    return true;
}
RM_CHECKED bool rm_get_uint_in(rm_row *row, rm_image image, const char *name, uint64_t *out) {
    int32_t column;
    rm_text value = rm_read(row, image, name, RM_INTS, &column);
    *out = 0;
    if (!value.at) return false;
    int64_t number = rm_i64(value.at);
    if (number < 0 && row->table->column[column].kind == RM_INT) {
        rm_refuse_number(row, (uint32_t)column, " is ", true, (uint64_t)number);
        return false;
    }
    *out = (uint64_t)number;
    return true;
}
RM_CHECKED bool rm_get_float_in(rm_row *row, rm_image image, const char *name, double *out) {
    int32_t column;
    rm_text value = rm_read(row, image, name, RM_FLOATS, &column);
    *out = 0;
    if (value.at) __builtin_memcpy(out, value.at, 8);
    return value.at != NULL;
}
/* The same in the newest image. */
static inline bool rm_has(const rm_row *row, const char *name) { return rm_has_in(row, RM_NEWEST, name); }
static inline rm_text rm_get_text(rm_row *row, const char *name) { return rm_get_text_in(row, RM_NEWEST, name); }
static inline rm_text rm_get_bytes(rm_row *row, const char *name) { return rm_get_bytes_in(row, RM_NEWEST, name); }
RM_CHECKED bool rm_get_int(rm_row *row, const char *name, int64_t *out) {
    return rm_get_int_in(row, RM_NEWEST, name, out);
}
RM_CHECKED bool rm_get_uint(rm_row *row, const char *name, uint64_t *out) {
    return rm_get_uint_in(row, RM_NEWEST, name, out);
}
RM_CHECKED bool rm_get_float(rm_row *row, const char *name, double *out) {
    return rm_get_float_in(row, RM_NEWEST, name, out);
}

static inline bool rm_cell_equals(const rm_row *row, rm_image image, int32_t column, const char *text) {
    rm_text value;
    return rm_cell(row, image, (uint32_t)column, &value) == RM_VALUE && rm_equals(value, text);
}
/* Whether a text column is this after the change and was not before; of a deleted or read row: false. Where row images are not
 * complete (`binlog_row_image`), a column that is absent after an update was not changed, and one that is absent before
 * counts as another value. */
static inline bool rm_changed_to(rm_row *row, const char *name, const char *text) {
    int32_t column = rm_use(row, RM_NEWEST, name, RM_TEXTS);
    if (column < 0 || row->operation == RM_READ) return false;
    return rm_cell_equals(row, RM_AFTER, column, text) && !rm_cell_equals(row, RM_BEFORE, column, text);
}
/* Whether an update changed a column. One that is absent after it (`binlog_row_image`) was not changed. */
static inline bool rm_changed(rm_row *row, const char *name) {
    rm_text before, after;
    int32_t column = rm_use(row, RM_NEWEST, name, RM_ANY);
    if (column < 0 || row->operation != RM_UPDATE) return false;
    rm_state old = rm_cell(row, RM_BEFORE, (uint32_t)column, &before);
    rm_state state = rm_cell(row, RM_AFTER, (uint32_t)column, &after);
    return state != RM_ABSENT && (state != old || !rm_same(before, after));
}

static const uint8_t *rm_batch;
static uint64_t rm_batch_number; /* counts the calls of rm_process */

RM_COLD void rm_select(rm_condition *condition) {
    uint32_t rows = rm_u32(rm_batch + 4);
    condition->rows.len = 0;
    uint8_t *to = rm_more(&condition->rows, 4 * rows);
    condition->rows.len = 4 * rm_host_select(condition->text, rm_length(condition->text), to);
    condition->batch = rm_batch_number, condition->next = 0;
}
/* Whether the condition holds for the row. The engine evaluates it once for all rows of a batch. */
static inline bool rm_holds(const rm_row *row, rm_condition *condition) {
    if (condition->batch != rm_batch_number) rm_select(condition);
    const rm_buffer *rows = &condition->rows;
    while (condition->next < rows->len && rm_u32(rows->at + condition->next) < row->index) condition->next += 4;
    return condition->next < rows->len && rm_u32(rows->at + condition->next) == row->index;
}

/* The origin of a row. Its texts are valid during the call of transform_row. */
static inline rm_origin rm_origin_of(const rm_row *row) {
    const uint8_t *transactions = rm_batch + rm_u32(rm_batch + 16);
    const uint8_t *transaction = rm_batch + rm_u32(transactions + 4 * rm_u32(row->packed + 8));
    rm_origin out;
    out.file.at = transaction + 32, out.file.len = rm_u32(transaction + 24);
    out.gtid.len = rm_u32(transaction + 28), out.gtid.at = out.gtid.len ? out.file.at + out.file.len : NULL;
    out.position = (uint64_t)rm_i64(row->packed + 24), out.transaction_position = (uint64_t)rm_i64(transaction);
    out.commit_us = rm_i64(transaction + 8);
    out.server_id = rm_u32(transaction + 16), out.session_id = rm_u32(transaction + 20);
    out.is_last = row->packed[5] & 1;
    return out;
}

/* ---- what becomes of a row ---- */

#define RM_ROUTED UINT32_MAX
static uint32_t *rm_sink_numbers; /* of transform_sinks */

static inline void rm_put_no_sink(rm_buffer *out, const char *name) {
    rm_puts(out, "the configuration has no sink `"), rm_puts(out, name), rm_puts(out, "`");
}
RM_COLD uint32_t rm_find_sink(const char *name) {
    uint32_t sink = rm_host_sink(name, rm_length(name));
    if (sink == RM_ROUTED) {
        rm_error.len = 0;
        rm_put_no_sink(&rm_error, name);
        rm_host_log(RM_ERROR, rm_error.at, rm_error.len);
        __builtin_trap();
    }
    return sink;
}
static inline uint32_t rm_sink(const char *name) {
    if (!name) return RM_ROUTED;
    for (uint32_t i = 0; rm_sink_numbers && transform_sinks[i]; i++)
        if (name == transform_sinks[i] || rm_equals(rm_of(name), transform_sinks[i])) return rm_sink_numbers[i];
    return rm_find_sink(name);
}
/* The row stays. */
static inline void rm_keep(rm_row *row) { rm_add(RM_KEEPS, &row->index); }
/* The row stays, and goes to this sink (NULL: as the routes say) in this group (no text: as the routes say). */
static inline void rm_keep_to(rm_row *row, const char *sink, rm_text group) {
    uint32_t words[3] = {row->index, rm_sink(sink), group.len};
    rm_keep(row);
    rm_add(RM_REROUTES, words);
    rm_put(&rm_out[RM_REROUTES].texts, group);
}
static inline void rm_edit(rm_row *row, rm_image image, int32_t column, rm_text value) {
    uint32_t state = value.at ? RM_VALUE : RM_NULL;
    uint32_t words[5] = {row->index, (uint32_t)image, (uint32_t)column, state, value.len};
    rm_add(RM_EDITS, words);
    rm_put(&rm_out[RM_EDITS].texts, value);
}
/* A column of text or bytes gets another value in the after image of a kept row; a column of any kind gets NULL where
 * there is no value. A deleted row has no after image, and stays as it is. */
static inline void rm_set(rm_row *row, const char *name, rm_text value) {
    int32_t column = rm_use(row, RM_NEWEST, name, value.at ? RM_TEXTS | RM_BLOBS : RM_ANY);
    if (column >= 0 && row->after) rm_edit(row, RM_AFTER, column, value);
}
static inline void rm_set_number(rm_row *row, int32_t column, const void *number) {
    rm_text value = {(const uint8_t *)number, 8};
    if (row->after) rm_edit(row, RM_AFTER, column, value);
}
static inline void rm_set_int(rm_row *row, const char *name, int64_t number) {
    int32_t column = rm_use(row, RM_NEWEST, name, RM_INTS);
    if (column < 0) return;
    if (number >= 0 || row->table->column[column].kind == RM_INT) rm_set_number(row, column, &number);
    else rm_refuse_number(row, (uint32_t)column, " cannot be set to ", true, (uint64_t)number);
}
static inline void rm_set_uint(rm_row *row, const char *name, uint64_t number) {
    int32_t column = rm_use(row, RM_NEWEST, name, RM_INTS);
    if (column < 0) return;
    if (number <= INT64_MAX || row->table->column[column].kind != RM_INT) rm_set_number(row, column, &number);
    else rm_refuse_number(row, (uint32_t)column, " cannot be set to ", false, number);
}
static inline void rm_set_float(rm_row *row, const char *name, double number) {
    int32_t column = rm_use(row, RM_NEWEST, name, RM_FLOATS);
    if (column >= 0) rm_set_number(row, column, &number);
}
/* The same as rm_set in each image where the column has a value: what must not get out is hidden by this. */
static inline void rm_replace(rm_row *row, const char *name, rm_text value) {
    static const rm_image images[2] = {RM_BEFORE, RM_AFTER};
    int32_t column = rm_use(row, RM_NEWEST, name, value.at ? RM_TEXTS | RM_BLOBS : RM_ANY);
    for (uint32_t i = 0; column >= 0 && i < 2; i++) {
        rm_text old;
        if (rm_cell(row, images[i], (uint32_t)column, &old) >= RM_VALUE) rm_edit(row, images[i], column, value);
    }
}
/* A message is made of the row. */
static inline void rm_emit(rm_row *row, rm_message message) {
    uint32_t number = rm_emit_count(), sink = rm_sink(message.sink);
    uint32_t words[5] = {row->index, sink, message.group.len, message.deduplication_id.len, message.body.len};
    rm_buffer *texts = &rm_out[RM_EMITS].texts;
    rm_add(RM_EMITS, words);
    rm_put(texts, message.group), rm_put(texts, message.deduplication_id), rm_put(texts, message.body);
    for (uint32_t i = 0; i < message.attribute_count; i++) {
        rm_attribute attribute = message.attributes[i];
        uint32_t lengths[3] = {number, attribute.name.len, attribute.value.len};
        rm_add(RM_ATTRIBUTES, lengths);
        rm_put(&rm_out[RM_ATTRIBUTES].texts, attribute.name), rm_put(&rm_out[RM_ATTRIBUTES].texts, attribute.value);
    }
}
/* The engine makes the recipe's messages of the row, for this sink (NULL: as the routes say). They follow those of
 * rm_emit. */
static inline void rm_write_to(rm_row *row, rm_recipe *recipe, const char *sink) {
    /* The answer to an invalid recipe is UINT32_MAX, so that it stays unknown, and is refused at each use. */
    if (!recipe->number) recipe->number = rm_host_recipe(recipe->json, rm_length(recipe->json)) + 1;
    uint32_t words[3] = {row->index, recipe->number - 1, rm_sink(sink)};
    rm_add(RM_WRITES, words);
}
static inline void rm_write(rm_row *row, rm_recipe *recipe) { rm_write_to(row, recipe, NULL); }
static inline void rm_log(rm_level level, const char *message) { rm_host_log(level, message, rm_length(message)); }
static inline void rm_count(const char *counter, uint64_t n) { rm_host_count(counter, rm_length(counter), n); }
/* The time in microseconds since 1970; 0 unless the plugin's .toml grants the clock. */
static inline uint64_t rm_now(void) { return rm_host_now(); }
/* Puts the value of an environment variable; false if it is not set, or not granted by the plugin's .toml. */
RM_CHECKED bool rm_env(rm_buffer *out, const char *name) {
    uint32_t name_len = rm_length(name), len = rm_host_env(name, name_len, NULL, 0);
    if (len == UINT32_MAX) return false;
    rm_host_env(name, name_len, rm_more(out, len), len);
    return true;
}

/* ---- what the engine calls ---- */

static rm_buffer rm_input;
static rm_table **rm_tables;
static uint32_t rm_table_room;

RM_EXPORT("rowmill_alloc") void *rm_alloc(uint32_t len) {
    rm_input.len = 0;
    return rm_more(&rm_input, len);
}
static inline uint64_t rm_answered(void) { return (uint64_t)(uintptr_t)rm_answer.at << 32 | rm_answer.len; }
static inline rm_text rm_next_text(const uint8_t **at) {
    rm_text text = {*at + 4, rm_u32(*at)};
    *at = text.at + text.len;
    return text;
}
/* Input is used again for the next call: what stays is copied to `to`, which moves past it. */
static inline rm_text rm_kept(rm_text text, uint8_t **to) {
    rm_text out = {*to, text.len};
    if (text.len) __builtin_memcpy(*to, text.at, text.len);
    *to += text.len;
    return out;
}

RM_EXPORT("rowmill_configure") uint64_t rm_configure(const uint8_t *at, uint32_t len) {
    uint32_t status = 0, sinks = 0;
    rm_answer.len = 0;
    rm_words(&rm_answer, &status, 1);
    while (transform_sinks && transform_sinks[sinks]) sinks++;
    if (sinks) rm_sink_numbers = (uint32_t *)rm_take(4 * sinks);
    for (uint32_t i = 0; i < sinks && !status; i++) {
        const char *name = transform_sinks[i];
        rm_sink_numbers[i] = rm_host_sink(name, rm_length(name));
        if (rm_sink_numbers[i] != RM_ROUTED) continue;
        status = 1;
        rm_put_no_sink(&rm_answer, name), rm_puts(&rm_answer, ", which the transform declares");
    }
    if (transform_configure && !status) {
        rm_text settings = {at, len};
        const char *fault = transform_configure(settings);
        if (fault) status = 1, rm_puts(&rm_answer, fault);
    }
    __builtin_memcpy(rm_answer.at, &status, 4);
    return rm_answered();
}

RM_EXPORT("rowmill_describe") uint64_t rm_describe(const uint8_t *at, uint32_t len) {
    uint32_t id = rm_u32(at), columns = rm_u32(at + 4);
    uint32_t size = (uint32_t)sizeof(rm_table) + columns * (uint32_t)sizeof(rm_column) + len;
    /* An id is given to another table once very many came and went: that one takes the place of the first. */
    rm_table *table = id < rm_table_room ? rm_tables[id] : NULL;
    if (!table || table->room < size) {
        table = (rm_table *)rm_take(size);
        table->room = size;
    }
    table->column = (rm_column *)(table + 1);
    uint8_t *texts = (uint8_t *)(table->column + columns);
    table->id = id, table->columns = columns, at += 8;
    table->schema = rm_kept(rm_next_text(&at), &texts), table->name = rm_kept(rm_next_text(&at), &texts);
    for (uint32_t i = 0; i < table->columns; i++) {
        rm_column *column = &table->column[i];
        uint32_t flags = rm_u32(at + 4);
        column->kind = (rm_kind)rm_u32(at), column->nullable = flags & 1, column->key = flags >> 1 & 1;
        column->usable = false, at += 8;
        column->name = rm_kept(rm_next_text(&at), &texts), column->mysql_type = rm_kept(rm_next_text(&at), &texts);
    }
    if (table->id >= rm_table_room) {
        uint32_t room = table->id * 2 + 8;
        rm_table **tables = (rm_table **)rm_take(room * (uint32_t)sizeof *tables);
        for (uint32_t i = 0; i < room; i++) tables[i] = i < rm_table_room ? rm_tables[i] : NULL;
        rm_tables = tables, rm_table_room = room;
    }
    rm_tables[table->id] = table;
    rm_wanted.len = rm_wanted_count = 0;
    table->interest = transform_table(table);
    bool some = table->interest == RM_ALL && rm_wanted_count;
    for (uint32_t i = 0; !some && i < table->columns; i++) table->column[i].usable = true;
    /* 3: some columns; of rows as they were and as they are, inserts, updates and deletes */
    uint32_t words[4] = {0, some ? 3 : (uint32_t)table->interest, 15, rm_wanted_count};
    rm_answer.len = 0;
    rm_words(&rm_answer, words, some ? 4 : 2);
    if (some) rm_put(&rm_answer, rm_built(&rm_wanted));
    return rm_answered();
}

RM_EXPORT("rowmill_process") uint64_t rm_process(const uint8_t *batch, uint32_t len) {
    (void)len;
    rm_batch = batch, rm_batch_number++, rm_retried = false;
    for (uint32_t i = 0; i < RM_LISTS; i++) rm_out[i].items.len = rm_out[i].texts.len = 0;
    uint32_t rows = rm_u32(batch + 4);
    const uint8_t *offsets = batch + rm_u32(batch + 8);
    for (uint32_t i = 0; i < rows; i++) {
        const uint8_t *at = batch + rm_u32(offsets + 4 * i), *first = at + 40;
        rm_row row;
        uint32_t id = rm_u32(at);
        /* Rows of tables that the plugin's .toml excludes are in the batch as well, and were never described. */
        if (id >= rm_table_room || !rm_tables[id]) continue;
        row.table = rm_tables[id], row.operation = (rm_operation)at[4], row.time_us = rm_i64(at + 32);
        row.packed = at, row.index = i, row.failed = false;
        row.before = row.operation == RM_UPDATE || row.operation == RM_DELETE ? first : NULL;
        row.after = row.operation == RM_UPDATE ? first + rm_u32(first) : row.operation == RM_DELETE ? NULL : first;
        switch (row.table->interest) {
        case RM_PASS: rm_keep(&row); break;
        case RM_DROP: break;
        case RM_ALL: transform_row(&row); break;
        }
        if (rm_retried) return rm_answered();
        if (row.failed) {
            for (uint32_t list = RM_KEEPS; list <= RM_EMITS; list++) rm_remove(list, row.index);
            rm_remove(RM_ATTRIBUTES, rm_emit_count());
            rm_remove(RM_WRITES, row.index);
        }
    }
    uint32_t words[2 + RM_LISTS] = {0}, *arena = &words[1 + RM_LISTS];
    for (uint32_t i = 0; i < RM_LISTS; i++) {
        words[1 + i] = rm_out[i].items.len / (4u * rm_item_words[i]);
        *arena += rm_out[i].texts.len;
    }
    rm_answer.len = 0;
    rm_words(&rm_answer, words, 2 + RM_LISTS);
    for (uint32_t i = 0; i < RM_LISTS; i++) rm_put(&rm_answer, rm_built(&rm_out[i].items));
    for (uint32_t i = 0; i < RM_LISTS; i++) rm_put(&rm_answer, rm_built(&rm_out[i].texts));
    return rm_answered();
}

#ifdef __cplusplus
}
#endif
#endif
