// Fails orders with a negative total, and keeps all others. Asks for a retry once, at the first order of an e-mail
// address.
package main

import (
	"strconv"
	"strings"

	"PLUGIN_NAME/rowmill"
)

var retried bool

func validate(r *rowmill.Row) {
	if email, _ := r.Text("email"); email == "later@example.com" && !retried {
		retried = true
		panic(rowmill.Retry("the rates are not there yet"))
	}
	total, _ := r.Text("total")
	if r.Operation != rowmill.Delete && strings.HasPrefix(total, "-") {
		id, _ := r.Int("id")
		r.Fail("order " + strconv.FormatInt(id, 10) + ": the total " + total + " is negative")
		return
	}
	r.Keep()
}

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest {
			t.Want("id", "email", "total")
			return t.OnlyIf(t.Is("shop", "orders"))
		},
		Row: validate,
	})
}

func main() {}
