// Calls the getter or setter that a row's column `ask` names: GETTER COLUMN [IMAGE]. The case is in sdk/cases/getters.
package main

import (
	"encoding/hex"
	"strconv"
	"strings"

	"PLUGIN_NAME/rowmill"
)

func table(t *rowmill.Table) rowmill.Interest {
	switch t.Name {
	case "misspelt":
		t.Want("ask", "statuss")
	case "declared":
		t.Want("ask", "NAME")
	}
	return t.OnlyIf(t.Schema == "shop")
}

func row(r *rowmill.Row) {
	text, _ := r.Text("ask")
	words := append(strings.Fields(text), "", "", "")
	ask, column, third := words[0], words[1], words[2]
	image := r.Image
	switch third {
	case "before":
		image = r.Before()
	case "after":
		image = r.After()
	}
	switch ask {
	case "text":
		text, ok := image.Text(column)
		emit(r, rowmill.AppendString(nil, text), ok)
	case "int":
		number, ok := image.Int(column)
		emit(r, strconv.AppendInt(nil, number, 10), ok)
	case "uint":
		number, ok := image.Uint(column)
		emit(r, strconv.AppendUint(nil, number, 10), ok)
	case "float":
		number, ok := image.Float(column)
		emit(r, strconv.AppendFloat(nil, number, 'g', -1, 64), ok)
	case "bytes":
		bytes, ok := image.Bytes(column)
		emit(r, []byte(`"`+hex.EncodeToString(bytes)+`"`), ok)
	case "has":
		// Has is false for an image that the row does not have; the case expects the error of SDKs without such an image.
		if third == "before" && !r.HasBefore() {
			r.Fail("the row has no before image")
			return
		}
		emit(r, strconv.AppendBool(nil, image.Has(column)), true)
	case "changed_to":
		emit(r, strconv.AppendBool(nil, r.ChangedTo(column, third)), true)
	case "changed":
		emit(r, strconv.AppendBool(nil, r.Changed(column)), true)
	case "set":
		r.Set(column, "x")
		r.Keep()
	case "set_int":
		r.SetInt(column, 7)
		r.Keep()
	case "replace":
		r.Replace(column, "x")
		r.Keep()
	case "fail":
		r.Fail("asked to")
	default:
		r.Fail("unknown: " + ask)
	}
}

// emit makes a message of the row, with a value as JSON or null.
func emit(r *rowmill.Row, json []byte, ok bool) {
	if !ok {
		json = []byte("null")
	}
	r.Emit(rowmill.Message{Body: []byte(`{"value":` + string(json) + `}`)})
}

func init() { rowmill.Register(rowmill.Transform{Table: table, Row: row}) }

func main() {}
