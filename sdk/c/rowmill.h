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
 * A row that is neither kept nor failed is dropped. Define RM_CONFIGURE before the include to have
 * `const char *transform_configure(rm_text settings)` called once with the settings, as JSON; what it returns
 * (but NULL) stops the engine's start.
 *
 * Build it without a C library:
 *
 *     zig cc -target wasm32-freestanding -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o NAME.wasm NAME.c
 *     clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o NAME.wasm NAME.c
 *
 * The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md. */
#ifndef ROWMILL_H
#define ROWMILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text or bytes, not ended by a zero. `at` is NULL where there is no value: NULL, absent, or no such column. */
typedef struct {
    const uint8_t *at;
    uint32_t len;
} rm_text;

typedef enum { RM_INT, RM_UINT, RM_FLOAT, RM_DECIMAL, RM_STRING, RM_BYTES, RM_JSON, RM_DATE, RM_TIME, RM_DATETIME, RM_TIMESTAMP, RM_YEAR, RM_BIT, RM_ENUM, RM_SET, RM_GEOMETRY, RM_VECTOR } rm_kind;
typedef enum { RM_PASS, RM_DROP, RM_ALL } rm_interest;
typedef enum { RM_INSERT = 1, RM_UPDATE, RM_DELETE } rm_operation;
typedef enum { RM_ABSENT, RM_NULL, RM_VALUE, RM_CHANGES } rm_state;
typedef enum { RM_ERROR, RM_WARN, RM_INFO, RM_DEBUG, RM_TRACE } rm_level;

typedef struct {
    rm_text name, mysql_type;
    rm_kind kind;
    bool nullable, key, wanted;
} rm_column;

/* Once very many tables have come and gone, another may take its place: don't keep its address by yourself. */
typedef struct {
    uint32_t id, columns;
    rm_text schema, name;
    rm_column *column;
    rm_interest interest;
    uint32_t wanted; /* columns; 0: all */
    uint32_t room;   /* bytes of all that is kept of it */
} rm_table;

typedef struct {
    const rm_table *table;
    rm_operation operation;
    const uint8_t *before, *after; /* images; NULL where there is none */
    int64_t time_us;               /* when the statement ran, since 1970 */
    uint32_t index;
} rm_row;

/* What can be said of a message; all but `body` may be left out. */
typedef struct {
    rm_text body, group, deduplication_id;
    const char *sink;
} rm_message;

/* Text that grows. */
typedef struct {
    uint8_t *at;
    uint32_t len, room;
} rm_buffer;

rm_interest transform_table(const rm_table *table);
void transform_row(rm_row *row);

