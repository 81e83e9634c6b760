// Write Rowmill transforms in AssemblyScript: this file is all there is.
//
//   import { Interest, Row, Table, Transform, register } from "./rowmill";
//   export { rowmill_alloc, rowmill_configure, rowmill_describe, rowmill_process } from "./rowmill";
//
//   class Filter extends Transform {
//     table(table: Table): Interest {
//       return table.is("shop", "orders") ? Interest.All : Interest.Pass;
//     }
//     row(row: Row): void {
//       if (row.changedTo("status", "paid")) row.keep();
//     }
//   }
//   register(new Filter());
//
// A row that is neither kept nor failed is dropped.
//
// Names of columns are compared without case. A column that the table lacks, that was not declared, that has another
// kind than the getter reads, or that is absent from the row's image is an error of the row: the language has no
// exceptions, so the getter returns null, false, zero or its default, `row` runs to its end, and the engine is told of
// the row's first error instead of all else that was done for the row. The other rows are not affected.
//
// The engine evaluates conditions and makes messages by recipes (docs/expressions.md). Make both once, as constants of
// the module, and declare the sinks, so that the engine does not start if its configuration lacks one:
//
//   const paid = new Condition("changed_to(status, 'paid') and price * quantity >= 100");
//   const order = new Recipe(`{"body": {"id": "{id}", "sum": "{price * quantity}"}, "group": "customer-{customer}"}`);
//
//     sinks(): string[] {
//       return ["warehouse"];
//     }
//     row(row: Row): void {
//       if (paid.holds(row)) row.write(order, "warehouse");
//     }
//
//   asc NAME.ts --outFile NAME.wasm -O3 --use abort=rowmill/abort
//
// With this option the message and the place of a `throw` or of a failed assertion are part of the engine's error. The
// format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md.

@external("rowmill", "sink")
declare function host_sink(at: usize, len: u32): u32;
@external("rowmill", "log")
declare function host_log(level: u32, at: usize, len: u32): void;
@external("rowmill", "count")
declare function host_count(at: usize, len: u32, n: u64): void;
@external("rowmill", "now")
declare function host_now(): i64;
@external("rowmill", "env")
declare function host_env(at: usize, len: u32, to: usize, room: u32): u32;
@external("rowmill", "recipe")
declare function host_recipe(at: usize, len: u32): u32;
@external("rowmill", "select")
declare function host_select(at: usize, len: u32, to: usize): u32;

export enum Interest { Pass, Drop, All }
/** `Read`: a row that a snapshot read, which has an after image, as an insert has. */
export enum Operation { Insert = 1, Update, Delete, Read }
export enum Level { Error, Warn, Info, Debug, Trace }
export enum Kind {
  Int, Uint, Float, Decimal, Text, Bytes, Json, Date, Time, Datetime, Timestamp, Year, Bit, Enum, Set, Geometry, Vector
}

/** A transform: decides on tables and their rows. */
export abstract class Transform {
  /** Takes the settings, as JSON. An error message, instead of null, stops the engine's start. */
  configure(settings: string): string | null {
    return null;
  }
  /** Returns the names of the sinks that the transform uses. One that the configuration lacks stops the engine's start;
   * a sink that is not named here is looked up when a row uses it. Called after `configure`. */
  sinks(): string[] {
    return [];
  }
  /** Returns whether the transform decides on a table's rows, and may declare the columns that it uses. */
  abstract table(table: Table): Interest;
  /** Decides on a row. */
  abstract row(row: Row): void;
}

/** Copies bytes in steps of 8: up to 7 bytes after both pieces of memory are touched. */
@inline function copy(to: usize, from: usize, len: u32): void {
  for (let i: u32 = 0; i < len; i += 8) store<u64>(to + i, load<u64>(from + i));
}

/** Growing memory. At least 8 bytes of room follow the content. */
class Bytes {
  at: usize = 0;
  len: u32 = 0;
  room: u32 = 0;
  /** Adds bytes, and returns the address at which to write them. */
  @inline more(len: u32): usize {
    if (this.len + len + 8 > this.room) this.grow(len);
    const at = this.at + this.len;
    this.len += len;
    return at;
  }
  private grow(len: u32): void {
    const room = (this.len + len) * 2 + 64;
    const at = heap.alloc(room);
    memory.copy(at, this.at, this.len);
    if (this.at) heap.free(this.at);
    this.at = at;
    this.room = room;
  }
  put(at: usize, len: u32): void {
    memory.copy(this.more(len), at, len);
  }
  @inline byte(value: u8): void {
    store<u8>(this.more(1), value);
  }
  @inline u32(value: u32): void {
    store<u32>(this.more(4), value);
  }
  /** Adds a text in UTF-8, and returns its length in bytes. */
  text(text: string): u32 {
    const len = <u32>String.UTF8.byteLength(text);
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, this.more(len));
    return len;
  }
}

/** The size of a cache of numbers by the addresses of strings: 64 slots of two u32, an address and its number. */
const CACHE_SIZE: usize = 512;
@inline function cacheSlot(cache: usize, text: string): usize {
  return cache + ((changetype<usize>(text) >> 1) & (CACHE_SIZE - 8));
}

