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
// Columns are read by name; upper and lower case do not count. A getter returns false for NULL. Whatever else has no
// value of the wanted type is an error of the row, never an empty value: a column that the table does not have, that
// the transform does not declare, that is of another kind or absent from the row's image, and a number that does not
// fit. Such an error, and any other panic of the row function, fails the row with its message, and the plugin's
// `on_error` says what becomes of the row. Nothing else that was done for the row counts; other rows are not affected.
//
// The engine evaluates conditions and makes messages by recipes, which Rowmill's docs/expressions.md describes:
//
//	var (
//		paid      = rowmill.NewCondition("changed_to(status, 'paid') and total >= 100")
//		orderPaid = rowmill.NewRecipe(`{"body": {"id": "{id}", "total": "{total}"}, "group": "customer-{customer}"}`)
//	)
//
//	Sinks: []string{"warehouse"},
//	Row: func(r *rowmill.Row) {
//		if paid.Holds(r) {
//			r.WriteTo("warehouse", orderPaid) // r.Write(orderPaid): to the route's sink
//		}
//	},
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o NAME.wasm .
//
// The format is specified in Rowmill's wit/packed-batch.md and wit/core-module.md.
package rowmill

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"unsafe"
)

// Interest is which rows of a table a transform decides on.
type Interest uint32

const (
	Pass Interest = iota // none: they are kept unchanged
	Drop                 // none: they are dropped
	All                  // all
)

// Operation is what happened to a row.
type Operation uint8

