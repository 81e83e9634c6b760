// Package rowmill is for writing Rowmill transforms in Go:
//
//	package main
//
//	import "PLUGIN_NAME/rowmill"
//
//	func init() {
//		rowmill.Register(rowmill.Transform{
//			Table: func(t *rowmill.Table) rowmill.Interest { return t.OnlyIf(t.Is("shop", "orders")) },
//			Row: func(r *rowmill.Row) {
//				if r.ChangedTo("status", "paid") {
//					r.Keep()
//				}
//			},
//		})
//	}
//
//	func main() {}
//
// A row that is neither kept nor failed is dropped.
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o NAME.wasm .
//
// The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md.
package rowmill

import (
	"encoding/binary"
	"strconv"
	"unsafe"
)

// Interest is which rows of a table a transform decides on.
type Interest uint32

const (
	Pass Interest = iota // none: they pass on untouched
	Drop                 // none: they are dropped
	All                  // all
)

// Operation is what happened to a row.
type Operation uint8

const (
	Insert Operation = 1 + iota
	Update
	Delete
)

// Kind is how a column's values are packed.
type Kind uint32

const (
	Int Kind = iota
	Uint
	Float
	Decimal
	Text
	Bytes
	JSON
	Date
	Time
	Datetime
	Timestamp
	Year
	Bit
	Enum
	Set
	Geometry
	Vector
)

// Transform is what a module does.
type Transform struct {
	// Configure takes the settings, as JSON; an error stops the engine's start. May be nil.
	Configure func(settings string) error
	// Table says which rows of a table it decides on. If it is nil: all.
	Table func(table *Table) Interest
	// Row decides on a row.
	Row func(row *Row)
}

// Column is a column of a table.
type Column struct {
	Name, MySQLType string
	Kind            Kind
	Nullable, Key   bool
}

// Table is a version of a table.
type Table struct {
	ID           uint32
	Schema, Name string
	Columns      []Column
	interest     Interest
	index        map[string]int
	// Columns that were looked up, by where their names are.
	known [16]knownColumn
	// Those that are wanted; none: all.
	wanted map[string]bool
}

type knownColumn struct {
	name  string
	index int
}

// Want says that of the table's rows the transform uses these columns, and those of which it says the same. The engine
// needn't decode the others to ask about a row; without a call it uses all.
func (t *Table) Want(columns ...string) {
	for _, column := range columns {
		if _, ok := t.index[column]; ok {
			t.wanted[column] = true
		}
	}
}

// column is the index of a column. Names mostly are literals, which stay where they are: the map is asked once for each.
func (t *Table) column(name string) (int, bool) {
	at := unsafe.StringData(name)
	known := &t.known[uintptr(unsafe.Pointer(at))%uintptr(len(t.known))]
	if unsafe.StringData(known.name) == at && len(known.name) == len(name) && len(name) > 0 {
		return known.index, true
	}
	index, ok := t.index[name]
	if !ok {
		t.missing(name)
		return 0, false
	}
	*known = knownColumn{name, index}
	return index, true
}

// missing panics if the transform didn't want this column: it would read what isn't so.
func (t *Table) missing(name string) {
	if len(t.wanted) == 0 {
		return
	}
	for _, column := range t.Columns {
		if column.Name == name {
			panic("the transform uses the column `" + name + "`, which isn't among those that it wants")
		}
	}
}

// Is tells whether this is its name.
func (t *Table) Is(schema, name string) bool { return t.Schema == schema && t.Name == name }

// OnlyIf is All if wanted, else Pass.
func (t *Table) OnlyIf(wanted bool) Interest {
	if wanted {
		return All
	}
	return Pass
}

// Row is a row change; it is valid only within Transform.Row.
type Row struct {
	Table     *Table
	Operation Operation
	// TimeUs is when the statement ran, in microseconds since 1970.
	TimeUs        int64
	before, after []byte
	index         uint32
}

// Message is made of a row. All but the body may be left out.
type Message struct {
	Body                           []byte
	Group, DeduplicationID, SinkTo string
}

var le = binary.LittleEndian

func (r *Row) newest() []byte {
	if r.after != nil {
		return r.after
	}
	return r.before
}

func (r *Row) in(image []byte, column string) []byte {
	index, ok := r.Table.column(column)
	if !ok || image == nil {
		return nil
	}
	columns := len(r.Table.Columns)
	states := ((columns+3)/4 + 3) &^ 3
	if image[4+index/4]>>(index%4*2)&3 != 2 {
		return nil
	}
	ends, from := image[4+states:], uint32(0)
	if index > 0 {
		from = le.Uint32(ends[4*(index-1):])
	}
	return ends[4*columns:][from:le.Uint32(ends[4*index:])]
}