/** A text in UTF-8. */
@unmanaged class Utf8 {
  at: usize;
  len: u32;
}

const literals = new Map<string, usize>(), literalCache = memory.data(512, 8);
const scratch = new Bytes(), scratchText = memory.data(8, 8);
/** Returns a text in UTF-8, which may be read until the next call. The literals of the program are encoded once. */
@inline function utf8(text: string): Utf8 {
  const slot = cacheSlot(literalCache, text);
  return changetype<Utf8>(load<usize>(slot) == changetype<usize>(text) ? load<usize>(slot, 4) : encoded(text));
}
function encoded(text: string): usize {
  // Literals are below the heap. Other strings come and go: they are not kept.
  if (changetype<usize>(text) >= __heap_base) {
    scratch.len = 0;
    changetype<Utf8>(scratchText).len = scratch.text(text);
    changetype<Utf8>(scratchText).at = scratch.at;
    return scratchText;
  }
  let made: usize = 0;
  if (literals.has(text)) made = literals.get(text);
  else {
    const len = <u32>String.UTF8.byteLength(text), at = heap.alloc(len + 8);
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, at);
    made = heap.alloc(offsetof<Utf8>());
    changetype<Utf8>(made).at = at;
    changetype<Utf8>(made).len = len;
    literals.set(text, made);
  }
  const slot = cacheSlot(literalCache, text);
  store<usize>(slot, changetype<usize>(text));
  store<usize>(slot, made, 4);
  return made;
}

// What a column can be read as, a bit each.
const TEXT: u32 = 1, INT: u32 = 2, FLOAT: u32 = 4, BYTES: u32 = 8, ANY: u32 = 15;
/** A bit beside these: the column's integers are signed. */
const SIGNED: u32 = 16;
/** The bits of the column's index, above these. */
const INDEX_SHIFT: u32 = 5;

function readAs(kind: Kind): u32 {
  switch (kind) {
    case Kind.Int:
      return INT | SIGNED;
    case Kind.Uint:
    case Kind.Year:
    case Kind.Bit:
      return INT;
    case Kind.Float:
      return FLOAT;
    case Kind.Bytes:
    case Kind.Geometry:
    case Kind.Vector:
      return BYTES;
    default:
      return TEXT;
  }
}
function readAsName(reads: u32): string {
  return reads & TEXT ? "text" : reads & INT ? "an integer" : reads & FLOAT ? "a float" : "bytes";
}

/** Folds case as the engine does: each character by itself, so that a capital sigma at the end is like any other. */
function folded(name: string): string {
  return name.replaceAll("\u03a3", "\u03c3").toLowerCase();
}
/** Returns a name as it is written beside a dot. */
function quoted(name: string): string {
  return name.includes(".") || name.includes("`") ? "`" + name.replaceAll("`", "``") + "`" : name;
}

export class Column {
  /** Whether the transform declared that it uses the column. */
  declared: bool = false;
  /** The name with case folded. */
  folded: string;
  constructor(
    public index: u32,
    public name: string,
    public mysqlType: string,
    public kind: Kind,
    public nullable: bool,
    public key: bool,
  ) {
    this.folded = folded(name);
  }
}

/** A version of a table. */
export class Table {
  interest: Interest = Interest.All;
  columns: Array<Column> = [];
  /** The names of the columns that the transform declared, as it wrote them. None: it may use all columns. */
  wanted: Array<string> = [];
  /** The columns that were found, by the addresses of their names: numbers as `place` returns them. */
  cache: usize = heap.alloc(CACHE_SIZE);
  /** The strings whose addresses are in the cache: none of them may make room for another string. */
  private held: StaticArray<string | null> = new StaticArray<string | null>(64);

  constructor(public id: u32, public schema: string, public name: string) {
    memory.fill(this.cache, 0, CACHE_SIZE);
  }

  is(schema: string, name: string): bool {
    return this.schema == schema && this.name == name;
  }
  /** The names of schema and table, `shop.orders`. A name that has a dot is within backticks. */
  get fullName(): string {
    return quoted(this.schema) + "." + quoted(this.name);
  }
  /** Returns the column of this name, which is compared without case; null if there is none. */
  column(name: string): Column | null {
    for (let i = 0; i < this.columns.length; i++) if (this.columns[i].name == name) return this.columns[i];
    const wanted = folded(name);
    for (let i = 0; i < this.columns.length; i++) if (this.columns[i].folded == wanted) return this.columns[i];
    return null;
  }
  /** Declares, in `Transform.table`, that the transform uses this column and others that it declares. The engine need
   * not decode the other columns of rows that the transform drops, and to use one of them is an error of the row. It is
   * an error of the table if it lacks the column. */
  want(name: string): void {
    this.wanted.push(name);
    const column = this.column(name);
    if (column !== null) column.declared = true;
  }
  /** Returns the index of the column of this name, shifted left by `INDEX_SHIFT`, and what the column can be read as; 0
   * if the table lacks the column or the transform did not declare it. */
  place(name: string): u32 {
    const slot = cacheSlot(this.cache, name);
    if (load<usize>(slot) == changetype<usize>(name)) return load<u32>(slot, 4);
    const column = this.column(name);
    if (column === null || (this.wanted.length > 0 && !column.declared)) return 0;
    const place = (column.index << INDEX_SHIFT) | readAs(column.kind);
    store<usize>(slot, changetype<usize>(name));
    store<u32>(slot, place, 4);
    this.held[<i32>((slot - this.cache) >> 3)] = name;
    return place;
  }
  /** Returns the beginning of an error of a column. */
  title(column: Column): string {
    return "column `" + column.name + "` of " + this.fullName;
  }
}