const (
	Insert Operation = 1 + iota
	Update
	Delete
	Read // by a snapshot: the row has an after image, as an inserted row has
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

// kindSet is a set of kinds: bit n is kind n.
type kindSet uint32

const (
	texts kindSet = 1<<Decimal | 1<<Text | 1<<JSON | 1<<Date | 1<<Time | 1<<Datetime | 1<<Timestamp | 1<<Enum | 1<<Set
	// Values of Int are signed, those of the others unsigned.
	integers kindSet = 1<<Int | 1<<Uint | 1<<Year | 1<<Bit
	floats   kindSet = 1 << Float
	blobs    kindSet = 1<<Bytes | 1<<Geometry | 1<<Vector
	anyKind  kindSet = 1<<32 - 1
)

func (s kindSet) String() string {
	switch {
	case s&texts != 0:
		return "text"
	case s&integers != 0:
		return "an integer"
	case s&floats != 0:
		return "a float"
	default:
		return "bytes"
	}
}

// Transform is what a module does.
type Transform struct {
	// Sinks declares sinks that the transform sends to: one that the configuration lacks stops the engine's start. A sink
	// that is not declared is looked up when it is first used, and its absence is an error of the row.
	Sinks []string
	// Configure takes the settings, as JSON. An error stops the engine's start. May be nil.
	Configure func(settings string) error
	// Table returns which rows of a table the transform decides on. It must always return the same for the same table
	// version. A panic is an error of the plugin. Nil: all rows of all tables.
	Table func(table *Table) Interest
	// Row decides on a row.
	Row func(row *Row)
}

// Error is the error of a row with which the getters and setters panic.
type Error string

func (e Error) Error() string { return string(e) }

// Retry is a transient failure, with its message. After panic(rowmill.Retry("...")) in Transform.Row the engine calls
// the transform with the same batch again, up to three times within 1.3 s: with all of its rows, but with
// `instances = 1` in the plugin's .toml a batch has one row. What the transform changed in its own state stays changed.
type Retry string

func (r Retry) Error() string { return string(r) }

// Column is a column of a table.
type Column struct {
	Name, MySQLType string
	Kind            Kind
	Nullable, Key   bool
	index           int
	// Some columns were declared, but not this one.
	undeclared bool
	// In an image: the offset of the byte with the column's state, and the state's place in it; the offset of the word
	// before the end of the column's value, which is the end of the value before, but for the first column; and the
	// offset of the data.
	stateAt, shift, endAt, data uint32
}

// Table is a version of a table.
type Table struct {
	ID           uint32
	Schema, Name string
	Columns      []Column
	interest     Interest
	declared     []string
	byName       map[string]*Column
	// Columns that were found, by the addresses of their names.
	known [16]knownColumn
}

type knownColumn struct {
	name   string
	column *Column
}

// Want declares columns that the transform reads or edits, or that its conditions and recipes name (row() names all),
// in addition to those declared before; if none are, all columns may be used. The engine need not decode the other
// columns of rows that are dropped. A name that the table does not have is an error of each of its rows.
func (t *Table) Want(columns ...string) { t.declared = append(t.declared, columns...) }

// Column returns the column of this name, in upper or lower case; nil if the table does not have it.
func (t *Table) Column(name string) *Column {
	if column, ok := t.byName[name]; ok {
		return column
	}
	for i := range t.Columns {
		if strings.EqualFold(t.Columns[i].Name, name) {
			return &t.Columns[i]
		}
	}
	return nil
}

// recall returns the column that was last found by this name; nil if the name must be looked up. Names are mostly
// literals, so addresses and lengths are compared instead of texts.
func (t *Table) recall(name string) *Column {
	known := t.slot(name)
	if unsafe.StringData(known.name) == unsafe.StringData(name) && len(known.name) == len(name) {
		return known.column
	}
	return nil
}

func (t *Table) slot(name string) *knownColumn {
	return &t.known[uintptr(unsafe.Pointer(unsafe.StringData(name)))%uintptr(len(t.known))]
}

// lookUp returns a column that the transform may use.
func (t *Table) lookUp(name string) *Column {
	column := t.Column(name)
	if column == nil {
		panic(Error(t.fullName() + " has no column `" + name + "`"))
	}
	if column.undeclared {
		panic(t.columnError(column, " is not among the columns that the transform declares"))
	}
	*t.slot(name) = knownColumn{name, column}
	return column
}

func (t *Table) fullName() string { return t.Schema + "." + t.Name }

func (t *Table) columnError(column *Column, what string) Error {
	return Error("column `" + column.Name + "` of " + t.fullName() + what)
}

func (t *Table) wrongKind(column *Column, wanted kindSet) Error {
	read := kindSet(1) << column.Kind
	return t.columnError(column, " is "+column.MySQLType+", which is read as "+read.String()+", not as "+wanted.String())
}

func (t *Table) notSigned(column *Column, number uint64) Error {
	return t.columnError(column, " is "+strconv.FormatUint(number, 10)+", which does not fit a signed integer")
}

func (t *Table) notUnsigned(column *Column, number int64) Error {
	return t.columnError(column, " is "+strconv.FormatInt(number, 10)+", which does not fit an unsigned integer")
}

// Is returns whether this is the table's name.
func (t *Table) Is(schema, name string) bool { return t.Schema == schema && t.Name == name }

// OnlyIf returns All if wanted, else Pass.
func (t *Table) OnlyIf(wanted bool) Interest {
	if wanted {
		return All
	}
	return Pass
}

// Row is a row change. It is valid only within Transform.Row.
type Row struct {
	// Image is the newest image: the after image, and of a deleted row the before image. Its getters are the row's.
	*Image
	Table     *Table
	Operation Operation
	// TimeUs is the time at which the statement ran, in microseconds since 1970.
	TimeUs        int64
	before, after Image
	packed        []byte
	index         uint32
}

// Image is a row before or after a change.
type Image struct {
	row *Row
	// Nil if the row does not have this image.
	packed []byte
}

// Message is made of a row. All but the body may be left out: an empty text stands for the row's group, a deduplication
// ID that follows from the row's place in the binlog, and the route's sink.
type Message struct {
	// Body is UTF-8.
	Body                           []byte
	Group, DeduplicationID, SinkTo string
	Attributes                     []Attribute
}

// Attribute is a message attribute of type String.
type Attribute struct{ Name, Value string }

var le = binary.LittleEndian

// Before returns the row's before image. Of an insert, which has none, getters of the image are errors.
func (r *Row) Before() *Image { return &r.before }

// After returns the row's after image. Of a delete, which has none, getters of the image are errors.
func (r *Row) After() *Image { return &r.after }

// HasBefore returns whether the row has a before image: it does unless it was inserted.
func (r *Row) HasBefore() bool { return r.before.packed != nil }

// HasAfter returns whether the row has an after image: it does unless it was deleted.
func (r *Row) HasAfter() bool { return r.after.packed != nil }

// The states of a column in an image.
const (
	stateAbsent = iota
	stateNull
	stateValue
	stateChanges
)

func (i *Image) state(column *Column) byte { return i.packed[column.stateAt] >> column.shift & 3 }

func (i *Image) bytes(column *Column) []byte {
	ends := le.Uint64(i.packed[column.endAt:])
	from, to := uint32(ends), uint32(ends>>32)
	if column.index == 0 {
		from = 0
	}
	return i.packed[column.data+from : column.data+to]
}

// read returns a column of some kinds and its value; nil for NULL.
func (i *Image) read(name string, kinds kindSet) (*Column, []byte) {
	table := i.row.Table
	column := table.recall(name)
	if column == nil {
		column = table.lookUp(name)
	}
	if i.packed == nil {
		panic(i.missing())
	}
	if kinds>>column.Kind&1 == 0 {
		panic(table.wrongKind(column, kinds))
	}
	switch i.state(column) {
	case stateValue:
		return column, i.bytes(column)
	case stateNull:
		return column, nil
	}
	panic(i.valueless(column))
}

func (i *Image) missing() Error {
	if i == &i.row.before {
		return "the row has no before image"
	}
	return "the row has no after image"
}

func (i *Image) valueless(column *Column) Error {
	if i.state(column) == stateChanges {
		return i.row.Table.columnError(column, " has only its changes: the update was partial")
	}
	return i.row.Table.columnError(column, " is absent from the row's image; ask `has` first")
}

// Has returns whether the table has the column and the image contains it, be it NULL. It never fails.
func (i *Image) Has(name string) bool {
	column := i.row.Table.recall(name)
	if column == nil {
		column = i.row.Table.Column(name)
	}
	return column != nil && i.packed != nil && i.state(column) != stateAbsent
}

// Text returns a column of the kinds Decimal, Text, JSON, Date, Time, Datetime, Timestamp, Enum and Set; false for
// NULL.
func (i *Image) Text(name string) (string, bool) {
	_, text := i.read(name, texts)
	return string(text), text != nil
}

// TextBytes returns the same as Text without copying. The bytes are valid only within Transform.Row.
func (i *Image) TextBytes(name string) ([]byte, bool) {
	_, text := i.read(name, texts)
	return text, text != nil
}

// Int returns a column of the kinds Int, Uint, Year and Bit; false for NULL. A number above 2^63 - 1 is an error.
func (i *Image) Int(name string) (int64, bool) {
	column, packed := i.read(name, integers)
	if packed == nil {
		return 0, false
	}
	number := int64(le.Uint64(packed))
	if number < 0 && column.Kind != Int {
		panic(i.row.Table.notSigned(column, uint64(number)))
	}
	return number, true
}

// Uint returns a column of the kinds Int, Uint, Year and Bit; false for NULL. A negative number is an error.
func (i *Image) Uint(name string) (uint64, bool) {
	column, packed := i.read(name, integers)
	if packed == nil {
		return 0, false
	}
	number := int64(le.Uint64(packed))
	if number < 0 && column.Kind == Int {
		panic(i.row.Table.notUnsigned(column, number))
	}
	return uint64(number), true
}

// Float returns a column of the kind Float; false for NULL.
func (i *Image) Float(name string) (float64, bool) {
	_, packed := i.read(name, floats)
	if packed == nil {
		return 0, false
	}
	return math.Float64frombits(le.Uint64(packed)), true
}

// Bytes returns a column of the kinds Bytes, Geometry and Vector; false for NULL. The bytes are valid only within
// Transform.Row.
func (i *Image) Bytes(name string) ([]byte, bool) {
	_, bytes := i.read(name, blobs)
	return bytes, bytes != nil
}

// AppendInt appends a column of the kinds Int, Uint, Year and Bit as JSON: a number, or null.
func (i *Image) AppendInt(out []byte, name string) []byte {
	column, packed := i.read(name, integers)
	switch {
	case packed == nil:
		return append(out, "null"...)
	case column.Kind == Int:
		return strconv.AppendInt(out, int64(le.Uint64(packed)), 10)
	default:
		return strconv.AppendUint(out, le.Uint64(packed), 10)
	}
}

// AppendText appends a column that Text returns as JSON: a string, or null.
func (i *Image) AppendText(out []byte, name string) []byte {
	_, text := i.read(name, texts)
	if text == nil {
		return append(out, "null"...)
	}
	return AppendString(out, unsafe.String(unsafe.SliceData(text), len(text)))
}

// AppendString appends a text as a JSON string. Characters that SQS does not accept are escaped.
func AppendString(out []byte, text string) []byte {
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

// ChangedTo returns whether a column that Text returns has this value and did not have it before: true for an insert
// with it and for an update to it, false for a delete and a read. Where row images are not complete (`binlog_row_image`), a column
// that is absent after an update was not changed, and one that is absent before counts as another value.
func (r *Row) ChangedTo(name, text string) bool {
	column := r.column(name, texts)
	return r.Operation != Read && r.after.is(column, text) && !r.before.is(column, text)
}

func (i *Image) is(column *Column, text string) bool {
	return i.packed != nil && i.state(column) == stateValue && string(i.bytes(column)) == text
}

// Changed returns whether the row is an update that changed a column of any kind. A column that is absent after an update
// (`binlog_row_image`) was not changed.
func (r *Row) Changed(name string) bool {
	column := r.column(name, anyKind)
	if r.Operation != Update || r.after.state(column) == stateAbsent {
		return false
	}
	return r.before.state(column) != r.after.state(column) ||
		string(r.before.bytes(column)) != string(r.after.bytes(column))
}

// column returns a column of some kinds.
func (r *Row) column(name string, kinds kindSet) *Column {
	column := r.Table.recall(name)
	if column == nil {
		column = r.Table.lookUp(name)
	}
	if kinds>>column.Kind&1 == 0 {
		panic(r.Table.wrongKind(column, kinds))
	}
	return column
}

// LastInTransaction returns whether the row is the last one of its transaction.
func (r *Row) LastInTransaction() bool { return r.packed[5]&1 != 0 }

// BinlogPosition returns the position of the row's event in its binlog file.
func (r *Row) BinlogPosition() uint64 { return le.Uint64(r.packed[24:]) }

// BinlogFile returns the name of the binlog file.
func (r *Row) BinlogFile() string {
	transaction := r.transaction()
	return string(transaction[32:][:le.Uint32(transaction[24:])])
}

// GTID returns the transaction's GTID; empty where there is none.
func (r *Row) GTID() string {
	transaction := r.transaction()
	return string(transaction[32+le.Uint32(transaction[24:]):][:le.Uint32(transaction[28:])])
}

// CommitTimeUs returns the time of the commit, in microseconds since 1970; 0 where the server does not log it.
func (r *Row) CommitTimeUs() int64 { return int64(le.Uint64(r.transaction()[8:])) }

func (r *Row) transaction() []byte {
	offsets := batch[le.Uint32(batch[16:]):]
	return batch[le.Uint32(offsets[4*le.Uint32(r.packed[8:]):]):]
}

var (
	// The verdict's lists, and their parts of the arena.
	keeps, reroutes, edits, emits, attributes, writes, fails []byte
	rerouteText, editText, emitText, attributeText, failText []byte
	input, batch, answer                                     []byte
	// The number of calls of process so far.
	batches   uint64
	current   Row
	tables    []*Table
	sinks     = map[string]uint32{}
	recipes   []*Recipe
	transform Transform
)

// Register makes a transform the module's own. Call it in an init function.
func Register(t Transform) { transform = t }

func words(list []byte, words ...uint32) []byte {
	for _, word := range words {
		list = le.AppendUint32(list, word)
	}
	return list
}

// none is the number of the route's sink, and the answer of the engine where it has no sink or variable of a name.
const none = 1<<32 - 1

func sink(name string) uint32 {
	if name == "" {
		return none
	}
	number, ok := sinks[name]
	if !ok {
		if number, ok = findSink(name); !ok {
			panic(Error("the configuration has no sink `" + name + "`"))
		}
	}
	return number
}

// findSink asks the engine for a sink's number; false if the configuration lacks the sink.
func findSink(name string) (uint32, bool) {
	number := hostSink(unsafe.StringData(name), uint32(len(name)))
	if number == none {
		return none, false
	}
	sinks[name] = number
	return number, true
}

// Keep keeps the row.
func (r *Row) Keep() { keeps = words(keeps, r.index) }

// KeepTo keeps the row and sends it to this sink ("": the route's sink) in this message group ("": the route's group).
func (r *Row) KeepTo(sinkName, group string) {
	reroutes = words(reroutes, r.index, sink(sinkName), uint32(len(group)))
	rerouteText = append(rerouteText, group...)
	r.Keep()
}

// Set sets a column of a kept row in its after image, if it has one: a column that Text returns to a text, or one that
// Bytes returns to bytes.
func (r *Row) Set(name, text string) { r.set(r.column(name, texts|blobs), stateValue, bytesOf(text)) }

// SetInt does the same for a column of the kinds Int, Uint, Year and Bit.
func (r *Row) SetInt(name string, number int64) {
	column := r.column(name, integers)
	if number < 0 && column.Kind != Int {
		panic(r.Table.notUnsigned(column, number))
	}
	r.setNumber(column, uint64(number))
}

// SetUint does the same for a column of the kinds Int, Uint, Year and Bit.
func (r *Row) SetUint(name string, number uint64) {
	column := r.column(name, integers)
	if number > math.MaxInt64 && column.Kind == Int {
		panic(r.Table.notSigned(column, number))
	}
	r.setNumber(column, number)
}

// SetFloat does the same for a column of the kind Float.
func (r *Row) SetFloat(name string, number float64) {
	r.setNumber(r.column(name, floats), math.Float64bits(number))
}

// SetNull sets a column of any kind of a kept row to NULL in its after image, if it has one.
func (r *Row) SetNull(name string) { r.set(r.column(name, anyKind), stateNull, nil) }

func (r *Row) setNumber(column *Column, bits uint64) {
	var packed [8]byte
	le.PutUint64(packed[:], bits)
	r.set(column, stateValue, packed[:])
}

func (r *Row) set(column *Column, state uint32, packed []byte) {
	if r.after.packed != nil {
		r.edit(1, column, state, packed)
	}
}

// Replace does the same as Set in both images of the row, wherever the column has a value. Use it to hide what must not
// get out.
func (r *Row) Replace(name, text string) {
	r.replace(r.column(name, texts|blobs), stateValue, bytesOf(text))
}

// ReplaceNull sets a column of any kind to NULL in both images of the row, wherever it has a value.
func (r *Row) ReplaceNull(name string) { r.replace(r.column(name, anyKind), stateNull, nil) }

func (r *Row) replace(column *Column, state uint32, packed []byte) {
	if r.before.packed != nil && r.before.state(column) >= stateValue {
		r.edit(0, column, state, packed)
	}
	if r.after.packed != nil && r.after.state(column) >= stateValue {
		r.edit(1, column, state, packed)
	}
}

func (r *Row) edit(image uint32, column *Column, state uint32, packed []byte) {
	edits = words(edits, r.index, image, uint32(column.index), state, uint32(len(packed)))
	editText = append(editText, packed...)
}

// bytesOf returns the bytes of a text without copying.
func bytesOf(text string) []byte { return unsafe.Slice(unsafe.StringData(text), len(text)) }

// Emit makes a message of the row.
func (r *Row) Emit(m Message) {
	number := uint32(len(emits) / 20)
	emits = words(emits, r.index, sink(m.SinkTo),
		uint32(len(m.Group)), uint32(len(m.DeduplicationID)), uint32(len(m.Body)))
	emitText = append(emitText, m.Group...)
	emitText = append(emitText, m.DeduplicationID...)
	emitText = append(emitText, m.Body...)
	for _, attribute := range m.Attributes {
		attributes = words(attributes, number, uint32(len(attribute.Name)), uint32(len(attribute.Value)))
		attributeText = append(attributeText, attribute.Name...)
		attributeText = append(attributeText, attribute.Value...)
	}
}

// Recipe is a description of messages that the engine makes of rows. Make each recipe once, not for each row.
type Recipe struct {
	text string
	// The engine's number, once it has accepted the recipe.
	number   uint32
	accepted bool
}

// NewRecipe returns a recipe of this JSON. A text that is not a recipe stops the engine's start; if the recipe is made
// after Transform.Configure, it fails the batch in which the recipe is first used.
func NewRecipe(json string) *Recipe {
	recipe := &Recipe{text: json}
	recipes = append(recipes, recipe)
	return recipe
}

// add passes the recipe to the engine, unless the engine has accepted it before. The engine fails the call in which it
// refuses a recipe.
func (r *Recipe) add() {
	if r.accepted {
		return
	}
	r.number = hostRecipe(unsafe.StringData(r.text), uint32(len(r.text)))
	r.accepted = r.number != none
}

// Write makes a message of the row by a recipe, or one for each item of the recipe's `for_each`. A column that the
// recipe names and that the row does not have is an error of the row. Messages of Emit precede those of Write.
func (r *Row) Write(recipe *Recipe) { r.WriteTo("", recipe) }

// WriteTo does the same, and sends the messages to this sink ("": the route's sink).
func (r *Row) WriteTo(sinkName string, recipe *Recipe) {
	if recipe.add(); !recipe.accepted {
		panic(Error("the engine refused the recipe"))
	}
	writes = words(writes, r.index, recipe.number, sink(sinkName))
}

// Condition is an expression over the columns of a row, which the engine evaluates for all rows of a batch at once.
type Condition struct {
	text string
	// The rows of the batch for which the condition holds, ascending; the place of the next one in this list.
	rows []uint32
	next int
	// The batch for which the rows were selected.
	batch uint64
}

// NewCondition returns a condition of this text. A text that is not a condition, and a column that a table does not
// have or the transform does not declare, fails the batch in which the condition is first used.
func NewCondition(text string) *Condition { return &Condition{text: text} }

// Holds returns whether the condition holds for a row; false where it is NULL.
func (c *Condition) Holds(r *Row) bool {
	if c.batch != batches {
		c.selectRows()
	}
	for c.next < len(c.rows) && c.rows[c.next] < r.index {
		c.next++
	}
	return c.next < len(c.rows) && c.rows[c.next] == r.index
}

func (c *Condition) selectRows() {
	if size := int(le.Uint32(batch[4:])); cap(c.rows) < size {
		c.rows = make([]uint32, size)
	}
	c.rows = c.rows[:cap(c.rows)]
	count := hostSelect(unsafe.StringData(c.text), uint32(len(c.text)), unsafe.SliceData(c.rows))
	c.rows, c.next, c.batch = c.rows[:count], 0, batches
}

// Fail says that the row cannot be processed; the plugin's `on_error` says what becomes of it. Nothing else that is
// done for the row counts. Of several failures of a row the first one counts.
func (r *Row) Fail(message string) {
	message = strings.ToValidUTF8(message, "\uFFFD")
	fails = words(fails, r.index, uint32(len(message)))
	failText = append(failText, message...)
}

// Level is the level of a line in the engine's log.
type Level uint32

const (
	LevelError Level = iota
	LevelWarn
	LevelInfo
	LevelDebug
	LevelTrace
)

// Log writes a line to the engine's log, with the plugin's name.
func Log(level Level, message string) {
	hostLog(uint32(level), unsafe.StringData(message), uint32(len(message)))
}

// Count adds to a counter of the plugin.
func Count(counter string, n uint64) { hostCount(unsafe.StringData(counter), uint32(len(counter)), n) }

// NowUs returns the time in microseconds since 1970; false unless the plugin's .toml grants the clock.
func NowUs() (int64, bool) {
	now := hostNow()
	return now, now != 0
}

// Env returns an environment variable; false if it is not set, or the plugin's .toml does not grant it.
func Env(name string) (string, bool) {
	buffer := make([]byte, 256)
	for {
		size := hostEnv(unsafe.StringData(name), uint32(len(name)), unsafe.SliceData(buffer), uint32(len(buffer)))
		if size == none {
			return "", false
		}
		if int(size) <= len(buffer) {
			return string(buffer[:size]), true
		}
		buffer = make([]byte, size)
	}
}

// The status that an answer begins with.
const (
	done     = 0
	rejected = 1
	again    = 2
)

func answered() uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(answer))))<<32 | uint64(len(answer))
}

