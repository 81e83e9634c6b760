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
// A row that is neither kept nor failed is dropped. Texts are compared as UTF-8 bytes: a column is
// decoded into a string only where `text` asks for it.
//
//   asc NAME.ts --outFile NAME.wasm -O3 --use abort=
//
// The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md.

@external("rowmill", "sink")
declare function host_sink(at: usize, len: u32): u32;
@external("rowmill", "log")
declare function host_log(level: u32, at: usize, len: u32): void;
@external("rowmill", "count")
declare function host_count(at: usize, len: u32, n: u64): void;

export enum Interest { Pass, Drop, All }
export enum Operation { Insert = 1, Update, Delete }
export enum Kind { Int, Uint, Float, Decimal, Text, Bytes, Json, Date, Time, Datetime, Timestamp, Year, Bit, Enum, Set, Geometry, Vector }

/** What a transform does. */
export abstract class Transform {
  /** Takes the settings, as JSON; what it returns (but null) stops the engine's start. */
  configure(settings: string): string | null {
    return null;
  }
  /** Which rows of a table it decides on. */
  abstract table(table: Table): Interest;
  /** Decides on a row. */
  abstract row(row: Row): void;
}

/** What was found for a string, by where the string is: those in a program are few and stay there. */
class Found<T> {
  private keys: StaticArray<usize> = new StaticArray<usize>(64);
  private values: StaticArray<T> = new StaticArray<T>(64);
  // Strings that are held can't make room for others in their place.
  private held: StaticArray<string> = new StaticArray<string>(64);

  @inline private slot(text: string): i32 {
    return <i32>((changetype<usize>(text) >> 4) & 63);
  }
  @inline has(text: string): bool {
    return unchecked(this.keys[this.slot(text)]) == changetype<usize>(text);
  }
  @inline get(text: string): T {
    return unchecked(this.values[this.slot(text)]);
  }
  set(text: string, value: T): void {
    const slot = this.slot(text);
    this.keys[slot] = changetype<usize>(text);
    this.values[slot] = value;
    this.held[slot] = text;
  }
}

/** Copies without a call of the host; up to 7 bytes after both pieces of memory may be touched. */
@inline function copy(to: usize, from: usize, len: u32): void {
  for (let i: u32 = 0; i < len; i += 8) store<u64>(to + i, load<u64>(from + i));
}

/** A name in UTF-8, to compare with. */
@unmanaged class Name {
  at: usize;
  len: u32;
}

const known = new Map<string, usize>(), near = new Found<usize>();
/** Strings in a program are few: each is encoded once. */
@inline function name(text: string): Name {
  return changetype<Name>(near.has(text) ? near.get(text) : encoded(text));
}
function encoded(text: string): usize {
  let made: usize = 0;
  if (known.has(text)) made = known.get(text);
  else {
    const len = <u32>String.UTF8.byteLength(text), at = heap.alloc(len + 8);
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, at);
    made = heap.alloc(offsetof<Name>());
    changetype<Name>(made).at = at;
    changetype<Name>(made).len = len;
    known.set(text, made);
  }
  near.set(text, made);
  return made;
}

export class Column {
  wanted: bool = false;
  constructor(public name: string, public mysqlType: string, public kind: Kind, public nullable: bool, public key: bool) {}
}

export class Table {
  interest: Interest = Interest.All;
  columns: Array<Column> = [];
  /** Whether only columns that are wanted are there. */
  narrow: bool = false;
  private found: Found<i32> = new Found<i32>();
  constructor(public id: u32, public schema: string, public name: string) {}