// The batch that is being processed: its address, the number of its rows, and its number, counted from 1.
let batchAt: usize = 0, batchRows: u32 = 0, batchNumber: u64 = 0;
// The row that is being processed.
let rowAt: usize = 0, rowIndex: u32 = 0;
let rowTable: Table = new Table(0, "", ""), rowCache: usize = 0;
/** Its first error. */
let rowError: string | null = null;
/** The message with which it asked for a retry of the batch. */
let retryMessage: string | null = null;
// The value that `Image.find` found, and its column: a number as `Table.place` returns it.
let valueAt: usize = 0, valueLen: u32 = 0, valueColumn: u32 = 0;

function failRow(message: string): void {
  if (rowError === null && retryMessage === null) rowError = message;
}
@inline function columnOf(place: u32): Column {
  return rowTable.columns[place >> INDEX_SHIFT];
}
/** Returns `Table.place` of a column of the row's table. 0 is an error of the row. */
@inline function placeOf(name: string): u32 {
  const slot = cacheSlot(rowCache, name);
  return load<usize>(slot) == changetype<usize>(name) ? load<u32>(slot, 4) : searchedPlace(name);
}
function searchedPlace(name: string): u32 {
  const place = rowTable.place(name);
  if (place) return place;
  const column = rowTable.column(name);
  if (column === null) failRow(rowTable.fullName + " has no column `" + name + "`");
  else failRow(rowTable.title(column) + " is not among the columns that the transform declares");
  return 0;
}
/** Fails the row, because a column that has this place is not read as one of `reads`. */
function wrongKind(place: u32, reads: u32): void {
  if (!place) return; // it has failed already
  const column = columnOf(place);
  const is = rowTable.title(column) + " is " + column.mysqlType + ", which is read as " + readAsName(place);
  failRow(is + ", not as " + readAsName(reads));
}
/** Returns `Table.place` of a column that is read as one of `reads`. 0 is an error of the row. */
@inline function placeOfKind(name: string, reads: u32): u32 {
  const place = placeOf(name);
  if (place & reads) return place;
  wrongKind(place, reads);
  return 0;
}
const ABSENT: u32 = 0, NULL: u32 = 1, VALUE: u32 = 2;
@inline function stateIn(image: usize, place: u32): u32 {
  const index = place >> INDEX_SHIFT;
  return (load<u8>(image + (index >> 2), 4) >> (<u8>(index & 3) * 2)) & 3;
}
/** Finds the value in an image in which the column's state is 2 or 3. */
@inline function findValue(image: usize, place: u32): void {
  const index = place >> INDEX_SHIFT, columns = <u32>rowTable.columns.length;
  const ends = image + 4 + ((((columns + 3) >> 2) + 3) & ~3);
  const from = index ? load<u32>(ends + 4 * (index - 1)) : 0;
  valueAt = ends + 4 * columns + from;
  valueLen = load<u32>(ends + 4 * index) - from;
}
function badState(place: u32, state: u32): void {
  const what = rowTable.title(columnOf(place));
  if (state == ABSENT) failRow(what + " is absent from the row's image; ask `has` first");
  else failRow(what + " has only its changes: the update was partial");
}
/** Fails the row because of an integer column's value. */
function outOfRange(value: string, type: string): void {
  failRow(rowTable.title(columnOf(valueColumn)) + " is " + value + ", which does not fit " + type);
}
function sameValue(text: string): bool {
  const wanted = utf8(text);
  return valueLen == wanted.len && memory.compare(valueAt, wanted.at, valueLen) == 0;
}
/** Whether a column is this text in an image, which may be 0. */
function isValue(image: usize, place: u32, text: string): bool {
  if (!image || stateIn(image, place) != VALUE) return false;
  findValue(image, place);
  return sameValue(text);
}

/** A row before or after its change; valid only within `Transform.row`. */
export class Image {
  /** The address of the packed image; 0 if the row does not have this image. */
  at: usize = 0;
  constructor(private side: string) {}