func failed(err error) uint64 {
	status := uint32(rejected)
	if _, ok := err.(Retry); ok {
		status = again
	}
	answer = append(words(answer[:0], status), err.Error()...)
	return answered()
}

// errorOf returns what a panic says.
func errorOf(panicked any) error {
	switch reason := panicked.(type) {
	case error:
		return reason
	case string:
		return Error(reason)
	case interface{ String() string }:
		return Error(reason.String())
	default:
		return Error("panic with a value that is neither an error nor a text")
	}
}

// try returns the error of a function, or of its panic.
func try(function func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = errorOf(panicked)
		}
	}()
	return function()
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
	for _, name := range transform.Sinks {
		if _, ok := findSink(name); !ok {
			return failed(Error("the configuration has no sink `" + name + "`, which the transform declares"))
		}
	}
	if transform.Configure != nil {
		if err := try(func() error { return transform.Configure(string(input[:size])) }); err != nil {
			return failed(err)
		}
	}
	for _, recipe := range recipes {
		recipe.add()
	}
	answer = words(answer[:0], done)
	return answered()
}

//go:wasmexport rowmill_describe
func describe(_, size uint32) uint64 {
	table := newTable(input[:size])
	for uint32(len(tables)) <= table.ID {
		tables = append(tables, nil)
	}
	tables[table.ID] = table
	table.interest = All
	if transform.Table != nil {
		err := try(func() error {
			table.interest = transform.Table(table)
			return nil
		})
		if err != nil {
			return failed(err)
		}
	}
	if table.interest != All || len(table.declared) == 0 {
		answer = words(answer[:0], done, uint32(table.interest))
		return answered()
	}
	table.markUndeclared()
	// 3: the transform declares what it uses; 15: inserts, updates and deletes, and the before images of updates.
	answer = words(answer[:0], done, 3, 15, uint32(len(table.declared)))
	for _, name := range table.declared {
		answer = append(words(answer, uint32(len(name))), name...)
	}
	return answered()
}