#define RM_IMPORT(name) __attribute__((import_module("rowmill"), import_name(name)))
#define RM_EXPORT(name) __attribute__((export_name(name), visibility("default")))
#ifdef __cplusplus
extern "C" {
#endif
RM_IMPORT("sink") uint32_t rm_host_sink(const void *at, uint32_t len);
RM_IMPORT("log") void rm_host_log(uint32_t level, const void *at, uint32_t len);
RM_IMPORT("count") void rm_host_count(const void *at, uint32_t len, uint64_t n);
RM_IMPORT("now") uint64_t rm_host_now(void);

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

/* ---- tables and rows ---- */

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
static inline bool rm_is(const rm_table *table, const char *schema, const char *name) {
    return rm_equals(table->schema, schema) && rm_equals(table->name, name);
}
/* Of a column that it didn't want it would read what isn't so. */
__attribute__((noinline)) static void rm_unwanted(const char *name) {
    static rm_buffer message;
    message.len = 0;
    rm_puts(&message, "the transform uses the column `"), rm_puts(&message, name);
    rm_puts(&message, "`, which isn't among those that it wants (rm_want)");
    rm_host_log(RM_ERROR, message.at, message.len);
    __builtin_trap();
}
/* The index of a column; -1 if there is none of this name. */
static inline int32_t rm_find(const rm_table *table, const char *name) {
    for (uint32_t i = 0; i < table->columns; i++)
        if (rm_equals(table->column[i].name, name)) {
            if (table->wanted && !table->column[i].wanted) rm_unwanted(name);
            return (int32_t)i;
        }
    return -1;
}
/* In transform_table: of the table's rows it uses this column, and those of which it says the same. The engine needn't
 * decode the others to ask about a row; without a call it uses all. */
static inline void rm_want(const rm_table *table, const char *name) {
    int32_t column = rm_find(table, name);
    if (column >= 0) table->column[column].wanted = true;
}
static inline rm_state rm_cell(const rm_row *row, const uint8_t *image, uint32_t column, rm_text *value) {
    value->at = NULL, value->len = 0;
    if (!image) return RM_ABSENT;
    uint32_t columns = row->table->columns, states = ((columns + 3) / 4 + 3) & ~3u;
    rm_state state = (rm_state)(image[4 + column / 4] >> (column % 4 * 2) & 3);
    if (state < RM_VALUE) return state;
    const uint8_t *ends = image + 4 + states, *data = ends + 4 * columns;
    uint32_t from = column ? rm_u32(ends + 4 * (column - 1)) : 0;
    value->at = data + from;
    value->len = rm_u32(ends + 4 * column) - from;
    return state;
}
static inline const uint8_t *rm_newest(const rm_row *row) { return row->after ? row->after : row->before; }
static inline rm_text rm_bytes_in(const rm_row *row, const uint8_t *image, const char *name) {
    rm_text value = {NULL, 0};
    int32_t column = rm_find(row->table, name);
    if (column >= 0 && rm_cell(row, image, (uint32_t)column, &value) != RM_VALUE) value.at = NULL;
    return value;
}
/* A column's value as it is now (of a deleted row as it was), and as it was before. Numbers are 8 bytes. */
static inline rm_text rm_value(const rm_row *row, const char *name) { return rm_bytes_in(row, rm_newest(row), name); }
static inline rm_text rm_before(const rm_row *row, const char *name) { return rm_bytes_in(row, row->before, name); }
/* An integer column; false where there is no value. */
static inline bool rm_int(const rm_row *row, const char *name, int64_t *out) {
    rm_text value = rm_value(row, name);
    if (value.at && value.len == 8) *out = rm_i64(value.at);
    return value.at && value.len == 8;
}
/* Whether a text column is this now and wasn't before. */
static inline bool rm_changed_to(const rm_row *row, const char *name, const char *text) {
    return row->operation != RM_DELETE && rm_equals(rm_value(row, name), text) && !rm_equals(rm_before(row, name), text);
}

/* ---- what becomes of a row ---- */

static struct {
    rm_buffer keep, reroutes, reroute_text, edits, edit_text, emits, emit_text, fails, fail_text;
} rm_out;

static inline void rm_words(rm_buffer *out, const uint32_t *words, uint32_t count) {
    __builtin_memcpy(rm_more(out, 4 * count), words, 4 * count);
}
#define RM_ROUTED UINT32_MAX
static inline uint32_t rm_sink(const char *name) {
    if (!name) return RM_ROUTED;
    uint32_t sink = rm_host_sink(name, rm_length(name));
    if (sink == RM_ROUTED) {
        static const char message[] = "the configuration has no sink of a name that this transform sends to";
        rm_host_log(RM_ERROR, message, sizeof message - 1);
        __builtin_trap();
    }
    return sink;
}
/* The row stays. */
static inline void rm_keep(rm_row *row) { rm_words(&rm_out.keep, &row->index, 1); }
/* The row stays, and goes to this sink (NULL: as the routes say) in this group (no text: as the routes say). */
static inline void rm_keep_to(rm_row *row, const char *sink, rm_text group) {
    uint32_t words[3] = {row->index, rm_sink(sink), group.len};
    rm_keep(row);
    rm_words(&rm_out.reroutes, words, 3);
    rm_put(&rm_out.reroute_text, group);
}
static inline void rm_edit(rm_row *row, uint32_t image, const char *name, rm_text value) {
    int32_t column = rm_find(row->table, name);
    if (column < 0) return;
    uint32_t words[5] = {row->index, image, (uint32_t)column, value.at ? RM_VALUE : RM_NULL, value.len};
    rm_words(&rm_out.edits, words, 5);
    rm_put(&rm_out.edit_text, value);
}
/* A column of a kept row that has an `after` gets another value there: text, or 8 bytes for a number; NULL without `at`. */
static inline void rm_set(rm_row *row, const char *name, rm_text value) {
    if (row->after) rm_edit(row, 1, name, value);
}
/* The same wherever it has a value, in the row as it is now and as it was: what must not get out is hidden by this. */
static inline void rm_replace(rm_row *row, const char *name, rm_text value) {
    const uint8_t *images[2] = {row->before, row->after};
    int32_t column = rm_find(row->table, name);
    rm_text old;
    for (uint32_t image = 0; column >= 0 && image < 2; image++) {
        rm_state state = rm_cell(row, images[image], (uint32_t)column, &old);
        if (state == RM_VALUE || state == RM_CHANGES) rm_edit(row, image, name, value);
    }
}
/* A message is made of the row. */
static inline void rm_emit(rm_row *row, rm_message message) {
    uint32_t words[5] = {row->index, rm_sink(message.sink), message.group.len, message.deduplication_id.len, message.body.len};
    rm_words(&rm_out.emits, words, 5);
    rm_put(&rm_out.emit_text, message.group);
    rm_put(&rm_out.emit_text, message.deduplication_id);
    rm_put(&rm_out.emit_text, message.body);
}
/* The row can't be processed; the plugin's `on_error` says what becomes of it. */
static inline void rm_fail(rm_row *row, const char *message) {
    uint32_t words[2] = {row->index, rm_length(message)};
    rm_words(&rm_out.fails, words, 2);
    rm_puts(&rm_out.fail_text, message);
}
static inline void rm_log(rm_level level, const char *message) { rm_host_log(level, message, rm_length(message)); }
static inline void rm_count(const char *counter, uint64_t n) { rm_host_count(counter, rm_length(counter), n); }

/* ---- what the engine calls ---- */

static rm_buffer rm_input, rm_answer;
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

#ifdef RM_CONFIGURE
const char *transform_configure(rm_text settings);
RM_EXPORT("rowmill_configure") uint64_t rm_configure(const uint8_t *at, uint32_t len) {
    rm_text settings = {at, len};
    const char *fault = transform_configure(settings);
    uint32_t status = fault ? 1 : 0;
    rm_answer.len = 0;
    rm_words(&rm_answer, &status, 1);
    if (fault) rm_puts(&rm_answer, fault);
    return rm_answered();
}
#endif

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
    table->wanted = 0;
    table->id = id, table->columns = columns, at += 8;
    table->schema = rm_kept(rm_next_text(&at), &texts), table->name = rm_kept(rm_next_text(&at), &texts);
    for (uint32_t i = 0; i < table->columns; i++) {
        rm_column *column = &table->column[i];
        uint32_t flags = rm_u32(at + 4);
        column->kind = (rm_kind)rm_u32(at), column->nullable = flags & 1, column->key = flags >> 1 & 1, column->wanted = false, at += 8;
        column->name = rm_kept(rm_next_text(&at), &texts), column->mysql_type = rm_kept(rm_next_text(&at), &texts);
    }
    if (table->id >= rm_table_room) {
        uint32_t room = table->id * 2 + 8;
        rm_table **tables = (rm_table **)rm_take(room * (uint32_t)sizeof *tables);
        for (uint32_t i = 0; i < room; i++) tables[i] = i < rm_table_room ? rm_tables[i] : NULL;
        rm_tables = tables, rm_table_room = room;
    }
    rm_tables[table->id] = table;
    table->interest = transform_table(table);
    for (uint32_t i = 0; i < table->columns; i++) table->wanted += table->column[i].wanted;
    bool some = table->interest == RM_ALL && table->wanted;
    /* 3: some columns; of rows as they were and as they are, inserts, updates and deletes */
    uint32_t words[4] = {0, some ? 3 : table->interest, 15, table->wanted};
    rm_answer.len = 0;
    rm_words(&rm_answer, words, some ? 4 : 2);
    for (uint32_t i = 0; some && i < table->columns; i++)
        if (table->column[i].wanted) rm_words(&rm_answer, &i, 1);
    return rm_answered();
}