  /** Whether the row has this image: inserts have no before image, and deletes no after image. */
  get exists(): bool {
    return this.at != 0;
  }
  /** Whether the image has the column: it does not if the table lacks it, if it was not declared, or if it is absent,
   * as it may be unless `binlog_row_image` is `FULL`. Never fails the row. */
  has(column: string): bool {
    const place = rowTable.place(column);
    return place != 0 && this.at != 0 && stateIn(this.at, place) != ABSENT;
  }
  /** Whether a column of any kind is NULL. */
  isNull(column: string): bool {
    const place = placeOf(column);
    if (!this.at || !place) return this.refuse(place, ANY);
    const state = stateIn(this.at, place);
    if (state == ABSENT) badState(place, state);
    return state == NULL;
  }
  /** Whether a column of a kind that is read as text is this text. */
  isText(column: string, text: string): bool {
    return this.find(column, TEXT) && sameValue(text);
  }
  /** Returns a decimal, text, json, date, time, datetime, timestamp, enum or set column; null for NULL. */
  text(column: string): string | null {
    return this.find(column, TEXT) ? String.UTF8.decodeUnsafe(valueAt, valueLen) : null;
  }
  /** Returns an int, uint, year or bit column; `otherwise` for NULL. A value that does not fit is an error of the row.
   * `isNull` tells NULL from every value. */
  int(column: string, otherwise: i64): i64 {
    if (!this.find(column, INT)) return otherwise;
    const value = load<i64>(valueAt);
    if (value >= 0 || valueColumn & SIGNED) return value;
    outOfRange((<u64>value).toString(), "a signed integer");
    return otherwise;
  }
  /** The same for unsigned integers. */
  uint(column: string, otherwise: u64): u64 {
    if (!this.find(column, INT)) return otherwise;
    const value = load<i64>(valueAt);
    if (value >= 0 || !(valueColumn & SIGNED)) return <u64>value;
    outOfRange(value.toString(), "an unsigned integer");
    return otherwise;
  }
  /** Returns a float column; `otherwise` for NULL. */
  float(column: string, otherwise: f64): f64 {
    return this.find(column, FLOAT) ? load<f64>(valueAt) : otherwise;
  }
  /** Returns a bytes, geometry or vector column; null for NULL. */
  bytes(column: string): Uint8Array | null {
    if (!this.find(column, BYTES)) return null;
    const bytes = new Uint8Array(valueLen);
    memory.copy(bytes.dataStart, valueAt, valueLen);
    return bytes;
  }

  /** Finds the value of a column that is read as one of `reads`; false for NULL and after an error of the row. */
  find(column: string, reads: u32): bool {
    const place = placeOf(column), image = this.at;
    if (!image || !(place & reads)) return this.refuse(place, reads);
    const state = stateIn(image, place);
    if (state == VALUE) {
      findValue(image, place);
      valueColumn = place;
      return true;
    }
    if (state != NULL) badState(place, state);
    return false;
  }
  private refuse(place: u32, reads: u32): bool {
    if (!this.at) failRow("the row has no " + this.side + " image");
    else wrongKind(place, reads);
    return false;
  }
}

/** Whether one of eight bytes is a quote, a backslash, a control or the first byte of a character that SQS refuses. */
@inline function isSpecial(word: u64): bool {
  const ones: u64 = 0x0101010101010101;
  const quote = word ^ (ones * 0x22), backslash = word ^ (ones * 0x5c), refused = word ^ (ones * 0xef);
  const zeros = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((refused - ones) & ~refused);
  return ((zeros | ((word - ones * 0x20) & ~word)) & (ones * 0x80)) != 0;
}

/** JSON, or a plain text, that is built from a row's bytes. The columns are read as by the getters of `Image`, and the
 * errors are the same. */
export class Json {
  bytes: Bytes = new Bytes();
  clear(): this {
    this.bytes.len = 0;
    return this;
  }
  /** Adds a text unchanged. */
  put(text: string): this {
    const known = utf8(text);
    copy(this.bytes.more(known.len), known.at, known.len);
    return this;
  }
  /** Adds a text as a JSON string, or null. A character that SQS refuses is escaped. */
  string(text: string | null): this {
    if (text === null) return this.put("null");
    const known = utf8(text);
    return this.quoted(known.at, known.len);
  }
  /** Adds a text column as a JSON string, or null. A character that SQS refuses is escaped. */
  text(image: Image, column: string): this {
    return image.find(column, TEXT) ? this.quoted(valueAt, valueLen) : this.put("null");
  }
  /** Adds an integer column, signed or unsigned, or null. */
  int(image: Image, column: string): this {
    return image.find(column, INT) ? this.digits() : this.put("null");
  }
  /** Adds a float column, or null. */
  float(image: Image, column: string): this {
    return this.put(image.find(column, FLOAT) ? load<f64>(valueAt).toString() : "null");
  }
  /** Adds a column as plain text, for message groups: a text unchanged, an integer in decimal, nothing for NULL. */
  plain(image: Image, column: string): this {
    if (!image.find(column, placeOf(column) & INT ? INT : TEXT)) return this;
    if (valueColumn & INT) return this.digits();
    this.bytes.put(valueAt, valueLen);
    return this;
  }
  /** Adds the integer that was found. */
  private digits(): this {
    const number = load<i64>(valueAt);
    let size = <u64>number;
    if (number < 0 && valueColumn & SIGNED) {
      this.bytes.byte(0x2d);
      size = 0 - size;
    }
    let digits = 1;
    for (let bound: u64 = 10; size >= bound && digits < 20; bound *= 10) digits++;
    const at = this.bytes.more(digits);
    for (let i = digits - 1; i >= 0; i--) {
      const rest = size / 10;
      store<u8>(at + i, 0x30 + <u8>(size - rest * 10));
      size = rest;
    }
    return this;
  }
  private quoted(at: usize, len: u32): this {
    const out = this.bytes;
    out.byte(0x22);
    let i: u32 = 0;
    for (; i + 8 <= len; i += 8) {
      const word = load<u64>(at + i);
      if (isSpecial(word)) break;
      store<u64>(out.more(8), word);
    }
    for (; i < len; i++) {
      const c = load<u8>(at + i);
      const refused = c == 0xef && i + 2 < len && load<u8>(at + i + 1) == 0xbf && load<u8>(at + i + 2) >= 0xbe;
      if (c >= 0x20 && c != 0x22 && c != 0x5c && !refused) {
        out.byte(c);
      } else if (refused) {
        this.put(load<u8>(at + i + 2) == 0xbe ? "\\ufffe" : "\\uffff");
        i += 2;
      } else if (c < 0x20) {
        this.put(c < 0x10 ? "\\u000" : "\\u001");
        const low = c & 15;
        out.byte(low < 10 ? 0x30 + low : 0x57 + low);
      } else {
        out.byte(0x5c);
        out.byte(c);
      }
    }
    out.byte(0x22);
    return this;
  }
}
const NOTHING = new Json();