// newTable reads a packed table.
func newTable(packed []byte) *Table {
	table := &Table{ID: le.Uint32(packed), byName: map[string]*Column{}}
	count := int(le.Uint32(packed[4:]))
	rest := packed[8:]
	next := func() string {
		length := le.Uint32(rest)
		text := string(rest[4 : 4+length])
		rest = rest[4+length:]
		return text
	}
	table.Schema, table.Name = next(), next()
	ends := 4 + ((count+3)/4+3)&^3
	table.Columns = make([]Column, count)
	for i := range table.Columns {
		column := &table.Columns[i]
		*column = Column{
			Kind: Kind(le.Uint32(rest)), Nullable: rest[4]&1 != 0, Key: rest[4]&2 != 0, index: i,
			stateAt: uint32(4 + i/4), shift: uint32(i % 4 * 2), endAt: uint32(ends + 4*i - 4), data: uint32(ends + 4*count),
		}
		rest = rest[8:]
		column.Name, column.MySQLType = next(), next()
		table.byName[column.Name] = column
	}
	return table
}

func (t *Table) markUndeclared() {
	for i := range t.Columns {
		t.Columns[i].undeclared = true
	}
	for _, name := range t.declared {
		if column := t.Column(name); column != nil {
			column.undeclared = false
		}
	}
}

