// Keeps orders that became paid; drops all other changes of orders.
package main

import "PLUGIN_NAME/rowmill"

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest {
			t.Want("status")
			return t.OnlyIf(t.Is("shop", "orders"))
		},
		Row: func(r *rowmill.Row) {
			if r.ChangedTo("status", "paid") {
				r.Keep()
			}
		},
	})
}

func main() {}