const ROUTED: u32 = u32.MAX_VALUE;
const sinkNumbers = new Map<string, u32>();
/** Returns a sink's number; `ROUTED` if the configuration lacks the sink. */
function sinkNumber(name: string): u32 {
  if (sinkNumbers.has(name)) return sinkNumbers.get(name);
  const known = utf8(name);
  const number = host_sink(known.at, known.len);
  if (number != ROUTED) sinkNumbers.set(name, number);
  return number;
}
// The sink that a row used last: rows mostly use the same one.
let lastSink = "", lastSinkNumber = ROUTED;
/** Returns the number of a sink, or `ROUTED` for "". A sink that the configuration lacks is an error of the row. */
function sink(name: string): u32 {
  if (name == lastSink) return lastSinkNumber;
  if (name.length == 0) return ROUTED;
  const number = sinkNumber(name);
  if (number == ROUTED) {
    failRow("the configuration has no sink `" + name + "`");
    return ROUTED;
  }
  lastSink = name;
  lastSinkNumber = number;
  return number;
}

/** A condition that the engine evaluates, for all rows of a batch at once when the first row asks. To be made once, as a
 * constant of the module. */
export class Condition {
  /** The batch whose selected rows are known. */
  private batch: u64 = 0;
  /** The indexes of the selected rows, ascending, and a larger number after them. */
  private selected: Bytes = new Bytes();
  /** The address of the first of these that is not less than the index of the row that asked last. */
  private next: usize = 0;

  /** Takes an expression: docs/expressions.md. */
  constructor(private text: string) {}

  /** Whether the condition is true for the row that is being processed. A text that is not a condition fails the batch,
   * and so does one that does not fit a table with `Interest.All`: begin it with `table() = 'orders' and`. */
  holds(row: Row): bool {
    if (this.batch != batchNumber) this.select();
    let next = this.next;
    while (load<u32>(next) < rowIndex) next += 4;
    this.next = next;
    return load<u32>(next) == rowIndex;
  }
  private select(): void {
    const text = utf8(this.text), selected = this.selected;
    selected.len = 0;
    // `Bytes` has room for the number after the last row.
    const at = selected.more(4 * batchRows);
    store<u32>(at + 4 * host_select(text.at, text.len, at), u32.MAX_VALUE);
    this.next = at;
    this.batch = batchNumber;
  }
}

const INVALID: u32 = u32.MAX_VALUE;
/** A recipe, by which the engine makes messages: see `Row.write`. To be made once, as a constant of the module. */
export class Recipe {
  /** The engine's number of the recipe. An `INVALID` recipe is added again at each use, so that each use fails. */
  private known: u32 = INVALID;

  /** Takes a recipe as JSON: docs/expressions.md. A text that is not a recipe stops the engine's start, or fails the
   * batch if the recipe is made in `Transform.row`. */
  constructor(private json: string) {
    this.number();
  }

  /** Returns the recipe's number. */
  number(): u32 {
    if (this.known == INVALID) {
      const json = utf8(this.json);
      this.known = host_recipe(json.at, json.len);
    }
    return this.known;
  }
}

const REROUTE_SIZE: u32 = 12, EDIT_SIZE: u32 = 20, EMIT_SIZE: u32 = 20, ATTRIBUTE_SIZE: u32 = 12;
const WRITE_SIZE: u32 = 12, FAIL_SIZE: u32 = 8;
const keeps = new Bytes(), reroutes = new Bytes(), edits = new Bytes(), emits = new Bytes();
const attributes = new Bytes(), writes = new Bytes(), fails = new Bytes();
const rerouteText = new Bytes(), editText = new Bytes(), emitText = new Bytes();
const attributeText = new Bytes(), failText = new Bytes();