// Value is a column's value as it is now (of a deleted row as it was): nil for NULL. It is overwritten by the next batch.
func (r *Row) Value(column string) []byte { return r.in(r.newest(), column) }

// Before is a column's value as it was before an update or a delete.
func (r *Row) Before(column string) []byte { return r.in(r.before, column) }

// HasAfter tells whether there is a row as it is now: not of deletes.
func (r *Row) HasAfter() bool { return r.after != nil }

// Text is a column's text; false for NULL.
func (r *Row) Text(column string) (string, bool) {
	value := r.Value(column)
	return string(value), value != nil
}

// Int is an integer column; false for NULL.
func (r *Row) Int(column string) (int64, bool) {
	value := r.Value(column)
	if len(value) != 8 {
		return 0, false
	}
	return int64(le.Uint64(value)), true
}

// ChangedTo tells whether a text column is this now and wasn't before.
func (r *Row) ChangedTo(column, text string) bool {
	if now := r.in(r.after, column); now == nil || string(now) != text {
		return false
	}
	before := r.Before(column)
	return before == nil || string(before) != text
}

var (
	keeps, reroutes, edits, emits, fails        []byte
	rerouteText, editText, emitText, failText   []byte
	input, answer                               []byte
	tables                                      []*Table
	sinks                                       = map[string]uint32{}
	transform                                   Transform
)

// Register makes a transform the module's own. Call it in an init function.
func Register(t Transform) { transform = t }

func words(list []byte, words ...uint32) []byte {
	for _, word := range words {
		list = le.AppendUint32(list, word)
	}
	return list
}

const routed = 1<<32 - 1

func sink(name string) uint32 {
	if name == "" {
		return routed
	}
	number, ok := sinks[name]
	if !ok {
		number = hostSink(unsafe.StringData(name), uint32(len(name)))
		if number == routed {
			panic("the configuration has no sink `" + name + "`")
		}
		sinks[name] = number
	}
	return number
}

// Keep lets the row stay.
func (r *Row) Keep() { keeps = words(keeps, r.index) }

// KeepTo lets the row stay, and go to this sink ("": as the routes say) in this group ("": as the routes say).
func (r *Row) KeepTo(sinkName, group string) {
	r.Keep()
	reroutes = words(reroutes, r.index, sink(sinkName), uint32(len(group)))
	rerouteText = append(rerouteText, group...)
}

// Set gives a column of a kept row another value in the row as it is now: text, or 8 bytes for a number; nil is NULL.
func (r *Row) Set(column string, value []byte) {
	if r.after != nil {
		r.edit(1, column, value)
	}
}

// Replace does the same wherever the column has a value, in the row as it is now and as it was: what must not get out
// is hidden by this.
func (r *Row) Replace(column string, value []byte) {
	index, ok := r.Table.column(column)
	for number, image := range [][]byte{r.before, r.after} {
		if ok && image != nil && image[4+index/4]>>(index%4*2)&3 >= 2 {
			r.edit(uint32(number), column, value)
		}
	}
}

func (r *Row) edit(image uint32, column string, value []byte) {
	index, ok := r.Table.column(column)
	if !ok {
		return
	}
	state := uint32(2)
	if value == nil {
		state = 1
	}
	edits = words(edits, r.index, image, uint32(index), state, uint32(len(value)))
	editText = append(editText, value...)
}

// Emit makes a message of the row.
func (r *Row) Emit(m Message) {
	emits = words(emits, r.index, sink(m.SinkTo), uint32(len(m.Group)), uint32(len(m.DeduplicationID)), uint32(len(m.Body)))
	emitText = append(emitText, m.Group...)
	emitText = append(emitText, m.DeduplicationID...)
	emitText = append(emitText, m.Body...)
}

// Fail says that the row can't be processed; the plugin's `on_error` says what becomes of it.
func (r *Row) Fail(message string) {
	fails = words(fails, r.index, uint32(len(message)))
	failText = append(failText, message...)
}

// Log writes a line into the engine's log.
func Log(message string) { hostLog(2, unsafe.StringData(message), uint32(len(message))) }

// Count adds to a counter of the plugin's own.
func Count(counter string, n uint64) { hostCount(unsafe.StringData(counter), uint32(len(counter)), n) }

// AppendInt appends an integer column as JSON, or null.
func (r *Row) AppendInt(out []byte, column string) []byte {
	if number, ok := r.Int(column); ok {
		return strconv.AppendInt(out, number, 10)
	}
	return append(out, "null"...)
}