RM_EXPORT("rowmill_process") uint64_t rm_process(const uint8_t *batch, uint32_t len) {
    (void)len;
    rm_out.keep.len = rm_out.reroutes.len = rm_out.reroute_text.len = rm_out.edits.len = rm_out.edit_text.len = 0;
    rm_out.emits.len = rm_out.emit_text.len = rm_out.fails.len = rm_out.fail_text.len = 0;
    uint32_t rows = rm_u32(batch + 4);
    const uint8_t *offsets = batch + rm_u32(batch + 8);
    for (uint32_t i = 0; i < rows; i++) {
        const uint8_t *at = batch + rm_u32(offsets + 4 * i), *first = at + 40;
        rm_row row = {rm_tables[rm_u32(at)], (rm_operation)at[4], NULL, NULL, rm_i64(at + 32), i};
        switch (row.operation) {
        case RM_INSERT: row.after = first; break;
        case RM_DELETE: row.before = first; break;
        case RM_UPDATE: row.before = first, row.after = first + rm_u32(first); break;
        }
        switch (row.table->interest) {
        case RM_PASS: rm_keep(&row); break;
        case RM_DROP: break;
        case RM_ALL: transform_row(&row); break;
        }
    }
    const rm_buffer *texts[4] = {&rm_out.reroute_text, &rm_out.edit_text, &rm_out.emit_text, &rm_out.fail_text};
    const rm_buffer *lists[5] = {&rm_out.keep, &rm_out.reroutes, &rm_out.edits, &rm_out.emits, &rm_out.fails};
    uint32_t arena = 0;
    for (int i = 0; i < 4; i++) arena += texts[i]->len;
    uint32_t words[8] = {0, rm_out.keep.len / 4, rm_out.reroutes.len / 12, rm_out.edits.len / 20, rm_out.emits.len / 20, 0, rm_out.fails.len / 8, arena};
    rm_answer.len = 0;
    rm_words(&rm_answer, words, 8);
    for (int i = 0; i < 5; i++) {
        rm_text list = {lists[i]->at, lists[i]->len};
        rm_put(&rm_answer, list);
    }
    for (int i = 0; i < 4; i++) {
        rm_text text = {texts[i]->at, texts[i]->len};
        rm_put(&rm_answer, text);
    }
    return rm_answered();
}

#ifdef __cplusplus
}
#endif
#endif