function emitPiece(text: Json): void {
  const bytes = text.bytes;
  emits.u32(bytes.len);
  copy(emitText.more(bytes.len), bytes.at, bytes.len);
}
const BEFORE: u32 = 0, AFTER: u32 = 1;
/** Sets a column in one of the row's images; the value is added to `editText`. */
function edit(image: u32, place: u32, state: u32, len: u32): void {
  edits.u32(rowIndex);
  edits.u32(image);
  edits.u32(place >> INDEX_SHIFT);
  edits.u32(state);
  edits.u32(len);
}
function editTo(image: u32, place: u32, text: string | null): void {
  if (text === null) edit(image, place, NULL, 0);
  else edit(image, place, VALUE, editText.text(text));
}
const beforeImage = new Image("before"), afterImage = new Image("after");

/** A row change; valid only within `Transform.row`. Its own getters read the newest image: the after image, and of a
 * deleted row the before image. */
export class Row extends Image {
  operation: Operation = Operation.Insert;
  constructor() {
    super("newest");
  }

  get table(): Table {
    return rowTable;
  }
  /** The row before an update or a delete. */
  get before(): Image {
    return beforeImage;
  }
  /** The row after an insert, an update or a snapshot's read. */
  get after(): Image {
    return afterImage;
  }
  /** The time at which the statement ran, in microseconds since 1970. */
  get timeUs(): i64 {
    return load<i64>(rowAt, 32);
  }
  /** The time of the commit, in microseconds since 1970; 0 where the server does not log it. */
  get commitTimeUs(): i64 {
    return load<i64>(this.transaction(), 8);
  }
  /** The GTID of the transaction; null where it has none. */
  get gtid(): string | null {
    const at = this.transaction(), len = load<u32>(at, 28);
    return len ? String.UTF8.decodeUnsafe(at + 32 + load<u32>(at, 24), len) : null;
  }
  /** The name of the binlog file. */
  get file(): string {
    const at = this.transaction();
    return String.UTF8.decodeUnsafe(at + 32, load<u32>(at, 24));
  }
  /** The position of the row's event in the binlog file. */
  get position(): u64 {
    return load<u64>(rowAt, 24);
  }
  /** The position of the transaction in the binlog file. */
  get transactionPosition(): u64 {
    return load<u64>(this.transaction());
  }
  /** The ID of the server on which the transaction first ran. */
  get serverId(): u32 {
    return load<u32>(this.transaction(), 16);
  }
  /** The ID of the session in which the transaction ran; 0 where unknown. */
  get sessionId(): u32 {
    return load<u32>(this.transaction(), 20);
  }
  /** Whether this is the last row of its transaction. */
  get isLastInTransaction(): bool {
    return (load<u8>(rowAt, 5) & 1) != 0;
  }
  /** The row's index in its transaction, from 0. */
  get indexInTransaction(): u32 {
    return load<u32>(rowAt, 12);
  }
  /** The row's index in its binlog event, from 0. */
  get indexInEvent(): u32 {
    return load<u32>(rowAt, 16);
  }
  private transaction(): usize {
    return batchAt + load<u32>(batchAt + load<u32>(batchAt, 16) + 4 * load<u32>(rowAt, 8));
  }

  /** Whether an insert or an update made a column of a kind that is read as text this text, which it was not before;
   * false for deletes and reads. Where row images are not complete (`binlog_row_image`), a column that is absent after an update
   * was not changed, and one that is absent before counts as another value. */
  changedTo(column: string, text: string): bool {
    const place = placeOfKind(column, TEXT);
    if (!place || this.operation == Operation.Read) return false;
    return isValue(afterImage.at, place, text) && !isValue(beforeImage.at, place, text);
  }
  /**
   * Whether an update changed a column of any kind; false for all other operations. A column that is absent after an update
   * (`binlog_row_image`) was not changed.
   */
  changed(column: string): bool {
    const place = placeOf(column);
    if (!place || this.operation != Operation.Update) return false;
    const before = beforeImage.at, after = afterImage.at, state = stateIn(after, place);
    if (state == ABSENT) return false;
    if (state != stateIn(before, place)) return true;
    if (state < VALUE) return false;
    findValue(before, place);
    const at = valueAt, len = valueLen;
    findValue(after, place);
    return valueLen != len || memory.compare(valueAt, at, len) != 0;
  }