  is(schema: string, name: string): bool {
    return this.schema == schema && this.name == name;
  }
  /** The index of a column; -1 if there is none. */
  column(name: string): i32 {
    return this.found.has(name) ? this.found.get(name) : this.search(name);
  }
  /** Of the table's rows the transform uses this column, and those of which it says the same. The engine needn't decode
   * the others to ask about a row; without a call it uses all. */
  want(name: string): void {
    for (let i = 0; i < this.columns.length; i++) if (this.columns[i].name == name) this.columns[i].wanted = true;
  }
  /** The transform said what it wants. */
  settle(): void {
    for (let i = 0; i < this.columns.length; i++) if (this.columns[i].wanted) this.narrow = this.interest == Interest.All;
    this.found = new Found<i32>();
  }
  private search(name: string): i32 {
    let index = -1;
    for (let i = 0; i < this.columns.length; i++) if (this.columns[i].name == name) index = i;
    // Of a column that it didn't want it would read what isn't so.
    if (index >= 0 && this.narrow && !this.columns[index].wanted) fail(`the transform uses the column \`${name}\`, which isn't among those that it wants`);
    this.found.set(name, index);
    return index;
  }
}

/** Bytes that grow; a few more than asked for may be touched. */
class Bytes {
  at: usize = 0;
  len: u32 = 0;
  room: u32 = 0;
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
  text(text: string): u32 {
    const len = <u32>String.UTF8.byteLength(text);
    String.UTF8.encodeUnsafe(changetype<usize>(text), text.length, this.more(len));
    return len;
  }
}

/** Whether one of eight bytes is a quote, a backslash, a control or the first byte of what SQS refuses. */
@inline function isSpecial(word: u64): bool {
  const ones: u64 = 0x0101010101010101;
  const quote = word ^ (ones * 0x22), backslash = word ^ (ones * 0x5c), refused = word ^ (ones * 0xef);
  const zeros = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) | ((refused - ones) & ~refused);
  return ((zeros | ((word - ones * 0x20) & ~word)) & (ones * 0x80)) != 0;
}