//go:wasmexport rowmill_process
func process(_, size uint32) uint64 {
	lists := []*[]byte{
		&keeps, &reroutes, &edits, &emits, &attributes, &writes, &fails,
		&rerouteText, &editText, &emitText, &attributeText, &failText,
	}
	for _, list := range lists {
		*list = (*list)[:0]
	}
	batch = input[:size]
	batches++
	for next, rows := uint32(0), le.Uint32(batch[4:]); next < rows; next = current.index + 1 {
		err := try(func() error { return decide(next, rows) })
		if err == nil {
			break
		}
		if _, ok := err.(Retry); ok {
			return failed(err)
		}
		current.Fail(err.Error())
	}
	arena := len(rerouteText) + len(editText) + len(emitText) + len(attributeText) + len(failText)
	answer = words(answer[:0], done, uint32(len(keeps)/4), uint32(len(reroutes)/12), uint32(len(edits)/20),
		uint32(len(emits)/20), uint32(len(attributes)/12), uint32(len(writes)/12), uint32(len(fails)/8), uint32(arena))
	for _, list := range lists {
		answer = append(answer, *list...)
	}
	return answered()
}

// decide calls the transform for the rows from `next` on. After a panic `current` is the row that failed.
func decide(next, rows uint32) error {
	offsets := batch[le.Uint32(batch[8:]):]
	row := &current
	row.before.row, row.after.row = row, row
	for ; next < rows; next++ {
		packed := batch[le.Uint32(offsets[4*next:]):]
		// Rows of tables that the plugin's .toml excludes are in the batch as well, and were never described.
		id := le.Uint32(packed)
		if id >= uint32(len(tables)) || tables[id] == nil {
			continue
		}
		row.index = next
		row.packed = packed
		row.Table = tables[id]
		row.Operation = Operation(packed[4])
		row.TimeUs = int64(le.Uint64(packed[32:]))
		images := packed[40:]
		row.before.packed, row.after.packed, row.Image = nil, nil, &row.after
		switch row.Operation {
		case Insert, Read:
			row.after.packed = images
		case Update:
			row.before.packed, row.after.packed = images, images[le.Uint32(images):]
		case Delete:
			row.before.packed, row.Image = images, &row.before
		}
		switch row.Table.interest {
		case Pass:
			row.Keep()
		case All:
			transform.Row(row)
		}
	}
	return nil
}