  /** Keeps the row. */
  keep(): void {
    keeps.u32(rowIndex);
  }
  /** Keeps the row, and sends it to this sink ("": the route's sink) in this message group ("": the route's group). */
  keepTo(to: string, group: string = ""): void {
    this.keep();
    reroutes.u32(rowIndex);
    reroutes.u32(sink(to));
    reroutes.u32(rerouteText.text(group));
  }
  /** Sets a column of a kept row to a text, or any column to NULL, in the after image. A deleted row is left as it is.
   * Text may be set where a column is read as text or bytes. */
  set(column: string, text: string | null): void {
    const place = placeOfKind(column, text === null ? ANY : TEXT | BYTES);
    if (place && afterImage.at) editTo(AFTER, place, text);
  }
  /** The same for an int, uint, year or bit column. A negative value does not fit the latter three. */
  setInt(column: string, value: i64): void {
    const place = placeOfKind(column, INT);
    if (place && value < 0 && !(place & SIGNED)) this.noRoom(place, value.toString());
    else this.setNumber(place, value);
  }
  /** The same for unsigned integers. A value beyond 2^63 - 1 does not fit an int column. */
  setUint(column: string, value: u64): void {
    const place = placeOfKind(column, INT);
    if (place && <i64>value < 0 && place & SIGNED) this.noRoom(place, value.toString());
    else this.setNumber(place, <i64>value);
  }
  /** The same for a float column. */
  setFloat(column: string, value: f64): void {
    this.setNumber(placeOfKind(column, FLOAT), reinterpret<i64>(value));
  }
  /** Sets a column to a text, or any column to NULL, in each image in which it has a value. Use it to hide what must
   * not get out. */
  replace(column: string, text: string | null): void {
    const place = placeOfKind(column, text === null ? ANY : TEXT | BYTES);
    if (!place) return;
    if (beforeImage.at && stateIn(beforeImage.at, place) >= VALUE) editTo(BEFORE, place, text);
    if (afterImage.at && stateIn(afterImage.at, place) >= VALUE) editTo(AFTER, place, text);
  }
  private setNumber(place: u32, value: i64): void {
    if (!place || !afterImage.at) return;
    edit(AFTER, place, VALUE, 8);
    store<i64>(editText.more(8), value);
  }
  private noRoom(place: u32, value: string): void {
    const column = columnOf(place);
    failRow(rowTable.title(column) + " is " + column.mysqlType + ", which cannot be " + value);
  }

  /** Makes a message of the row, in a message group (nothing: the row's group), for a sink ("": the route's sink). By
   * default the deduplication ID follows from the row's place in the binlog. */
  emit(body: Json, group: Json = NOTHING, to: string = "", deduplicationId: Json = NOTHING): void {
    emits.u32(rowIndex);
    emits.u32(sink(to));
    emitPiece(group);
    emitPiece(deduplicationId);
    emitPiece(body);
  }
  /** Lets the engine make messages of the row by a recipe, for a sink ("": the route's sink). They follow the messages
   * that `emit` makes of the row. A column that the recipe cannot use is an error of the row. */
  write(recipe: Recipe, to: string = ""): void {
    writes.u32(rowIndex);
    writes.u32(recipe.number());
    writes.u32(sink(to));
  }
  /** Adds an attribute, of type String, to the message that `emit` last made of this row. */
  attribute(name: string, value: string): void {
    if (emits.len == 0 || load<u32>(emits.at + emits.len - EMIT_SIZE) != rowIndex) {
      failRow("the attribute `" + name + "` has no message: call `emit` first");
      return;
    }
    attributes.u32(emits.len / EMIT_SIZE - 1);
    attributes.u32(attributeText.text(name));
    attributes.u32(attributeText.text(value));
  }
  /** Fails the row: the plugin's `on_error` decides what becomes of it. The first error of a row counts. */
  fail(message: string): void {
    failRow(message);
  }
  /** Whether the row has failed, by `fail` or an error of a getter. Ask before changing state that outlives the row. */
  get hasFailed(): bool {
    return rowError !== null;
  }
  /** Asks for the whole batch again, after 50 ms, 250 ms and 1 s: a transient failure. The rows after this one are not
   * processed until then. */
  retry(message: string): void {
    if (rowError === null && retryMessage === null) retryMessage = message;
  }
}

/** Writes a line to the engine's log. */
export function log(message: string, level: Level = Level.Info): void {
  const text = utf8(message);
  host_log(level, text.at, text.len);
}

/** Adds to a counter of the plugin. */
export function count(counter: string, n: u64 = 1): void {
  const name = utf8(counter);
  host_count(name.at, name.len, n);
}

/** Returns the time in microseconds since 1970; 0 unless the plugin's .toml grants the clock. */
export function now(): i64 {
  return host_now();
}

/** Returns an environment variable; null if it is not set, or the plugin's .toml does not grant it. */
export function env(name: string): string | null {
  const known = utf8(name), value = new Bytes();
  let room: u32 = 256;
  let len = host_env(known.at, known.len, value.more(room), room);
  if (len != u32.MAX_VALUE && len > room) {
    room = len;
    value.len = 0;
    len = host_env(known.at, known.len, value.more(room), room);
  }
  const text: string | null = len == u32.MAX_VALUE ? null : String.UTF8.decodeUnsafe(value.at, len);
  heap.free(value.at);
  return text;
}

/** Logs the message and the place of a `throw` or of a failed assertion, and traps: the engine's error begins with it.
 * The compiler calls this function if it is given `--use abort=rowmill/abort`. It uses none of the globals above, which
 * are initialized by functions that may call it. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  let text = message === null ? "aborted" : message;
  if (file !== null) text += " (" + file + ":" + line.toString() + ")";
  const bytes = String.UTF8.encode(text);
  host_log(Level.Error, changetype<usize>(bytes), <u32>bytes.byteLength);
  unreachable();
}

let transform: Transform | null = null;
/** Sets the module's transform. */
export function register(t: Transform): void {
  transform = t;
}

const input = new Bytes(), answer = new Bytes();
const tables: Array<Table | null> = [];
const row = new Row();

const DONE: u32 = 0, REJECTED: u32 = 1, RETRY: u32 = 2;