/** JSON, or a plain text, in the making: straight from a row's bytes. */
export class Json {
  bytes: Bytes = new Bytes();
  clear(): this {
    this.bytes.len = 0;
    return this;
  }
  /** What it is already: a piece of a program's own text. */
  put(text: string): this {
    const known = name(text);
    copy(this.bytes.more(known.len), known.at, known.len);
    return this;
  }
  /** An integer column, or null. */
  int(row: Row, column: string): this {
    if (!row.find(column, row.newest()) || row.len != 8) return this.put("null");
    this.digits(load<i64>(row.at));
    return this;
  }
  private digits(number: i64): void {
    let size = <u64>number;
    if (number < 0) {
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
  }
  /** A column as plain text, for groups: a text as it is, an integer in decimal, nothing for NULL. */
  plain(row: Row, column: string): this {
    if (!row.find(column, row.newest())) return this;
    const kind = row.table.columns[row.table.column(column)].kind;
    if (kind == Kind.Int || kind == Kind.Uint || kind == Kind.Year || kind == Kind.Bit) this.digits(load<i64>(row.at));
    else this.bytes.put(row.at, row.len);
    return this;
  }
  /** A text column as a string, or null. What SQS refuses is escaped. */
  text(row: Row, column: string): this {
    if (!row.find(column, row.newest())) return this.put("null");
    const at = row.at, len = row.len, out = this.bytes;
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

/** Nothing goes on: the engine's log and the row's error say this. */
function fail(message: string): void {
  const bytes = String.UTF8.encode(message);
  host_log(0, changetype<usize>(bytes), <u32>bytes.byteLength);
  unreachable();
}

const ROUTED: u32 = u32.MAX_VALUE;
const sinks = new Map<string, u32>();
function sink(text: string): u32 {
  if (text.length == 0) return ROUTED;
  if (sinks.has(text)) return sinks.get(text);
  const known = name(text);
  const number = host_sink(known.at, known.len);
  if (number == ROUTED) {
    fail(`the configuration has no sink \`${text}\``);
  }
  sinks.set(text, number);
  return number;
}

const keeps = new Bytes(), reroutes = new Bytes(), edits = new Bytes(), emits = new Bytes(), fails = new Bytes();
const rerouteText = new Bytes(), editText = new Bytes(), emitText = new Bytes(), failText = new Bytes();

function emitPiece(text: Json): void {
  const bytes = text.bytes;
  emits.u32(bytes.len);
  copy(emitText.more(bytes.len), bytes.at, bytes.len);
}

/** A row change; valid only within `row`. */
export class Row {
  table: Table = new Table(0, "", "");
  operation: Operation = Operation.Insert;
  before: usize = 0;
  after: usize = 0;
  /** When the statement ran, in microseconds since 1970. */
  timeUs: i64 = 0;
  index: u32 = 0;
  /** What `find` found. */
  at: usize = 0;
  len: u32 = 0;

  newest(): usize {
    return this.after ? this.after : this.before;
  }
  /** 0 absent, 1 NULL, 2 a value, 3 what changed in a value. */
  private state(index: i32, image: usize): u32 {
    return (load<u8>(image + 4 + (index >> 2)) >> (<u8>(index & 3) * 2)) & 3;
  }
  /** Finds a column's value in an image; false where it is NULL or absent. */
  find(column: string, image: usize): bool {
    const index = this.table.column(column);
    if (index < 0 || !image) return false;
    const columns = this.table.columns.length;
    const states = (((columns + 3) >> 2) + 3) & ~3;
    if (this.state(index, image) != 2) return false;
    const ends = image + 4 + states;
    const from = index ? load<u32>(ends + 4 * (index - 1)) : 0;
    this.at = ends + 4 * columns + from;
    this.len = load<u32>(ends + 4 * index) - from;
    return true;
  }
  private equals(column: string, image: usize, text: string): bool {
    if (!this.find(column, image)) return false;
    const wanted = name(text);
    return this.len == wanted.len && memory.compare(this.at, wanted.at, this.len) == 0;
  }
  /** Whether a text column is this now; of a deleted row, whether it was. */
  isText(column: string, text: string): bool {
    return this.equals(column, this.newest(), text);
  }
  /** Whether a text column is this now and wasn't before. */
  changedTo(column: string, text: string): bool {
    return this.after != 0 && this.equals(column, this.after, text) && !this.equals(column, this.before, text);
  }
  /** A column's text; null for NULL. */
  text(column: string): string | null {
    return this.find(column, this.newest()) ? String.UTF8.decodeUnsafe(this.at, this.len) : null;
  }
  /** An integer column; `otherwise` for NULL. */
  int(column: string, otherwise: i64 = 0): i64 {
    return this.find(column, this.newest()) && this.len == 8 ? load<i64>(this.at) : otherwise;
  }
  /** The row stays. */
  keep(): void {
    keeps.u32(this.index);
  }
  /** The row stays, and goes to this sink ("": as the routes say) in this group ("": as the routes say). */
  keepTo(to: string, group: string = ""): void {
    this.keep();
    reroutes.u32(this.index);
    reroutes.u32(sink(to));
    reroutes.u32(rerouteText.text(group));
  }
  /** A text column of a kept row gets another value in the row as it is now. */
  set(column: string, text: string): void {
    if (this.after) this.edit(1, column, text);
  }
  /** The same wherever it has a value, in the row as it is now and as it was: what must not get out is hidden by this. */
  replace(column: string, text: string): void {
    const index = this.table.column(column);
    if (index < 0) return;
    if (this.before && this.state(index, this.before) >= 2) this.edit(0, column, text);
    if (this.after && this.state(index, this.after) >= 2) this.edit(1, column, text);
  }
  private edit(image: u32, column: string, text: string): void {
    const index = this.table.column(column);
    if (index < 0) return;
    edits.u32(this.index);
    edits.u32(image);
    edits.u32(index);
    edits.u32(2);
    edits.u32(editText.text(text));
  }
  /** A message is made of the row, in a group (nothing: the row's). */
  emit(body: Json, group: Json = NOTHING, to: string = "", deduplicationId: Json = NOTHING): void {
    emits.u32(this.index);
    emits.u32(sink(to));
    emitPiece(group);
    emitPiece(deduplicationId);
    emitPiece(body);
  }
  /** The row can't be processed; the plugin's `on_error` says what becomes of it. */
  fail(message: string): void {
    fails.u32(this.index);
    fails.u32(failText.text(message));
  }
}

/** A line in the engine's log. */
export function log(message: string): void {
  const bytes = new Bytes();
  bytes.text(message);
  host_log(2, bytes.at, bytes.len);
  heap.free(bytes.at);
}

/** Adds to a counter of the plugin's own. */
export function count(counter: string, n: u64 = 1): void {
  const known = name(counter);
  host_count(known.at, known.len, n);
}

let transform: Transform | null = null;
/** Makes a transform the module's own. */
export function register(t: Transform): void {
  transform = t;
}

const input = new Bytes(), answer = new Bytes();
const tables: Array<Table | null> = [];
const row = new Row();

function answered(): u64 {
  return (<u64>answer.at << 32) | <u64>answer.len;
}

export function rowmill_alloc(len: u32): usize {
  input.len = 0;
  return input.more(len);
}

export function rowmill_configure(at: usize, len: u32): u64 {
  const fault = transform!.configure(String.UTF8.decodeUnsafe(at, len));
  answer.len = 0;
  answer.u32(fault === null ? 0 : 1);
  if (fault !== null) answer.text(fault);
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
    table.columns.push(new Column(name, nextText(), kind, (flags & 1) != 0, (flags & 2) != 0));
  }
  while (<u32>tables.length <= table.id) tables.push(null);
  tables[table.id] = table;
  table.interest = transform!.table(table);
  table.settle();
  answer.len = 0;
  answer.u32(0);
  if (!table.narrow) {
    answer.u32(table.interest);
    return answered();
  }
  let wanted: u32 = 0;
  for (let i = 0; i < table.columns.length; i++) wanted += u32(table.columns[i].wanted);
  answer.u32(3); // some columns
  answer.u32(15); // of rows as they were and as they are, inserts, updates and deletes
  answer.u32(wanted);
  for (let i = 0; i < table.columns.length; i++) if (table.columns[i].wanted) answer.u32(i);
  return answered();
}

export function rowmill_process(batch: usize, len: u32): u64 {
  const lists: StaticArray<Bytes> = [keeps, reroutes, edits, emits, fails];
  const texts: StaticArray<Bytes> = [rerouteText, editText, emitText, failText];
  for (let i = 0; i < 5; i++) lists[i].len = 0;
  for (let i = 0; i < 4; i++) texts[i].len = 0;
  const rows = load<u32>(batch + 4), offsets = batch + load<u32>(batch + 8);
  for (let i: u32 = 0; i < rows; i++) {
    const at = batch + load<u32>(offsets + 4 * i), first = at + 40;
    row.index = i;
    row.table = tables[load<u32>(at)]!;
    row.operation = load<u8>(at + 4);
    row.timeUs = load<i64>(at + 32);
    row.before = row.operation == Operation.Insert ? 0 : first;
    row.after = row.operation == Operation.Insert ? first : row.operation == Operation.Update ? first + load<u32>(first) : 0;
    if (row.table.interest == Interest.Pass) row.keep();
    else if (row.table.interest == Interest.All) transform!.row(row);
  }
  answer.len = 0;
  answer.u32(0);
  answer.u32(keeps.len / 4);
  answer.u32(reroutes.len / 12);
  answer.u32(edits.len / 20);
  answer.u32(emits.len / 20);
  answer.u32(0);
  answer.u32(fails.len / 8);
  answer.u32(rerouteText.len + editText.len + emitText.len + failText.len);
  for (let i = 0; i < 5; i++) answer.put(lists[i].at, lists[i].len);
  for (let i = 0; i < 4; i++) answer.put(texts[i].at, texts[i].len);
  return answered();
}
