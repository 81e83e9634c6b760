// Makes a small message of each change of an order, in a group for each customer.
package main

import (
	"strconv"

	"PLUGIN_NAME/rowmill"
)

var body, group []byte

func reshape(r *rowmill.Row) {
	group = append(group[:0], "customer-"...)
	if customer, ok := r.Int("customer"); ok {
		group = strconv.AppendInt(group, customer, 10)
	}
	body = r.AppendInt(append(body[:0], `{"id":`...), "id")
	if r.Operation == rowmill.Delete {
		body = append(body, `,"deleted":true}`...)
	} else {
		body = r.AppendInt(append(body, `,"customer":`...), "customer")
		body = r.AppendText(append(body, `,"status":`...), "status")
		body = r.AppendText(append(body, `,"total":`...), "total")
		body = r.AppendText(append(body, `,"email":`...), "email")
		body = append(body, '}')
	}
	r.Emit(rowmill.Message{Body: body, Group: string(group)})
}

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest { return t.OnlyIf(t.Is("shop", "orders")) },
		Row:   reshape,
	})
}

func main() {}