function answered(): u64 {
  return (<u64>answer.at << 32) | <u64>answer.len;
}
function begin(status: u32): void {
  answer.len = 0;
  answer.u32(status);
}

export function rowmill_alloc(len: u32): usize {
  input.len = 0;
  return input.more(len);
}

function configured(settings: string): string | null {
  const error = transform!.configure(settings);
  if (error !== null) return error;
  const names = transform!.sinks();
  for (let i = 0; i < names.length; i++) {
    if (sinkNumber(names[i]) == ROUTED) {
      return "the configuration has no sink `" + names[i] + "`, which the transform declares";
    }
  }
  return null;
}

export function rowmill_configure(at: usize, len: u32): u64 {
  const error = configured(String.UTF8.decodeUnsafe(at, len));
  begin(error === null ? DONE : REJECTED);
  if (error !== null) answer.text(error);
  return answered();
}

let rest: usize = 0;
function nextText(): string {
  const len = load<u32>(rest);
  const text = String.UTF8.decodeUnsafe(rest + 4, len);
  rest += 4 + len;
  return text;
}

export function rowmill_describe(at: usize, len: u32): u64 {
  const columns = load<u32>(at + 4);
  rest = at + 8;
  const schema = nextText();
  const table = new Table(load<u32>(at), schema, nextText());
  for (let i: u32 = 0; i < columns; i++) {
    const kind = load<u32>(rest), flags = load<u32>(rest + 4);
    rest += 8;
    const name = nextText();
    table.columns.push(new Column(i, name, nextText(), kind, (flags & 1) != 0, (flags & 2) != 0));
  }
  while (<u32>tables.length <= table.id) tables.push(null);
  const former = tables[table.id];
  if (former !== null) heap.free(former.cache);
  tables[table.id] = table;
  table.interest = transform!.table(table);
  begin(DONE);
  if (table.interest != Interest.All || table.wanted.length == 0) {
    answer.u32(table.interest);
    return answered();
  }
  answer.u32(3); // the declared columns
  answer.u32(15); // of both images of updates, and of inserts, updates and deletes
  answer.u32(table.wanted.length);
  for (let i = 0; i < table.wanted.length; i++) {
    answer.u32(<u32>String.UTF8.byteLength(table.wanted[i]));
    answer.text(table.wanted[i]);
  }
  return answered();
}

/** Makes a table the one of the next rows; false if the transform does not decide on its rows. */
function enter(id: u32): bool {
  // The tables that the plugin's .toml leaves out are never described.
  const table = id < <u32>tables.length ? tables[id] : null;
  if (table === null || table.interest != Interest.All) return false;
  rowTable = table;
  rowCache = table.cache;
  return true;
}
/** Reports the error of the row. */
function endFailed(): void {
  fails.u32(rowIndex);
  fails.u32(failText.text(rowError!));
  rowError = null;
}

export function rowmill_process(batch: usize, len: u32): u64 {
  const lists: StaticArray<Bytes> = [keeps, reroutes, edits, emits, attributes, writes, fails];
  const texts: StaticArray<Bytes> = [rerouteText, editText, emitText, attributeText, failText];
  for (let i = 0; i < lists.length; i++) lists[i].len = 0;
  for (let i = 0; i < texts.length; i++) texts[i].len = 0;
  rowError = null;
  retryMessage = null;
  batchAt = batch;
  batchNumber++;
  batchRows = load<u32>(batch + 4);
  const rows = batchRows, offsets = batch + load<u32>(batch + 8);
  let tableId = u32.MAX_VALUE, isAsked = false;
  for (let i: u32 = 0; i < rows; i++) {
    const at = batch + load<u32>(offsets + 4 * i), first = at + 40;
    if (load<u32>(at) != tableId) isAsked = enter((tableId = load<u32>(at)));
    if (!isAsked) continue;
    rowAt = at;
    rowIndex = i;
    const operation = load<u8>(at + 4);
    row.operation = operation;
    beforeImage.at = operation == Operation.Update || operation == Operation.Delete ? first : 0;
    if (operation == Operation.Update) afterImage.at = first + load<u32>(first);
    else afterImage.at = operation == Operation.Delete ? 0 : first;
    row.at = afterImage.at ? afterImage.at : first;
    transform!.row(row);
    if (rowError !== null) endFailed();
    if (retryMessage !== null) {
      begin(RETRY);
      answer.text(retryMessage!);
      return answered();
    }
  }
  begin(DONE);
  answer.u32(keeps.len / 4);
  answer.u32(reroutes.len / REROUTE_SIZE);
  answer.u32(edits.len / EDIT_SIZE);
  answer.u32(emits.len / EMIT_SIZE);
  answer.u32(attributes.len / ATTRIBUTE_SIZE);
  answer.u32(writes.len / WRITE_SIZE);
  answer.u32(fails.len / FAIL_SIZE);
  answer.u32(rerouteText.len + editText.len + emitText.len + attributeText.len + failText.len);
  for (let i = 0; i < lists.length; i++) answer.put(lists[i].at, lists[i].len);
  for (let i = 0; i < texts.length; i++) answer.put(texts[i].at, texts[i].len);
  return answered();
}
