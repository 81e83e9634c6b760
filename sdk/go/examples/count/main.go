// Counts the new orders of each status since the start, and makes a message of each; drops the rows. Its .toml needs
// `instances = 1`, so that one instance sees all rows.
package main

import (
	"strconv"

	"PLUGIN_NAME/rowmill"
)

var counts = map[string]int64{}

func count(r *rowmill.Row) {
	if r.Operation != rowmill.Insert {
		return
	}
	status, ok := r.Text("status")
	if !ok {
		id, _ := r.Int("id")
		r.Fail("order " + strconv.FormatInt(id, 10) + " has no status")
		return
	}
	counts[status]++
	body := rowmill.AppendString([]byte(`{"status":`), status)
	body = strconv.AppendInt(append(body, `,"count":`...), counts[status], 10)
	r.Emit(rowmill.Message{Body: append(body, '}'), Group: status})
}

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest {
			t.Want("id", "status")
			return t.OnlyIf(t.Is("shop", "orders"))
		},
		Row: count,
	})
}

func main() {}