// AppendText appends a text column as a JSON string, or null. What SQS refuses is escaped.
func (r *Row) AppendText(out []byte, column string) []byte {
	text := r.Value(column)
	if text == nil {
		return append(out, "null"...)
	}
	const hex = "0123456789abcdef"
	out = append(out, '"')
	from := 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		refused := c == 0xef && i+2 < len(text) && text[i+1] == 0xbf && text[i+2] >= 0xbe
		if c >= 0x20 && c != '"' && c != '\\' && !refused {
			continue
		}
		out = append(out, text[from:i]...)
		switch {
		case refused:
			out = append(out, `\uff`...)
			out = append(out, 'f')
			out = append(out, hex[text[i+2]-0xbe+14])
			i += 2
		case c < 0x20:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, '\\', c)
		}
		from = i + 1
	}
	out = append(out, text[from:]...)
	return append(out, '"')
}

//go:wasmimport rowmill sink
func hostSink(at *byte, size uint32) uint32

//go:wasmimport rowmill log
func hostLog(level uint32, at *byte, size uint32)

//go:wasmimport rowmill count
func hostCount(at *byte, size uint32, n uint64)

func answered() uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(answer))))<<32 | uint64(len(answer))
}

//go:wasmexport rowmill_alloc
func alloc(size uint32) uint32 {
	if uint32(cap(input)) < size {
		input = make([]byte, size*2+64)
	}
	input = input[:cap(input)]
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(input))))
}

//go:wasmexport rowmill_configure
func configure(_, size uint32) uint64 {
	answer = answer[:0]
	if transform.Configure != nil {
		if err := transform.Configure(string(input[:size])); err != nil {
			answer = append(words(answer, 1), err.Error()...)
			return answered()
		}
	}
	answer = words(answer, 0)
	return answered()
}

//go:wasmexport rowmill_describe
func describe(_, size uint32) uint64 {
	rest := input[8:size]
	next := func() string {
		length := le.Uint32(rest)
		text := string(rest[4 : 4+length])
		rest = rest[4+length:]
		return text
	}
	table := &Table{ID: le.Uint32(input), index: map[string]int{}, wanted: map[string]bool{}}
	count := le.Uint32(input[4:])
	table.Schema, table.Name = next(), next()
	for i := range int(count) {
		column := Column{Kind: Kind(le.Uint32(rest)), Nullable: rest[4]&1 != 0, Key: rest[4]&2 != 0}
		rest = rest[8:]
		column.Name, column.MySQLType = next(), next()
		table.Columns = append(table.Columns, column)
		table.index[column.Name] = i
	}
	for uint32(len(tables)) <= table.ID {
		tables = append(tables, nil)
	}
	tables[table.ID] = table
	table.interest = All
	if transform.Table != nil {
		table.interest = transform.Table(table)
	}
	if table.interest != All || len(table.wanted) == 0 {
		answer = words(answer[:0], 0, uint32(table.interest))
		return answered()
	}
	// 3: some columns; 15: of rows as they were and as they are, inserts, updates and deletes
	answer = words(answer[:0], 0, 3, 15, uint32(len(table.wanted)))
	for i, column := range table.Columns {
		if table.wanted[column.Name] {
			answer = words(answer, uint32(i))
		} else {
			delete(table.index, column.Name)
		}
	}
	return answered()
}

//go:wasmexport rowmill_process
func process(_, size uint32) uint64 {
	for _, list := range []*[]byte{&keeps, &reroutes, &edits, &emits, &fails, &rerouteText, &editText, &emitText, &failText} {
		*list = (*list)[:0]
	}
	batch := input[:size]
	offsets := batch[le.Uint32(batch[8:]):]
	var row Row
	for i := range le.Uint32(batch[4:]) {
		at := batch[le.Uint32(offsets[4*i:]):]
		first := at[40:]
		row = Row{Table: tables[le.Uint32(at)], Operation: Operation(at[4]), TimeUs: int64(le.Uint64(at[32:])), index: i}
		switch row.Operation {
		case Insert:
			row.after = first
		case Update:
			row.before, row.after = first, first[le.Uint32(first):]
		case Delete:
			row.before = first
		}
		switch row.Table.interest {
		case Pass:
			row.Keep()
		case All:
			transform.Row(&row)
		}
	}
	arena := len(rerouteText) + len(editText) + len(emitText) + len(failText)
	answer = words(answer[:0], 0, uint32(len(keeps)/4), uint32(len(reroutes)/12), uint32(len(edits)/20),
		uint32(len(emits)/20), 0, uint32(len(fails)/8), uint32(arena))
	for _, part := range [][]byte{keeps, reroutes, edits, emits, fails, rerouteText, editText, emitText, failText} {
		answer = append(answer, part...)
	}
	return answered()
}
